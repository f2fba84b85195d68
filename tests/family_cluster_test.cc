// Every family through real processes: quantized, evaluated, published, served and exported.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "services/packaging/package_client.h"
#include "services/rpc/rpc.h"
#include "tests/cluster.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/golden_family.h"
#include "worker/reference/reference_model.h"

namespace shiftadd::testing {
namespace {

// Families that a GGUF file cannot hold whole: no architecture, or no field for windows.
const char* const kNotInGguf[] = {"opt", "opt-post-norm", "mistral", "qwen2-windows"};

// A GGUF file has no scale of attention but that of its architecture.
nlohmann::json WithUsualScale(nlohmann::json golden) {
  nlohmann::json& config = golden.at("config");
  if (config.contains("query_pre_attn_scalar"))
    config["query_pre_attn_scalar"] = config["head_dim"];
  return golden;
}

// What all jobs here share; the windows of `text` that are measured.
v1::JobSpec Spec(const std::string& source, const std::string& name, const std::string& text) {
  v1::JobSpec spec;
  spec.set_source("file://" + source);
  spec.mutable_budget()->set_planes(4);
  spec.mutable_calibration()->set_sequences(12);
  spec.mutable_calibration()->set_length(48);
  spec.mutable_evaluation()->set_sequences(4);
  spec.mutable_evaluation()->set_length(48);
  spec.mutable_evaluation()->set_text_digest(text);
  spec.set_output(name);
  return spec;
}

// An exported package, taken as a source, has the package's perplexity, but for its rounding to
// fp16.
void ExpectExport(Cluster* cluster, const std::string& root, const std::string& name,
                  const std::string& text, const std::string& format, double perplexity) {
  const std::string folder = absl::StrCat(root, "/", name, "-", format);
  const RunResult result = RunCommand({Binary("shiftadd-export"), name, folder, "--format", format,
                                       "--packager", cluster->packager_address()});
  const bool fits = format != "gguf" || std::count(std::begin(kNotInGguf), std::end(kNotInGguf),
                                                   absl::string_view(name)) == 0;
  if (!fits) {
    EXPECT_EQ(result.exit_code, 1) << name;
    EXPECT_NE(result.output.find("gguf: "), std::string::npos) << result.output;
    return;
  }
  ASSERT_EQ(result.exit_code, 0) << name << " " << format << ": " << result.output;
  v1::JobSpec spec = Spec(format == "gguf" ? folder + "/model-f16.gguf" : folder,
                          absl::StrCat(name, "-again"), text);
  spec.mutable_recipe()->set_method(v1::METHOD_RTN);
  const auto job = cluster->Submit(spec);
  ASSERT_TRUE(job.ok()) << job.status();
  const auto end = cluster->WaitForSuccess(job->job_id());
  ASSERT_TRUE(end.ok()) << end.status();
  const double found = end->quality().perplexity_full();
  EXPECT_NEAR(found / perplexity, 1, 2e-3) << name << " " << format;
  std::printf("%-14s %-7s perplexity %.5g, the package's %.5g\n", name.c_str(), format.c_str(),
              found, perplexity);
}

// Both sides are measured, and the source is the job's.
void ExpectBench(Cluster* cluster, const std::string& name) {
  const RunResult result = RunCommand(
      {Binary("shiftadd"), "bench", name, "--coordinator", cluster->coordinator_address(),
       "--packager", cluster->packager_address(), "--blobs", cluster->store_dir(), "--device",
       "cpu", "--threads", "1", "--context", "24", "--seconds", "0.01", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const auto json = nlohmann::json::parse(result.output.substr(result.output.find('{')));
  EXPECT_EQ(json.at("source_fault"), "");
  EXPECT_TRUE(json.at("source").is_object());
  EXPECT_GT(json.at("speedup").at("token").get<double>(), 0);
}

// What the server wrote behind `prompt`, against the full-precision executor on the package's own
// weights (as exported): at every place the token of the largest logit, or one that is within 2 %
// of the range of logits of it, which the server's rounding may turn round.
void ExpectGreedy(const std::string& exported, const std::vector<int32_t>& prompt,
                  const std::vector<int32_t>& written) {
  const auto source = ModelSource::Open(exported);
  ASSERT_TRUE(source.ok()) << source.status();
  const auto model = ReferenceModel::Create(source->get(), 1, 0);
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), written.begin(), written.end());
  auto h = (*model)->Embed(ids, 1, static_cast<int64_t>(ids.size()));
  ASSERT_TRUE(h.ok()) << h.status();
  ASSERT_TRUE((*model)->RunBlocks(0, (*model)->spec().blocks, &*h, nullptr).ok());
  std::vector<float> logits;
  ASSERT_TRUE((*model)->Logits(*h, 0, &logits).ok());
  const int64_t vocab = (*model)->spec().vocab;
  size_t same = 0;
  for (size_t i = 0; i < written.size(); ++i) {
    const float* row = logits.data() + static_cast<int64_t>(prompt.size() + i - 1) * vocab;
    const float* best = std::max_element(row, row + vocab);
    const float range = *best - *std::min_element(row, row + vocab);
    EXPECT_LE(*best - row[written[i]], 0.02f * range)
        << "token " << i << ": " << written[i] << ", expected " << best - row;
    same += best - row == written[i] ? 1 : 0;
  }
  EXPECT_GE(same, written.size() - 2);
}

TEST(FamilyClusterTest, QuantizedServedAndExported) {
  const std::string root = NewTempDir("families");
  Cluster cluster(root);
  cluster.AddWorker();
  std::string some_text;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&some_text, "line ", i * 7919 % 1000, " of text\n");
  const auto text = PackageClient::Connect(cluster.packager_address())->WriteBlob(some_text);
  ASSERT_TRUE(text.ok()) << text.status();
  for (const nlohmann::json& one : GoldenFamilies()) {
    const nlohmann::json golden = WithUsualScale(one);
    std::string name = golden.at("name");
    for (char& c : name) c = std::isalnum(c) ? c : '-';
    SCOPED_TRACE(name);
    ASSERT_TRUE(WriteGoldenFamily(golden, absl::StrCat(root, "/", name)).ok());
    v1::JobSpec spec = Spec(absl::StrCat(root, "/", name), name, *text);
    spec.mutable_recipe()->set_method(v1::METHOD_SHIFTADD);
    const auto job = cluster.Submit(spec);
    ASSERT_TRUE(job.ok()) << job.status();
    const auto end = cluster.WaitForEnd(job->job_id());
    ASSERT_TRUE(end.ok()) << end.status();
    ASSERT_EQ(end->state(), v1::JOB_STATE_SUCCEEDED) << end->error() << cluster.Logs();
    for (const char* format : {"hf-fp16", "gguf"}) {
      ExpectExport(&cluster, root, name, *text, format, end->quality().perplexity_quantized());
    }
    ExpectBench(&cluster, name);
    // Four planes of a random model: near it, which a wrong backward pass or rotation would not be.
    EXPECT_GT(end->quality().kl(), 0);
    EXPECT_LT(end->quality().kl(), 0.4) << name;
    EXPECT_LT(end->quality().server_max_logit_error(), 0.05);
    std::printf("%-14s KL %.4f at %.2f stored bits, the server's logits off by %.2g\n",
                name.c_str(), end->quality().kl(), end->quality().stored_bits(),
                end->quality().server_max_logit_error());

    const std::string log = absl::StrCat(root, "/", name, ".log");
    const std::string port_file = absl::StrCat(root, "/", name, ".ports");
    Process server(
        {Binary("shiftadd-server"), "--package", name, "--packager", cluster.packager_address(),
         "--blobs", cluster.store_dir(), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
         "--port-file", port_file, "--precision", "a16"},
        log);
    const std::vector<int> ports = WaitForPorts(port_file, &server, log);
    auto stub =
        v1::GenerateService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", ports[0])));
    v1::GenerateRequest request;
    const std::vector<int32_t> prompt = {11, 85, 200, 33, 307, 24, 98, 150};
    for (const int32_t id : prompt) {
      request.mutable_tokens()->add_ids(static_cast<uint32_t>(id));
    }
    request.set_max_tokens(8);
    request.mutable_sampling()->set_temperature(0);
    request.set_ignore_eos(true);
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(20));
    auto reader = stub->Generate(&context, request);
    std::vector<int32_t> written;
    for (v1::GenerateResponse r; reader->Read(&r);) {
      for (const uint32_t id : r.tokens()) written.push_back(static_cast<int32_t>(id));
    }
    EXPECT_TRUE(reader->Finish().ok());
    ASSERT_EQ(written.size(), 8u);
    ExpectGreedy(absl::StrCat(root, "/", name, "-hf-fp16"), prompt, written);
    server.Signal(SIGTERM);
    EXPECT_EQ(server.Wait(absl::Seconds(10)), 0);
  }
}

}  // namespace
}  // namespace shiftadd::testing
