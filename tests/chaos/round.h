// One round: a fresh cluster, one job, a schedule of disturbances, and what must be true at its
// end.
#ifndef SHIFTADD_TESTS_CHAOS_ROUND_H_
#define SHIFTADD_TESTS_CHAOS_ROUND_H_

#include <string>

#include "services/store/postgres_server.h"
#include "shiftadd/v1/job.pb.h"
#include "tests/chaos/checks.h"
#include "tests/chaos/fleet.h"
#include "tests/chaos/schedule.h"

namespace shiftadd::testing {

// What all rounds share.
struct RoundSetting {
  std::string model_root;              // a folder with the model in tiny/
  PostgresServer* postgres = nullptr;  // needed by schedules that ask for it
  int lease_seconds = 2;
  // Digests of undisturbed runs; empty: not known yet.
  std::string digest, refined_digest;
};

struct RoundResult {
  Faults faults;
  std::string digest;  // of the package
  Deeds deeds;
  double seconds = 0;  // from submission to the end of the job
  size_t events = 0;
  std::string logs;  // of the daemons, if there are faults
};

// A random LLaMA of two narrow blocks in `root`/tiny: its job takes seconds. Aborts the test
// program if it cannot be written.
void WriteChaosModel(const std::string& root);
// Its job: two candidates a layer, mixed widths, and, if `refine`, REFINING too.
v1::JobSpec ChaosSpec(const std::string& root, bool refine);
inline constexpr char kChaosReference[] = "chaos:latest";

RoundResult RunRound(const Schedule& schedule, const RoundSetting& setting);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_CHAOS_ROUND_H_
