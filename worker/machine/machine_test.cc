// What is said of machines that are not here.
#include "worker/machine/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "worker/machine/device_lock.h"
#include "worker/machine/device_metrics.h"
#include "worker/machine/gpu.h"
#include "worker/machine/probe.h"

namespace shiftadd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

namespace fs = std::filesystem;

CudaFindings Working() {
  CudaFindings found;
  found.hardware = found.driver = true;
  found.driver_version = "580.65.06";
  found.cuda = 13000;
  found.gpus = {{"NVIDIA H100 80GB HBM3", uint64_t{80} << 30, "GPU-1", 9, 0}};
  return found;
}

TEST(CudaFaultTest, NothingStandsInTheWay) {
  EXPECT_THAT(CudaFault(Working(), 13000), IsEmpty());
  EXPECT_THAT(CudaFault(Working(), 12010), IsEmpty());
}

TEST(CudaFaultTest, NoGpuAndNoDriver) {
  EXPECT_EQ(CudaFault(CudaFindings(), 13000), "no NVIDIA GPU was found");
}

TEST(CudaFaultTest, HardwareWithoutDriverSaysWhatToInstall) {
  CudaFindings found;
  found.hardware = true;
  EXPECT_THAT(CudaFault(found, 13000),
              AllOf(HasSubstr("no driver"), HasSubstr("580 or later"), HasSubstr("install")));
}

TEST(CudaFaultTest, DriverTooOldNamesBothVersions) {
  CudaFindings found = Working();
  found.driver_version = "535.104.05";
  found.cuda = 12020;
  EXPECT_EQ(CudaFault(found, 13000),
            "the NVIDIA driver 535.104.05 is too old: it is for CUDA 12.2, expected 13.0 or "
            "later: install NVIDIA's driver, version 580 or later");
  // What the driver does not do is no matter where nothing asks for it.
  EXPECT_THAT(CudaFault(found, 12000), IsEmpty());
}

TEST(CudaFaultTest, DriverThatFails) {
  CudaFindings found = Working();
  found.gpus.clear();
  found.error = 803;
  found.error_text = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
  EXPECT_THAT(CudaFault(found, 13000), HasSubstr("restart the machine"));
  found.error = 999;
  found.error_text = "CUDA_ERROR_UNKNOWN";
  EXPECT_EQ(CudaFault(found, 13000), "the NVIDIA driver failed: CUDA_ERROR_UNKNOWN");
}

TEST(CudaFaultTest, GpusTooOldAreNamed) {
  CudaFindings found = Working();
  found.gpus = {{"Tesla T4", uint64_t{16} << 30, "GPU-2", 7, 5}};
  EXPECT_EQ(CudaFault(found, 13000),
            "the NVIDIA GPU Tesla T4 is too old: its compute capability is 7.5, expected 8.0 or "
            "later");
  // Beside one that will do it is left out.
  found.gpus.push_back(Working().gpus[0]);
  found.gpus[1].uuid = absl::StrCat("GPU-test-", getpid());
  EXPECT_THAT(CudaFault(found, 13000), IsEmpty());
  const auto taken = TakeFreeGpu(found.gpus);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->index, 1u);
  const auto none = TakeFreeGpu(found.gpus);
  EXPECT_THAT(std::string(none.status().message()),
              AllOf(HasSubstr("Tesla T4"), HasSubstr("7.5"), HasSubstr("another shiftadd-worker")));
}

TEST(CudaFaultTest, HiddenGpusAreSaid) {
  CudaFindings found = Working();
  found.gpus.clear();
  found.error = 100;
  setenv("CUDA_VISIBLE_DEVICES", "7", 1);
  EXPECT_EQ(CudaFault(found, 13000),
            "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES is '7')");
  unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST(GpuTest, AskingInAChildGivesWhatAskingHereGives) {
  const CudaFindings child = FindCuda(), here = FindCudaHere();
  EXPECT_EQ(child.driver, here.driver);
  EXPECT_EQ(child.hardware, here.hardware);
  EXPECT_EQ(child.cuda, here.cuda);
  EXPECT_EQ(child.error, here.error);
  ASSERT_EQ(child.gpus.size(), here.gpus.size());
  for (size_t i = 0; i < child.gpus.size(); ++i) EXPECT_EQ(child.gpus[i].uuid, here.gpus[i].uuid);
}

TEST(DeviceLockTest, OneWorkerAGpu) {
  const std::string a = absl::StrCat("GPU-test-a-", getpid());
  const std::string b = absl::StrCat("GPU-test-b-", getpid());
  const std::vector<Gpu> gpus = {{"First", 0, a}, {"Second", 0, b}};
  absl::StatusOr<TakenGpu> first = TakeFreeGpu(gpus), second = TakeFreeGpu(gpus);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->index, 0u);
  EXPECT_EQ(second->index, 1u);
  const absl::Status third = TakeFreeGpu(gpus).status();
  EXPECT_EQ(third.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(third.message()),
              AllOf(HasSubstr("GPU 0 (First)"), HasSubstr(absl::StrCat("pid ", getpid())),
                    HasSubstr("--share-device")));
  first = absl::CancelledError();  // lets go
  EXPECT_TRUE(TakeFreeGpu(gpus).ok());
}

class MachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = (fs::temp_directory_path() / absl::StrCat("machine_test_", getpid())).string();
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << "\n";
  }
  std::string root_;
};

TEST_F(MachineTest, LimitsOfControlGroupsVersion2) {
  Write("/proc/self/cgroup", "0::/a/b");
  Write("/proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB");
  Write("/proc/cpuinfo", "processor : 0\nmodel name\t: Some CPU");
  Write("/sys/fs/cgroup/a/b/cpu.max", "max 100000");
  Write("/sys/fs/cgroup/a/cpu.max", "250000 100000");
  Write("/sys/fs/cgroup/a/b/memory.max", "1048576");
  Write("/sys/fs/cgroup/a/memory.max", "max");
  const Machine machine = FindMachine(root_);
  EXPECT_EQ(machine.cpu, "Some CPU");
  EXPECT_EQ(machine.memory_bytes, 2048u << 10);
  EXPECT_EQ(machine.available_bytes, 1024u << 10);
  EXPECT_EQ(machine.cgroup_cores, 2.5);
  EXPECT_EQ(machine.cgroup_bytes, 1048576u);
  EXPECT_GE(machine.usable_cores, 1);
}

TEST_F(MachineTest, LimitsOfControlGroupsVersion1) {
  Write("/proc/self/cgroup", "4:memory:/m\n1:cpu,cpuacct:/c\n0::/");
  Write("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "-1");
  Write("/sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000");
  Write("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "9223372036854771712");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096");
  const Machine machine = FindMachine(root_);
  EXPECT_EQ(machine.cgroup_cores, 0);
  EXPECT_EQ(machine.cgroup_bytes, 4096u);
}

TEST_F(MachineTest, PackagesAreSummedAndWrapAround) {
  for (const char* package : {"intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"}) {
    Write(absl::StrCat("/sys/class/powercap/", package, "/energy_uj"), "9000000");
    Write(absl::StrCat("/sys/class/powercap/", package, "/max_energy_range_uj"), "10000000");
  }
  CpuMeter meter(root_);
  ASSERT_THAT(meter.fault(), IsEmpty());
  EXPECT_EQ(meter.Joules(), 0);
  Write("/sys/class/powercap/intel-rapl:0/energy_uj", "9500000");
  EXPECT_DOUBLE_EQ(meter.Joules(), 0.5);
  Write("/sys/class/powercap/intel-rapl:0/energy_uj", "250000");
  EXPECT_DOUBLE_EQ(meter.Joules(), 1.25);
}

TEST_F(MachineTest, NoMeterIsSaid) {
  EXPECT_THAT(CpuMeter(root_).fault(), HasSubstr("no RAPL meter"));
  Write("/sys/class/powercap/intel-rapl:0/energy_uj", "");
  EXPECT_THAT(CpuMeter(root_).fault(), HasSubstr("intel-rapl:0/energy_uj cannot be read"));
}

TEST_F(MachineTest, ACpusMeterTellsMemoryUtilizationAndJoules) {
  Write("/proc/meminfo", "MemTotal:       2048 kB");
  Write("/sys/class/powercap/intel-rapl:0/energy_uj", "1000000");
  Write("/sys/class/powercap/intel-rapl:0/max_energy_range_uj", "10000000");
  prometheus::Registry registry;
  auto& energy = prometheus::BuildCounter().Name("test_joules_total").Register(registry);
  DeviceMetrics metrics(&registry, DeviceMeter(/*gpu=*/false, root_), "cpu", &energy);
  Write("/sys/class/powercap/intel-rapl:0/energy_uj", "3500000");
  metrics.Refresh();
  metrics.Refresh();  // counts nothing twice
  std::map<std::string, double> values;
  for (const auto& family : registry.Collect()) {
    for (const auto& metric : family.metric) {
      ASSERT_EQ(metric.label.size(), 1u) << family.name;
      EXPECT_EQ(metric.label[0].value, "cpu");
      values[family.name] = family.type == prometheus::MetricType::Counter ? metric.counter.value
                                                                           : metric.gauge.value;
    }
  }
  EXPECT_EQ(values.at("shiftadd_device_memory_bytes"), 2048 << 10);
  EXPECT_GT(values.at("shiftadd_device_memory_used_bytes"), 1 << 20);
  EXPECT_GE(values.at("shiftadd_device_utilization_ratio"), 0);
  EXPECT_LE(values.at("shiftadd_device_utilization_ratio"), 1);
  EXPECT_GE(values.at("shiftadd_device_power_watts"), 0);
  EXPECT_DOUBLE_EQ(values.at("test_joules_total"), 2.5);
}

TEST_F(MachineTest, WhatHasNoMeterHasNoSeries) {
  prometheus::Registry registry;
  auto& energy = prometheus::BuildCounter().Name("test_joules_total").Register(registry);
  DeviceMetrics metrics(&registry, DeviceMeter(/*gpu=*/false, root_), "cpu", &energy);
  metrics.Refresh();
  for (const auto& family : registry.Collect()) {
    if (family.name == "shiftadd_device_power_watts" || family.name == "test_joules_total") {
      EXPECT_TRUE(family.metric.empty()) << family.name;
    }
  }
}

TEST(ProbeTest, SaysWhatWouldBeUsed) {
  Probe probe = StartProbe("some-binary");
  probe.cuda = Working();
  probe.libraries = {{"LibTorch", "2.11.0", ""}};
  const auto json = nlohmann::json::parse(ToJson(probe));
  EXPECT_EQ(json["binary"], "some-binary");
  EXPECT_EQ(json["device"], "cuda");
  EXPECT_EQ(json["cuda"]["version"], "13.0");
  EXPECT_EQ(json["cuda"]["gpus"][0]["compute_capability"], "9.0");
  probe.cuda_fault = "a reason";
  EXPECT_EQ(nlohmann::json::parse(ToJson(probe))["device"], "cpu");
}

}  // namespace
}  // namespace shiftadd
