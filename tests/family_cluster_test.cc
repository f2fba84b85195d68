// Every family through real processes: quantized, evaluated, published and served.
#include <gtest/gtest.h>

#include <cctype>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "services/rpc/rpc.h"
#include "tests/cluster.h"
#include "worker/model/testing/golden_family.h"

namespace shiftadd::testing {
namespace {

TEST(FamilyClusterTest, QuantizedAndServed) {
  const std::string root = NewTempDir("families");
  Cluster cluster(root);
  cluster.AddWorker();
  for (const nlohmann::json& golden : GoldenFamilies()) {
    std::string name = golden.at("name");
    for (char& c : name) c = std::isalnum(c) ? c : '-';
    SCOPED_TRACE(name);
    ASSERT_TRUE(WriteGoldenFamily(golden, absl::StrCat(root, "/", name)).ok());
    v1::JobSpec spec;
    spec.set_source(absl::StrCat("file://", root, "/", name));
    spec.mutable_budget()->set_planes(4);
    spec.mutable_recipe()->set_method(v1::METHOD_SHIFTADD);
    spec.mutable_calibration()->set_sequences(12);
    spec.mutable_calibration()->set_length(48);
    spec.mutable_evaluation()->set_sequences(4);
    spec.set_output(name);
    const auto job = cluster.Submit(spec);
    ASSERT_TRUE(job.ok()) << job.status();
    const auto end = cluster.WaitForEnd(job->job_id());
    ASSERT_TRUE(end.ok()) << end.status();
    ASSERT_EQ(end->state(), v1::JOB_STATE_SUCCEEDED) << end->error() << cluster.Logs();
    // Four planes of a random model: near it, which a wrong backward pass or rotation would not be.
    EXPECT_GT(end->quality().kl(), 0);
    EXPECT_LT(end->quality().kl(), 0.4) << name;
    EXPECT_LT(end->quality().server_max_logit_error(), 0.05);
    std::printf("%-14s KL %.4f at %.2f stored bits, the server's logits off by %.2g\n",
                name.c_str(), end->quality().kl(), end->quality().stored_bits(),
                end->quality().server_max_logit_error());

    const std::string log = absl::StrCat(root, "/", name, ".log");
    const std::string port_file = absl::StrCat(root, "/", name, ".ports");
    Process server({Binary("shiftadd-server"), "--package", name, "--packager",
                    cluster.packager_address(), "--blobs", cluster.store_dir(), "--listen",
                    "127.0.0.1:0", "--http", "127.0.0.1:0", "--port-file", port_file},
                   log);
    const std::vector<int> ports = WaitForPorts(port_file, &server, log);
    auto stub =
        v1::GenerateService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", ports[0])));
    v1::GenerateRequest request;
    request.set_text("Hello, families");
    request.set_max_tokens(8);
    request.set_ignore_eos(true);
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(20));
    auto reader = stub->Generate(&context, request);
    uint32_t count = 0;
    for (v1::GenerateResponse r; reader->Read(&r);) count += r.tokens_size();
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(count, 8u);
    server.Signal(SIGTERM);
    EXPECT_EQ(server.Wait(absl::Seconds(10)), 0);
  }
}

}  // namespace
}  // namespace shiftadd::testing
