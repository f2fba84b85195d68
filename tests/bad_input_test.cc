// Bad input through the real binaries and a real cluster: one clear message, the right exit or
// status code, nothing half-done; and a good job still reaches the same digest afterwards.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "services/rpc/rpc.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

constexpr absl::Duration kPatience = absl::Seconds(20);

void ExpectWords(const std::string& text, const Words& words, const std::string& what) {
  for (const std::string& word : words) {
    EXPECT_NE(text.find(word), std::string::npos) << what << ": expected \"" << word << "\" in:\n"
                                                  << text.substr(0, 1500);
  }
  for (const char* crash : {"terminate called", "Segmentation", "AddressSanitizer", "Aborted"}) {
    EXPECT_EQ(text.find(crash), std::string::npos) << what << ":\n" << text;
  }
}

// One cluster with one worker and one model for every test of this program.
class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = NewTempDir("bad_input");
    TinyLlamaOptions options;
    options.hidden = 64;
    options.intermediate = 96;
    options.blocks = 2;
    ASSERT_TRUE(WriteTinyLlamaDirectory(Path("tiny"), options).ok());
    ASSERT_TRUE(WriteTinyLlamaGguf(Path("tiny.gguf"), options).ok());
    cluster_ = new Cluster(root_);
    cluster_->AddWorker();
    digest_ = GoodJob();
    ASSERT_FALSE(digest_.empty());
  }
  static void TearDownTestSuite() {
    delete cluster_;
    std::filesystem::remove_all(root_);
  }
  // Whatever was thrown at it: the same worker lives and the same job gives the same bytes.
  void TearDown() override {
    EXPECT_TRUE(cluster_->worker(0).running()) << cluster_->Logs();
    EXPECT_EQ(GoodJob(), digest_);
  }

  static std::string Path(const std::string& name) { return root_ + "/" + name; }

  static v1::JobSpec Spec(const std::string& source = "tiny") {
    v1::JobSpec spec;
    spec.set_source("file://" + Path(source));
    spec.mutable_recipe()->set_method(v1::METHOD_RTN);
    spec.mutable_budget()->set_planes(3);
    spec.mutable_calibration()->set_sequences(4);
    spec.mutable_calibration()->set_length(16);
    spec.mutable_evaluation()->set_sequences(2);
    spec.set_output("good");
    return spec;
  }

  static std::string GoodJob() {
    const auto job = cluster_->Submit(Spec());
    EXPECT_TRUE(job.ok()) << job.status();
    if (!job.ok()) return "";
    const auto end = cluster_->WaitForEnd(job->job_id(), kPatience);
    EXPECT_TRUE(end.ok()) << end.status();
    if (!end.ok()) return "";
    EXPECT_EQ(end->state(), v1::JOB_STATE_SUCCEEDED) << end->error();
    return end->package_digest();
  }

  // The job is taken and then fails, with a message that has every word.
  static void ExpectFails(const v1::JobSpec& spec, const Words& words, const std::string& what) {
    const auto job = cluster_->Submit(spec);
    ASSERT_TRUE(job.ok()) << what << ": " << job.status();
    const auto end = cluster_->WaitForEnd(job->job_id(), kPatience);
    ASSERT_TRUE(end.ok()) << what << ": " << end.status();
    EXPECT_EQ(end->state(), v1::JOB_STATE_FAILED) << what;
    EXPECT_TRUE(end->package_digest().empty()) << what;
    ExpectWords(end->error(), words, what);
  }

  static RunResult Shiftadd(Words arguments) {
    arguments.insert(arguments.begin(), Binary("shiftadd"));
    return RunCommand(arguments, kPatience,
                      {"SHIFTADD_COORDINATOR=" + cluster_->coordinator_address(),
                       "SHIFTADD_PACKAGER=" + cluster_->packager_address()});
  }
  static void ExpectCli(int exit_code, const Words& arguments, const Words& words) {
    std::string what = "shiftadd";
    for (const std::string& a : arguments) absl::StrAppend(&what, " ", a.substr(0, 100));
    const RunResult result = Shiftadd(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << what << "\n" << result.output;
    ExpectWords(result.output, words, what);
  }
  static void ExpectDaemon(int exit_code, Words arguments, const Words& words) {
    std::string what;
    for (const std::string& a : arguments) absl::StrAppend(&what, a, " ");
    arguments[0] = Binary(arguments[0]);
    const RunResult result = RunCommand(arguments, kPatience);
    EXPECT_EQ(result.exit_code, exit_code) << what << "\n" << result.output;
    ExpectWords(result.output, words, what);
  }

  // A copy of the good folder with one file put through `change`.
  static std::string Damaged(const std::string& name, const std::string& file,
                             const std::function<void(std::string*)>& change) {
    std::filesystem::copy(Path("tiny"), Path(name));
    std::string data = ReadFile(Path(name) + "/" + file);
    change(&data);
    WriteFile(Path(name) + "/" + file, data);
    return name;
  }
  static std::string WithConfig(const std::string& name, const std::string& field,
                                const json& value) {
    return Damaged(name, "config.json", [&](std::string* data) {
      json config = json::parse(*data);
      config[field] = value;
      *data = config.dump();
    });
  }

  static Cluster* cluster_;
  static std::string root_, digest_;
};
Cluster* BadInputTest::cluster_ = nullptr;
std::string BadInputTest::root_, BadInputTest::digest_;

// The bytes [begin, end) of the first tensor whose name holds `name`, in a safetensors file.
std::pair<size_t, size_t> SpanOf(const std::string& file, const std::string& name) {
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof(header));
  const json tensors = json::parse(file.substr(8, header));
  for (const auto& [key, tensor] : tensors.items()) {
    if (!absl::StrContains(key, name)) continue;
    const size_t data = 8 + header, begin = tensor["data_offsets"][0],
                 end = tensor["data_offsets"][1];
    return {data + begin, data + end};
  }
  ADD_FAILURE() << "no tensor " << name;
  return {0, 0};
}

// Writes `value` over the first number of a tensor.
void Poison(std::string* file, const std::string& name, float value) {
  const size_t begin = SpanOf(*file, name).first;
  std::memcpy(file->data() + begin, &value, sizeof(value));
}

void ZeroTensor(std::string* file, const std::string& name) {
  const auto [begin, end] = SpanOf(*file, name);
  std::fill(file->begin() + begin, file->begin() + end, '\0');
}

void Replace(std::string* data, const std::string& from, const std::string& to) {
  const size_t at = data->find(from);
  ASSERT_NE(at, std::string::npos) << from;
  data->replace(at, from.size(), to);
}

TEST_F(BadInputTest, SourcesThatAreNone) {
  std::filesystem::create_directories(Path("bare"));
  ExpectFails(Spec("absent"), {"absent", "No such file"}, "absent");
  ExpectFails(Spec("bare"), {"config.json", "missing"}, "a folder without a model");
  v1::JobSpec outside = Spec();
  outside.set_source("file:///etc");
  ExpectFails(outside, {"/etc", "--source-root"}, "outside the root");
  const RunResult made = RunCommand({"mkfifo", Path("fifo.gguf")});
  ASSERT_EQ(made.exit_code, 0);
  ExpectFails(Spec("fifo.gguf"), {"not a regular file"}, "a pipe");
}

TEST_F(BadInputTest, DamagedGguf) {
  const std::string good = ReadFile(Path("tiny.gguf"));
  const auto file = [](const std::string& name, const std::string& data) {
    WriteFile(Path(name), data);
    return Spec(name);
  };
  ExpectFails(file("empty.gguf", ""), {"empty.gguf", "magic"}, "empty");
  ExpectFails(file("magic.gguf", "XXXX" + good.substr(4)), {"XXXX", "GGUF"}, "magic");
  ExpectFails(file("cut.gguf", good.substr(0, good.size() * 2 / 3)), {"cut.gguf", "truncated"},
              "cut in the data");
  ExpectFails(file("head.gguf", good.substr(0, 200)), {"head.gguf", "more than the file can hold"},
              "cut header");
  std::string name = good;
  Replace(&name, "blk.0.attn_q",
          "blk.0\xff"
          "attn_q");
  ExpectFails(file("name.gguf", name), {"UTF-8"}, "a name that is no text");
  // Flipped bits: any end but a crash or a hang; what is refused is refused with a message.
  for (size_t i = 0; i < 6; ++i) {
    std::string flipped = good;
    for (size_t k = 0; k < 4; ++k)
      flipped[(i * 2503 + k * 701 + 8) % 9000] ^= char(1 << (k + i) % 8);
    const auto job = cluster_->Submit(file(absl::StrCat("flip", i, ".gguf"), flipped));
    ASSERT_TRUE(job.ok()) << job.status();
    const auto end = cluster_->WaitForEnd(job->job_id(), kPatience);
    ASSERT_TRUE(end.ok()) << "flip " << i << ": " << end.status();
    EXPECT_EQ(end->state() == v1::JOB_STATE_FAILED, !end->error().empty());
  }
}

TEST_F(BadInputTest, DamagedSafetensors) {
  const std::string file = "model.safetensors";
  ExpectFails(Spec(Damaged("st_cut", file, [](std::string* d) { d->resize(d->size() - 100); })),
              {"truncated"}, "truncated");
  ExpectFails(Spec(Damaged("st_header", file, [](std::string* d) { (*d)[7] = '\x40'; })),
              {"header length", "past the end"}, "header length");
  ExpectFails(Spec(Damaged("st_missing", file,
                           [](std::string* d) { Replace(d, "1.mlp.up_proj", "1.mlp.xx_proj"); })),
              {"1.mlp.up_proj"}, "a missing tensor");
  ExpectFails(
      Spec(Damaged("st_utf8", file,
                   [](std::string* d) { Replace(d, "1.mlp.up_proj", "1.mlp.\xff\xfe_proj"); })),
      {file}, "a name that is no text");
  ExpectFails(
      Spec(Damaged("st_dtype", file, [](std::string* d) { Replace(d, "\"F32\"", "\"Q99\""); })),
      {"Q99"}, "an unknown type");
  ExpectFails(Spec(Damaged("st_nan", file, [](std::string* d) { Poison(d, "0.mlp.up", NAN); })),
              {"0.mlp.up_proj.weight", "NaN"}, "NaN");
  ExpectFails(Spec(Damaged("st_inf", file, [](std::string* d) { Poison(d, "embed", INFINITY); })),
              {"embed_tokens.weight", "infinite"}, "infinity");
}

TEST_F(BadInputTest, DocumentsOfTheModel) {
  ExpectFails(Spec(WithConfig("c_arch", "architectures", {"MambaForCausalLM"})),
              {"MambaForCausalLM", "not supported", "LlamaForCausalLM"}, "architecture");
  ExpectFails(Spec(WithConfig("c_heads", "num_attention_heads", 0)), {"num_attention_heads", "0"},
              "no heads");
  ExpectFails(Spec(WithConfig("c_huge", "hidden_size", int64_t{1} << 62)),
              {"hidden", "4611686018427387904"}, "huge");
  ExpectFails(Spec(WithConfig("c_blocks", "num_hidden_layers", 1000000000000)),
              {"blocks", "1000000000000"}, "huge");
  ExpectFails(Spec(WithConfig("c_text", "hidden_size", "wide")), {"hidden_size", "wide"}, "text");
  ExpectFails(Spec(Damaged("c_json", "config.json", [](std::string* d) { *d = "{nope"; })),
              {"config.json", "not JSON"}, "no JSON");
  ExpectFails(
      Spec(Damaged("c_deep", "config.json", [](std::string* d) { *d = std::string(200000, '['); })),
      {"config.json", "nested"}, "nested JSON");
  ExpectFails(Spec(Damaged("t_json", "tokenizer.json", [](std::string* d) { *d = "[1"; })),
              {"tokenizer.json", "JSON"}, "no JSON");
  ExpectFails(Spec(Damaged("t_empty", "tokenizer.json", [](std::string* d) { *d = "{}"; })),
              {"tokenizer"}, "an empty tokenizer");
}

TEST_F(BadInputTest, SpecsAreRefusedWholeAndAtOnce) {
  const struct {
    const char* field;
    std::function<void(v1::JobSpec*)> change;
  } cases[] = {
      {"recipe.candidate_bits", [](auto* s) { s->mutable_recipe()->add_candidate_bits(9); }},
      {"recipe.candidate_bits", [](auto* s) { s->mutable_recipe()->add_candidate_bits(0); }},
      {"recipe.group_size", [](auto* s) { s->mutable_recipe()->set_group_size(~0u); }},
      {"recipe.method", [](auto* s) { s->mutable_recipe()->set_method(v1::Method(77)); }},
      {"recipe.sweeps", [](auto* s) { s->mutable_recipe()->set_sweeps(2); }},  // of rtn
      {"recipe.rotation", [](auto* s) { s->mutable_recipe()->set_rotation(v1::Rotation(-1)); }},
      {"recipe.chunks", [](auto* s) { s->mutable_recipe()->set_chunks(~0u); }},
      {"recipe.propagate",
       [](auto* s) { s->mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED); }},
      {"criterion", [](auto* s) { s->set_criterion(v1::CRITERION_GUIDED); }},
      {"evaluation.skip", [](auto* s) { s->mutable_evaluation()->set_skip(1); }},
      {"parent_job_id", [](auto* s) { s->set_parent_job_id("job-a"); }},
      {"budget.planes", [](auto* s) { s->mutable_budget()->set_planes(NAN); }},
      {"budget.planes", [](auto* s) { s->mutable_budget()->set_planes(-1); }},
      {"budget.bytes", [](auto* s) { s->mutable_budget()->set_bytes(~uint64_t{0}); }},
      {"budget", [](auto* s) { s->clear_budget(); }},
      {"calibration.sequences", [](auto* s) { s->mutable_calibration()->set_sequences(~0u); }},
      {"calibration.length", [](auto* s) { s->mutable_calibration()->set_length(1); }},
      {"calibration.length", [](auto* s) { s->mutable_calibration()->set_length(~0u); }},
      {"evaluation.sequences", [](auto* s) { s->mutable_evaluation()->set_sequences(~0u); }},
      {"evaluation.length", [](auto* s) { s->mutable_evaluation()->set_length(1); }},
      {"calibration.text_digest", [](auto* s) { s->mutable_calibration()->set_text_digest("x"); }},
      {"output", [](auto* s) { s->set_output("Bad Name:x"); }},
      {"output", [](auto* s) { s->set_output("name:-x"); }},
      {"source", [](auto* s) { s->set_source("file:///a/../b"); }},
      {"priority", [](auto* s) { s->set_priority(101); }},
  };
  for (const auto& c : cases) {
    v1::JobSpec spec = Spec();
    c.change(&spec);
    const auto job = cluster_->Submit(spec);
    EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument) << c.field;
    ExpectWords(std::string(job.status().message()), {c.field}, c.field);
  }
}

TEST_F(BadInputTest, SpecsThatTheModelDoesNotMeet) {
  v1::JobSpec spec = Spec();
  spec.mutable_calibration()->set_length(513);
  ExpectFails(spec, {"calibration.length", "513", "context of 512"}, "beyond the context");
  spec = Spec();
  spec.mutable_evaluation()->set_length(32768);
  ExpectFails(spec, {"evaluation.length", "32768", "context of 512"}, "beyond the context");
  spec = Spec();
  spec.mutable_budget()->set_bytes(1000);
  ExpectFails(spec, {"budget infeasible", "1000 bytes", "least"}, "a budget of nothing");
  spec = Spec();
  v1::RecipeOverride* o = spec.mutable_recipe()->add_overrides();
  o->set_glob("nothing.*");
  o->set_bits(2);
  ExpectFails(spec, {"overrides[0].glob", "nothing.*", "no layer"}, "an override of nothing");
  o->set_glob("*");
  o->set_skip(true);
  ExpectFails(spec, {"every layer is skipped"}, "everything skipped");
  spec = Spec();
  spec.mutable_calibration()->set_text_digest("sha256:" + std::string(64, '0'));
  ExpectFails(spec, {std::string(64, '0')}, "a text that is not there");
}

TEST_F(BadInputTest, ARequestIdWithOtherContentIsRefused) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = Spec();
  request.set_request_id("twice");
  v1::Job first, second;
  const auto submit = [&](v1::Job* job) {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kPatience);
    return cluster_->jobs().SubmitJob(&context, request, job);
  };
  ASSERT_TRUE(submit(&first).ok());
  ASSERT_TRUE(submit(&second).ok());
  EXPECT_EQ(first.job_id(), second.job_id());
  request.mutable_spec()->set_priority(5);
  const grpc::Status status = submit(&second);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS) << status.error_message();
  ExpectWords(status.error_message(), {"twice"}, "request_id");
  EXPECT_TRUE(cluster_->WaitForEnd(first.job_id(), kPatience).ok());
}

TEST_F(BadInputTest, TwoJobsAtOnceBothEndWithTheSameDigest) {
  v1::JobSpec spec = Spec();
  const auto a = cluster_->Submit(spec);
  const auto b = cluster_->Submit(spec);
  ASSERT_TRUE(a.ok() && b.ok());
  for (const auto& id : {a->job_id(), b->job_id()}) {
    const auto end = cluster_->WaitForEnd(id, kPatience);
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(end->package_digest(), digest_) << end->error();
  }
}

TEST_F(BadInputTest, CalibrationTexts) {
  const auto submit = [&](const std::string& name, const std::string& text,
                          const std::string& method = "lat") {
    WriteFile(Path(name), text);
    return Words{"submit",
                 Path("tiny"),
                 "--bits",
                 "3",
                 "--name",
                 "text",
                 "--method",
                 method,
                 "--calibration",
                 Path(name),
                 "--calibration-sequences",
                 "4",
                 "--calibration-length",
                 "16",
                 "--eval-sequences",
                 "2",
                 "--watch"};
  };
  ExpectCli(2, submit("empty.txt", ""), {"empty.txt", "empty"});
  ExpectCli(1, submit("blank.txt", std::string(300, ' ')), {"empty"});
  ExpectCli(1, submit("short.txt", "hello"), {"calibration.sequences", "longer text"});
  ExpectCli(1, submit("bad.jsonl", "{\"text\": 1}\n"), {"line 1", "\"text\""});
  for (const char* method : {"lat", "acc", "optq", "shiftadd"}) {  // one token, repeated
    ExpectCli(0, submit("one.txt", std::string(4000, 'a'), method), {"SUCCEEDED"});
  }
  std::string binary;
  for (uint32_t i = 0, x = 1; i < 4000; ++i) binary += char((x = x * 1664525 + 1013904223) >> 24);
  ExpectCli(0, submit("binary.txt", binary), {"SUCCEEDED"});
}

// Block 0's down projection and all of block 1's attention get nothing but zeros, whatever the
// text.
TEST_F(BadInputTest, LayersThatSeeNoToken) {
  Damaged("unseen", "model.safetensors", [](std::string* data) {
    ZeroTensor(data, "0.mlp.up_proj");
    ZeroTensor(data, "1.input_layernorm");
  });
  for (const v1::Method method :
       {v1::METHOD_SHIFTADD, v1::METHOD_LAT, v1::METHOD_RTN, v1::METHOD_ACC, v1::METHOD_OPTQ}) {
    v1::JobSpec spec = Spec("unseen");
    spec.set_output("unseen");
    spec.mutable_recipe()->set_method(method);
    const auto job = cluster_->Submit(spec);
    ASSERT_TRUE(job.ok()) << job.status();
    const auto end = cluster_->WaitForEnd(job->job_id(), kPatience);
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(end->state(), v1::JOB_STATE_SUCCEEDED) << v1::Method_Name(method) << end->error();
    EXPECT_TRUE(std::isfinite(end->quality().kl())) << v1::Method_Name(method);
    const RunResult report = Shiftadd({"report", job->job_id(), "--json"});
    ASSERT_EQ(report.exit_code, 0) << report.output;
    const json parsed = json::parse(report.output);
    std::string unseen;
    for (const json& layer : parsed["layers"]) {
      if (absl::StrContains(layer.value("note", ""), "no input but zeros"))
        absl::StrAppend(&unseen, " ", layer["layer"]["name"].get<std::string>());
    }
    EXPECT_EQ(unseen,
              " blocks.0.mlp.down blocks.1.attn.q blocks.1.attn.k blocks.1.attn.v blocks.1.attn.o")
        << v1::Method_Name(method);
  }
}

TEST_F(BadInputTest, CommandLine) {
  const auto recipe = [&](const std::string& name, const std::string& text) {
    WriteFile(Path(name), text);
    return Words{"submit", Path("tiny"), "--bits", "3", "--name", "x", "--recipe", Path(name)};
  };
  ExpectCli(2, recipe("unknown.json", "{\"metod\": \"rtn\"}"), {"metod", "unknown field"});
  ExpectCli(2, recipe("no.json", "{nope"), {"no.json", "not JSON"});
  ExpectCli(2, recipe("wide.json", "{\"candidate_bits\": [0, 9]}"), {"candidate_bits", "0, 9"});
  ExpectCli(2, {"submit", Path("tiny"), "--bits", "3", "--name", "x", "--bogus"}, {"--bogus"});
  ExpectCli(2, {"submit", Path("tiny"), "--bits", "3", "--name", "Not:ok"}, {"Not:ok"});
  ExpectCli(2, {"submit", Path("tiny"), "--bits", "nan", "--name", "x"}, {"--bits"});
  ExpectCli(2, {"submit", Path("tiny"), "--name", "x"}, {"--bits", "--bytes"});
  ExpectCli(2, {"submit", Path("tiny"), "--bits", "3", "--name", "x", "--label", "a=\xff"},
            {"argument 8", "UTF-8"});
  ExpectCli(1, {"submit", Path("nowhere"), "--bits", "3", "--name", "x"}, {"nowhere", "No such"});
  ExpectCli(2, {}, {"subcommand"});
  ExpectCli(1, {"watch", "job-none"}, {"job-none", "does not exist"});
  ExpectCli(1, {"retry", "job-none"}, {"job-none"});
  ExpectCli(1, {"inspect", "none"}, {"none:latest"});
  ExpectCli(2, {"inspect", "NO:PE"}, {"NO:PE"});
  ExpectCli(3, {"jobs", "--coordinator", "127.0.0.1:1"}, {"127.0.0.1:1", "cannot be reached"});
  ExpectCli(3, {"packages", "--packager", "127.0.0.1:1"}, {"127.0.0.1:1"});
}

TEST_F(BadInputTest, Daemons) {
  const std::string data = Path("data"), here = cluster_->coordinator_address();
  const std::string any = "127.0.0.1:0";
  ExpectDaemon(1, {"shiftadd-coordinator", "--listen", here, "--http", any, "--data-dir", data},
               {here, "in use"});
  ExpectDaemon(1,
               {"shiftadd-coordinator", "--listen", any, "--http", any, "--data-dir",
                cluster_->dir() + "/coordinator"},
               {"locked"});
  ExpectDaemon(2, {"shiftadd-coordinator", "--listen", "nonsense", "--data-dir", data},
               {"host:port", "nonsense"});
  ExpectDaemon(1,
               {"shiftadd-packager", "--listen", cluster_->packager_address(), "--http", any,
                "--data-dir", data},
               {"in use"});
  const Words worker = {"shiftadd-worker", "--http", any, "--blobs"};
  const auto with = [&](Words more) {
    more.insert(more.begin(), worker.begin(), worker.end());
    return more;
  };
  ExpectDaemon(1, with({"/dev/null/x", "--source-root", "/"}), {"/dev/null/x", "Not a directory"});
  ExpectDaemon(2, with({data, "--source-root", Path("absent")}), {"absent", "does not exist"});
  ExpectDaemon(2, with({data, "--source-root", "/", "--log-level", "silly"}), {"silly"});
  ExpectDaemon(2, with({data, "--source-root", "/", "--threads", "-3"}), {"--threads"});
  const auto server = [&](const std::string& package, const std::string& packager) {
    return Words{"shiftadd-server", "--package", package,  "--packager", packager,
                 "--listen",        any,         "--http", any};
  };
  ExpectDaemon(1, server("none", cluster_->packager_address()), {"none:latest"});
  ExpectDaemon(1, server("N O", cluster_->packager_address()), {"N O", "name:tag"});
  ExpectDaemon(1, server("good", "127.0.0.1:1"), {"127.0.0.1:1"});
}

// Odd shapes through every method; EVALUATING checks the server's executor against the reference.
TEST_F(BadInputTest, OddShapesThroughEveryMethod) {
  TinyLlamaOptions odd;  // no dimension divides a group, a byte or a register
  odd.hidden = 40;
  odd.blocks = 1;
  odd.heads = odd.kv_heads = 4;
  odd.head_dim = 10;
  odd.intermediate = 24;
  odd.vocab = 263;
  odd.tied = false;
  odd.attention_bias = odd.mlp_bias = true;
  ASSERT_TRUE(WriteTinyLlamaDirectory(Path("odd"), odd).ok());
  TinyLlamaOptions single;
  single.hidden = 20;
  single.blocks = single.heads = single.kv_heads = 1;
  single.intermediate = 24;
  single.vocab = 261;
  ASSERT_TRUE(WriteTinyLlamaGguf(Path("single.gguf"), single).ok());
  for (const std::string source : {"odd", "single.gguf"}) {
    for (const v1::Method method :
         {v1::METHOD_SHIFTADD, v1::METHOD_LAT, v1::METHOD_RTN, v1::METHOD_ACC, v1::METHOD_OPTQ}) {
      v1::JobSpec spec = Spec(source);
      spec.set_output("odd");
      spec.mutable_recipe()->set_method(method);
      if (method != v1::METHOD_LAT)
        spec.mutable_recipe()->set_group_size(source == "odd" ? 32 : 64);
      for (uint32_t bits = 1; bits <= 8; ++bits) spec.mutable_recipe()->add_candidate_bits(bits);
      const auto job = cluster_->Submit(spec);
      ASSERT_TRUE(job.ok()) << job.status();
      const auto end = cluster_->WaitForEnd(job->job_id(), kPatience);
      ASSERT_TRUE(end.ok()) << end.status();
      EXPECT_EQ(end->state(), v1::JOB_STATE_SUCCEEDED)
          << source << " " << v1::Method_Name(method) << ": " << end->error();
      EXPECT_LT(end->quality().server_max_logit_error(), 0.03) << source << " " << method;
      EXPECT_TRUE(std::isfinite(end->quality().kl()));
    }
  }
}

TEST_F(BadInputTest, DamagedAndLostBlobsAreNamed) {
  const std::string blobs = cluster_->store_dir() + "/blobs/sha256/";
  v1::GetPackageRequest request;
  request.set_reference("good:latest");
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kPatience);
  v1::Package package;
  ASSERT_TRUE(cluster_->packages().GetPackage(&context, request, &package).ok());
  ASSERT_GT(package.layers_size(), 2);
  const std::string hex = package.layers(0).digest().substr(sizeof("sha256:") - 1);
  const std::string good = ReadFile(blobs + hex);
  std::string bad = good;
  bad[bad.size() / 2] ^= 1;
  const auto serve = [&](const Words& from) {
    Words arguments = {"shiftadd-server", "--package", "good",       "--listen",
                       "127.0.0.1:0",     "--http",    "127.0.0.1:0"};
    arguments.insert(arguments.end(), from.begin(), from.end());
    return arguments;
  };
  WriteFile(blobs + hex, bad);
  ExpectDaemon(1, serve({"--package-dir", cluster_->store_dir()}), {hex, "damaged"});
  ExpectDaemon(1, serve({"--packager", cluster_->packager_address()}), {hex, "expected digest"});
  std::filesystem::remove(blobs + hex);
  ExpectDaemon(1, serve({"--packager", cluster_->packager_address()}), {hex, "not in"});
  // TearDown's job writes the blob again, with the right bytes.
}

}  // namespace
}  // namespace shiftadd::testing
