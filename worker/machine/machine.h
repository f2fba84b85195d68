// The processor and the memory that a process may use here.
#ifndef SHIFTADD_WORKER_MACHINE_MACHINE_H_
#define SHIFTADD_WORKER_MACHINE_MACHINE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace shiftadd {

struct Machine {
  std::string cpu;          // "AMD EPYC 9V74 80-Core Processor"
  int cores = 0;            // of the machine
  int usable_cores = 0;     // by this process's affinity
  double cgroup_cores = 0;  // by the control group's quota; 0: no limit
  uint64_t memory_bytes = 0;
  uint64_t available_bytes = 0;
  uint64_t cgroup_bytes = 0;  // the control group's limit; 0: none
};

// `root` is "" but in tests: where proc/ and sys/ are. Control groups of either version, this
// process's and those above it: the least limit counts.
Machine FindMachine(const std::string& root = "");

// Joules of the processor packages since some moment in the past, by RAPL; those of a package that
// has wrapped around since the last call are put right. Not thread-safe.
class CpuMeter {
 public:
  explicit CpuMeter(const std::string& root = "");
  // Why there is nothing to read; empty if there is.
  const std::string& fault() const { return fault_; }
  double Joules();

 private:
  struct Package {
    std::string file;
    uint64_t range = 0, last = 0;  // microjoules
    double sum = 0;
  };
  bool Read(const std::string& file, uint64_t* value) const;

  std::string fault_;
  std::vector<Package> packages_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_MACHINE_H_
