// What `shiftadd doctor` makes of what it found. Plain data and functions: tests put in machines
// that are not here.
//
// The control plane links neither CUDA nor LibTorch, so it does not look for them itself: it asks
// shiftadd-worker and shiftadd-server (--probe, worker/machine/probe.h), which will use them.
#ifndef SHIFTADD_SERVICES_CLI_DOCTOR_REPORT_H_
#define SHIFTADD_SERVICES_CLI_DOCTOR_REPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace shiftadd::cli {

struct ProbedBinary {
  std::string name;      // "shiftadd-worker"
  std::string fault;     // why it cannot be run; empty if it can
  nlohmann::json probe;  // what it says; an object if there is no fault
};

struct CheckedPort {
  std::string what;  // "coordinator", "server's HTTP"
  int port = 0;
  bool free = true;
  bool moves = false;  // `up` takes another one by itself
};

struct DoctorFindings {
  std::vector<ProbedBinary> binaries;  // the worker, the server
  std::vector<std::string> missing;    // faults of those that are only looked for
  std::string device = "auto";         // cpu, cuda or auto: what the user wants to use
  std::string data_dir;
  std::string data_dir_fault;  // why it cannot be written
  uint64_t disk_free_bytes = 0;
  std::vector<CheckedPort> ports;
  bool cluster_runs = false;  // its own ports are then taken
};

// Something that was found, and what to do about it.
struct Diagnosis {
  enum class Severity { kNote, kWarning, kBroken } severity = Severity::kNote;
  std::string text;
};
// The worst first.
std::vector<Diagnosis> Diagnose(const DoctorFindings& findings);

// True if any of them is broken: something that is needed does not work.
bool IsBroken(const std::vector<Diagnosis>& diagnoses);

std::string FormatDoctor(const DoctorFindings& findings, const std::vector<Diagnosis>& diagnoses);
nlohmann::ordered_json DoctorJson(const DoctorFindings& findings,
                                  const std::vector<Diagnosis>& diagnoses);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_DOCTOR_REPORT_H_
