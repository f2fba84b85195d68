// What doctor says of machines that are not here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "services/cli/child_process.h"
#include "services/cli/doctor_bundle.h"
#include "services/cli/doctor_report.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

json ProbeOf(const std::string& binary, const std::string& cuda_fault) {
  return {{"binary", binary},
          {"version", "shiftadd 0.1.0"},
          {"cuda_code", "CUDA kernels: sm_80 sm_90a"},
          {"cpu",
           {{"name", "Some CPU"},
            {"isa", "avx512"},
            {"cores", 16},
            {"usable_cores", 8},
            {"cgroup_cores", 4.0}}},
          {"memory",
           {{"bytes", uint64_t{64} << 30},
            {"available_bytes", uint64_t{32} << 30},
            {"cgroup_bytes", uint64_t{16} << 30}}},
          {"energy", {{"cpu_fault", ""}, {"gpu", true}}},
          {"cuda",
           {{"hardware", true},
            {"driver", true},
            {"driver_version", "580.65.06"},
            {"version", "13.0"},
            {"error", ""},
            {"gpus",
             {{{"name", "NVIDIA H100"},
               {"uuid", "GPU-1"},
               {"memory_bytes", uint64_t{80} << 30},
               {"compute_capability", "9.0"}}}}}},
          {"libraries", json::array()},
          {"device", cuda_fault.empty() ? "cuda" : "cpu"},
          {"cuda_fault", cuda_fault}};
}

DoctorFindings GpuMachine(const std::string& cuda_fault = "") {
  DoctorFindings found;
  for (const char* name : {"shiftadd-worker", "shiftadd-server"})
    found.binaries.push_back({name, "", ProbeOf(name, cuda_fault)});
  found.data_dir = "/data";
  found.disk_free_bytes = uint64_t{100} << 30;
  found.ports = {{"coordinator", 7070, true, true}, {"server's HTTP", 8000, true, false}};
  return found;
}

TEST(DoctorTest, AGpuMachineInOrder) {
  const DoctorFindings found = GpuMachine();
  const auto diagnoses = Diagnose(found);
  EXPECT_THAT(diagnoses, IsEmpty());
  const std::string text = FormatDoctor(found, diagnoses);
  EXPECT_THAT(text,
              AllOf(HasSubstr("8 cores of 16 by affinity, control group's quota 4.0"),
                    HasSubstr("control group's limit 16.0 GiB"), HasSubstr("NVIDIA 580.65.06"),
                    HasSubstr("compute capability 9.0"), HasSubstr("nothing is missing"),
                    HasSubstr("shiftadd-server --device auto uses  cuda: NVIDIA H100")));
  EXPECT_FALSE(DoctorJson(found, diagnoses)["broken"]);
}

TEST(DoctorTest, DriverWithoutLibrariesIsSaidAndIsNoFailureUntilAskedFor) {
  DoctorFindings found = GpuMachine("libcublas.so.13 is missing: install it");
  auto diagnoses = Diagnose(found);
  ASSERT_EQ(diagnoses.size(), 2u);
  EXPECT_THAT(diagnoses[0].text, AllOf(HasSubstr("shiftadd-worker does not use the GPU"),
                                       HasSubstr("libcublas.so.13 is missing: install it")));
  EXPECT_FALSE(IsBroken(diagnoses));
  found.device = "cuda";
  diagnoses = Diagnose(found);
  EXPECT_TRUE(IsBroken(diagnoses));
  EXPECT_THAT(diagnoses[0].text, HasSubstr("shiftadd-worker --device cuda: libcublas.so.13"));
  found.device = "cpu";
  EXPECT_THAT(Diagnose(found), IsEmpty());
}

TEST(DoctorTest, AMachineWithoutGpuIsInOrder) {
  DoctorFindings found = GpuMachine("no NVIDIA GPU was found");
  for (ProbedBinary& binary : found.binaries) {
    binary.probe["cuda"] = {{"hardware", false}, {"driver", false}, {"gpus", json::array()}};
  }
  EXPECT_THAT(Diagnose(found), IsEmpty());
  EXPECT_THAT(FormatDoctor(found, {}),
              HasSubstr("shiftadd-worker --device auto uses  cpu: no NVIDIA GPU was found"));
}

TEST(DoctorTest, ABuildWithoutCudaOnAGpuMachine) {
  DoctorFindings found = GpuMachine();
  found.binaries[0].probe["cuda_code"] = "CUDA kernels: none, this build is for CPUs only";
  const auto diagnoses = Diagnose(found);
  ASSERT_EQ(diagnoses.size(), 1u);
  EXPECT_THAT(diagnoses[0].text, HasSubstr("-DSHIFTADD_CUDA=ON"));
}

TEST(DoctorTest, CublasThatIsMissing) {
  DoctorFindings found = GpuMachine();
  found.binaries[1].probe["libraries"] = {
      {{"name", "cuBLAS"}, {"version", ""}, {"fault", "no cuBLAS: libcublas.so.13: no such file"}}};
  const auto diagnoses = Diagnose(found);
  ASSERT_EQ(diagnoses.size(), 1u);
  EXPECT_THAT(diagnoses[0].text, HasSubstr("SHIFTADD_CUBLAS"));
}

TEST(DoctorTest, WhatIsNeededAndMissingIsBroken) {
  DoctorFindings found = GpuMachine();
  found.binaries[0].fault = "libtorch_cpu.so: cannot open shared object file";
  EXPECT_TRUE(IsBroken(Diagnose(found)));
  EXPECT_THAT(FormatDoctor(found, Diagnose(found)), HasSubstr("deploy/setup.sh"));
  found = GpuMachine();
  found.missing = {"/bin/shiftadd-packager is not there"};
  EXPECT_TRUE(IsBroken(Diagnose(found)));
  found = GpuMachine();
  found.data_dir_fault = "/data cannot be written: Read-only file system";
  EXPECT_TRUE(IsBroken(Diagnose(found)));
  found = GpuMachine();
  found.disk_free_bytes = 1 << 20;
  EXPECT_TRUE(IsBroken(Diagnose(found)));
  found.disk_free_bytes = uint64_t{5} << 30;
  EXPECT_FALSE(IsBroken(Diagnose(found)));
  EXPECT_THAT(Diagnose(found)[0].text, HasSubstr("5.0 GiB free"));
}

TEST(DoctorTest, TakenPorts) {
  DoctorFindings found = GpuMachine();
  for (CheckedPort& port : found.ports) port.free = false;
  const auto diagnoses = Diagnose(found);
  ASSERT_EQ(diagnoses.size(), 2u);
  EXPECT_THAT(diagnoses[0].text, AllOf(HasSubstr("port 8000"), HasSubstr("--port")));
  EXPECT_THAT(diagnoses[1].text, HasSubstr("takes another one"));
  found.cluster_runs = true;
  EXPECT_THAT(Diagnose(found), IsEmpty());
}

TEST(DoctorTest, AProbeOfAnotherVersion) {
  DoctorFindings found = GpuMachine();
  found.binaries[0].probe = {{"cpu", 7}, {"cuda", {{"gpus", "?"}}}};
  EXPECT_THAT(FormatDoctor(found, Diagnose(found)), Not(IsEmpty()));
}

TEST(RunChildTest, GivesWhatTheChildWrites) {
  const auto output =
      RunChild({"/bin/sh", "-c", "echo to out; echo to err >&2"}, absl::Seconds(20));
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->out, "to out\n");
  EXPECT_EQ(output->err, "to err\n");
  // More than a pipe holds.
  const auto much = RunChild({"/bin/sh", "-c", "head -c 1000000 /dev/zero"}, absl::Seconds(20));
  ASSERT_TRUE(much.ok());
  EXPECT_EQ(much->out.size(), 1000000u);
}

TEST(RunChildTest, ChildrenThatFail) {
  EXPECT_EQ(
      RunChild({"/bin/sh", "-c", "echo why >&2; exit 3"}, absl::Seconds(20)).status().message(),
      "sh ended with exit code 3: why");
  EXPECT_EQ(RunChild({"/bin/sleep", "60"}, absl::Milliseconds(100)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(RunChild({"/no/such/program"}, absl::Seconds(1)).ok());
}

// On a full disk a part of a bundle would look like a bundle.
TEST(DoctorTest, ABundleIsWholeOrNotThere) {
  namespace fs = std::filesystem;
  const fs::path dir = absl::StrCat(::testing::TempDir(), "/doctor-", getpid());
  fs::create_directories(dir / "data/logs");
  fs::create_directories(dir / "out");
  std::mt19937 random(1);
  for (const char* name : {"a.log", "b.log", "c.log"}) {
    std::string noise(60'000, ' ');
    for (char& c : noise) c = static_cast<char>(random());
    std::ofstream(dir / "data/logs" / name) << noise;
  }
  std::ofstream(dir / "data/logs/empty.log");
  std::ostringstream out, err;
  Context context{out, err};
  context.data_dir = dir / "data";
  const std::string file = dir / "out/bundle.tgz";
  const auto write_with_room = [&](rlim_t bytes) {
    rlimit old{};
    EXPECT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
    const auto before = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit less{bytes, old.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &less), 0);
    const absl::Status status = WriteBundle(context, "{}", file);
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
    std::signal(SIGXFSZ, before);
    return status;
  };
  EXPECT_FALSE(write_with_room(100'000).ok()) << "the archive has no room";
  EXPECT_TRUE(fs::is_empty(dir / "out"));
  const absl::Status pieces = write_with_room(30'000);
  EXPECT_THAT(std::string(pieces.message()), HasSubstr(".log: cannot be written")) << pieces;
  EXPECT_TRUE(fs::is_empty(dir / "out"));
  const absl::Status whole = write_with_room(1'000'000);
  EXPECT_TRUE(whole.ok()) << whole;
  EXPECT_GT(fs::file_size(file), 180'000u);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out"), {}), 1);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace shiftadd::cli
