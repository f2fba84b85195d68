#include "tests/chaos/round.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/package.grpc.pb.h"
#include "tests/chaos/watcher.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

constexpr absl::Duration kArmedPatience = absl::Seconds(30);
constexpr absl::Duration kTick = absl::Milliseconds(3);
// From the last act on, nobody is disturbed. Longer than a whole job takes on a busy machine.
constexpr absl::Duration kCalmTimeout = absl::Seconds(180);
constexpr absl::Duration kDeleteTimeout = absl::Seconds(30);

// PostgreSQL dies at once and comes back at its time.
class StoreKiller {
 public:
  explicit StoreKiller(PostgresServer* server) : server_(server) {}
  void Kill(absl::Duration pause) {
    if (server_ == nullptr || start_at_ != absl::InfiniteFuture()) return;
    server_->Kill();
    start_at_ = absl::Now() + pause;
  }
  void Poll() {
    if (absl::Now() >= start_at_) Calm();
  }
  bool quiet() const { return start_at_ == absl::InfiniteFuture(); }
  void Calm() {
    if (start_at_ != absl::InfiniteFuture()) server_->Start();
    start_at_ = absl::InfiniteFuture();
  }

 private:
  PostgresServer* const server_;
  absl::Time start_at_ = absl::InfiniteFuture();
};

// Does the acts at their times until all are done or the job has ended, then calms everything.
void Disturb(const Schedule& schedule, const Watcher& watcher, Fleet* fleet, StoreKiller* store,
             Deeds* store_deeds) {
  const absl::Time start = absl::Now();
  for (const Act& act : schedule.acts) {
    while (absl::Now() < start + act.at && !watcher.ended()) {
      fleet->Poll(watcher.state());
      store->Poll();
      absl::SleepFor(kTick);
    }
    if (watcher.ended()) break;
    if (act.kind == ActKind::kStore) {
      store->Kill(act.pause);
      ++(*store_deeds)[{ActName(act.kind), watcher.state()}];
    } else {
      fleet->Do(act, watcher.state());
    }
  }
  // Pauses and fail points that are armed still get their time: the last of them lie at the end of
  // the job, which goes on all the while.
  const absl::Time end = absl::Now() + kArmedPatience;
  while (absl::Now() < end && !watcher.ended() && !(fleet->Quiet() && store->quiet())) {
    fleet->Poll(watcher.state());
    store->Poll();
    absl::SleepFor(kTick);
  }
  store->Calm();
  fleet->Calm(watcher.state());
}

bool AwaitEnd(const Watcher& watcher, Fleet* fleet) {
  const absl::Time end = absl::Now() + kCalmTimeout;
  while (!watcher.ended() && watcher.faults().empty() && absl::Now() < end) {
    fleet->Poll(watcher.state());
    absl::SleepFor(kTick);
  }
  return watcher.ended();
}

// Tries until it works: who was killed last may only just be there again.
template <typename Work>
absl::Status Patiently(Fleet* fleet, const Work& work) {
  const absl::Time end = absl::Now() + kDeleteTimeout;
  absl::Status status;
  do {
    fleet->Poll("after the end");
    status = work();
    if (status.ok()) return status;
    absl::SleepFor(absl::Milliseconds(100));
  } while (absl::Now() < end);
  return status;
}

absl::Status Collect(const std::string& packager) {
  const auto stub = v1::PackageService::NewStub(rpc::MakeChannel(packager));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  v1::CollectGarbageResponse response;
  return rpc::FromGrpc(stub->CollectGarbage(&context, {}, &response));
}

void Append(const Faults& more, Faults* faults) {
  faults->insert(faults->end(), more.begin(), more.end());
}

// The job as its user finds it.
void CheckJob(const Watcher& watcher, Fleet* fleet, const std::string& expected,
              RoundResult* result) {
  v1::Job job;
  const absl::Status got = Patiently(fleet, [&]() -> absl::Status {
    const auto answer = watcher.Get();
    if (answer.ok()) job = *answer;
    return answer.status();
  });
  if (!got.ok()) return result->faults.push_back(absl::StrCat("GetJob: ", got.ToString()));
  if (job.state() != v1::JOB_STATE_SUCCEEDED) {
    return result->faults.push_back(
        absl::StrCat("the job is ", v1::JobState_Name(job.state()), ": ", job.error()));
  }
  result->digest = job.package_digest();
  if (!expected.empty() && result->digest != expected) {
    result->faults.push_back(
        absl::StrCat("the package is ", result->digest, ", expected ", expected));
  }
  std::vector<v1::JobEvent> events;
  const absl::Status read = Patiently(fleet, [&]() -> absl::Status {
    auto answer = watcher.ReadEvents();
    if (answer.ok()) events = *std::move(answer);
    return answer.status();
  });
  if (!read.ok()) result->faults.push_back(absl::StrCat("WatchJob: ", read.ToString()));
  Append(CheckEvents(events), &result->faults);
  const auto seen = watcher.events();
  bool same = seen.size() == events.size();
  for (size_t i = 0; same && i < seen.size(); ++i) {
    same = seen[i].SerializeAsString() == events[i].SerializeAsString();
  }
  if (!same) {
    result->faults.push_back(absl::StrCat("the watcher saw ", seen.size(), " events, there are ",
                                          events.size(), ", or they differ"));
  }
  result->events = events.size();
}

// Deletes the job and collects: only the package may be left.
void CheckRest(const Watcher& watcher, Fleet* fleet, RoundResult* result) {
  const absl::Status deleted = Patiently(fleet, [&] {
    const absl::Status status = watcher.DeleteJob();
    // The answer to an earlier try was lost.
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  });
  if (!deleted.ok()) result->faults.push_back(absl::StrCat("DeleteJob: ", deleted.ToString()));
  fleet->Terminate(/*keep_packager=*/true);
  const absl::Status collected =
      Patiently(fleet, [&] { return Collect(fleet->packager_address()); });
  if (!collected.ok()) {
    result->faults.push_back(absl::StrCat("CollectGarbage: ", collected.ToString()));
  }
  fleet->Terminate(/*keep_packager=*/false);
  Append(CheckBlobs(fleet->store_dir(), kChaosReference, result->digest), &result->faults);
  Append(CheckNoOrphans(fleet->store_dir()), &result->faults);
}

}  // namespace

void WriteChaosModel(const std::string& root) {
  TinyLlamaOptions options;
  options.hidden = 64;
  options.intermediate = 96;
  options.blocks = 2;
  const absl::Status written = WriteTinyLlamaDirectory(root + "/tiny", options);
  if (written.ok()) return;
  std::fprintf(stderr, "chaos: %s\n", written.ToString().c_str());
  std::abort();
}

v1::JobSpec ChaosSpec(const std::string& root, bool refine) {
  v1::JobSpec spec;
  spec.set_source("file://" + root + "/tiny");
  if (refine) spec.mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED);
  for (const uint32_t bits : {2, 3}) spec.mutable_recipe()->add_candidate_bits(bits);
  spec.mutable_budget()->set_planes(2.5);
  spec.mutable_calibration()->set_sequences(20);
  spec.mutable_calibration()->set_length(16);
  spec.mutable_evaluation()->set_sequences(6);
  spec.set_output(kChaosReference);
  return spec;
}

RoundResult RunRound(const Schedule& schedule, const RoundSetting& setting) {
  RoundResult result;
  FleetOptions options;
  options.dir = NewTempDir("chaos");
  options.source_root = setting.model_root;
  options.coordinators = schedule.coordinators;
  options.workers = schedule.workers;
  options.lease_seconds = setting.lease_seconds;
  if (schedule.postgres) options.postgres_url = setting.postgres->NewDatabase();
  {
    Fleet fleet(options);
    fleet.AwaitStart();
    StoreKiller store(schedule.postgres ? setting.postgres : nullptr);
    Watcher watcher(fleet.coordinator_addresses(), ChaosSpec(setting.model_root, schedule.refine));
    const absl::Time start = absl::Now();
    Disturb(schedule, watcher, &fleet, &store, &result.deeds);
    const bool ended = AwaitEnd(watcher, &fleet);
    result.seconds = absl::ToDoubleSeconds(absl::Now() - start);
    watcher.Stop();
    if (ended) {
      CheckJob(watcher, &fleet, schedule.refine ? setting.refined_digest : setting.digest, &result);
      CheckRest(watcher, &fleet, &result);
    } else {
      result.faults.push_back(absl::StrCat("the job stands at ", watcher.state()));
    }
    Append(watcher.faults(), &result.faults);
    Append(fleet.faults(), &result.faults);
    for (const auto& [deed, count] : fleet.deeds()) result.deeds[deed] += count;
    if (!result.faults.empty()) result.logs = fleet.Logs();
  }
  if (std::getenv("SHIFTADD_TEST_KEEP") == nullptr) {
    std::filesystem::remove_all(options.dir);
    if (schedule.postgres) setting.postgres->DropDatabases();
  }
  return result;
}

}  // namespace shiftadd::testing
