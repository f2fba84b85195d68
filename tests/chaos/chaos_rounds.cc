// Rounds of kill -9, SIGSTOP, SIGTERM, fail points and broken connections on whole clusters. Each
// round is a function of its seed; one that fails prints its seed and its schedule.
//   chaos_rounds --rounds 10 --seed 1        seeds 1 … 10
//   chaos_rounds --rounds 1 --seed 77 --show replays seed 77 and prints what it does
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/chaos/round.h"

namespace shiftadd::testing {
namespace {

struct Flags {
  int rounds = 10;
  uint64_t seed = 1;
  double seconds = 0;
  std::string store = "both";
  std::string report;
  int lease_seconds = 2;
  bool keep_going = false, show = false;
};

// Of all rounds, by what was done and the job's state when it was.
std::string Table(const Deeds& deeds) {
  const std::vector<std::string> states = {"submitting", "QUEUED",     "INGESTING",  "CALIBRATING",
                                           "PROFILING",  "ALLOCATING", "EVALUATING", "REFINING",
                                           "PACKAGING",  "SUCCEEDED"};
  std::map<std::string, std::map<std::string, int>> rows;
  for (const auto& [deed, count] : deeds) rows[deed.first][deed.second] += count;
  std::string text = absl::StrFormat("%-42s", "");
  for (const std::string& state : states) absl::StrAppendFormat(&text, "%12s", state);
  absl::StrAppendFormat(&text, "%8s\n", "all");
  for (const auto& [deed, by_state] : rows) {
    int all = 0;
    absl::StrAppendFormat(&text, "%-42s", deed);
    for (const std::string& state : states) {
      const auto found = by_state.find(state);
      absl::StrAppendFormat(&text, "%12d", found == by_state.end() ? 0 : found->second);
    }
    for (const auto& [state, count] : by_state) all += count;
    absl::StrAppendFormat(&text, "%8d\n", all);
  }
  return text;
}

class Chaos {
 public:
  explicit Chaos(const Flags& flags) : flags_(flags), root_(NewTempDir("chaos_model")) {
    WriteChaosModel(root_);
    setting_.model_root = root_;
    setting_.lease_seconds = flags.lease_seconds;
    if (flags.store != "sqlite") setting_.postgres = &postgres_.emplace();
  }
  ~Chaos() { std::filesystem::remove_all(root_); }

  bool Run() {
    const absl::Time start = absl::Now();
    if (!Undisturbed()) return false;
    for (uint64_t seed = flags_.seed; done_ < flags_.rounds; ++seed) {
      if (flags_.seconds > 0 && absl::ToDoubleSeconds(absl::Now() - start) > flags_.seconds) break;
      const Schedule schedule = MakeSchedule(seed, length_);
      if (flags_.store != "both" && schedule.postgres != (flags_.store == "postgres")) continue;
      if (!One(schedule) && !flags_.keep_going) break;
      if (!flags_.report.empty()) std::ofstream(flags_.report) << Summary();
    }
    std::printf("\n%s", Summary().c_str());
    return failed_ == 0;
  }

 private:
  // What all the others are compared with, and about how long a job takes here.
  bool Undisturbed() {
    for (const bool refine : {false, true}) {
      Schedule calm;
      calm.refine = refine;
      const RoundResult result = RunRound(calm, setting_);
      if (!Tell(calm, result)) return false;
      (refine ? setting_.refined_digest : setting_.digest) = result.digest;
      if (!refine) length_ = absl::Seconds(std::clamp(1.5 * result.seconds, 2.0, 20.0));
    }
    return true;
  }

  bool One(const Schedule& schedule) {
    if (flags_.show) std::printf("%s", schedule.ToString().c_str());
    const RoundResult result = RunRound(schedule, setting_);
    ++done_;
    (schedule.postgres ? on_postgres_ : on_sqlite_) += 1;
    events_ += result.events;
    for (const auto& [deed, count] : result.deeds) deeds_[deed] += count;
    const bool good = Tell(schedule, result);
    if (!good) failed_seeds_ += absl::StrCat(failed_++ > 0 ? ", " : "", schedule.seed);
    return good;
  }

  static bool Tell(const Schedule& schedule, const RoundResult& result) {
    int deeds = 0;
    for (const auto& [deed, count] : result.deeds) deeds += count;
    std::printf("seed %lu: %s, %d coordinators, %d workers%s: %d disturbances, %.1f s, %s\n",
                static_cast<unsigned long>(schedule.seed),
                schedule.postgres ? "PostgreSQL" : "SQLite", schedule.coordinators,
                schedule.workers, schedule.refine ? ", refined" : "", deeds, result.seconds,
                result.faults.empty() ? "good" : "FAILED");
    std::fflush(stdout);
    if (result.faults.empty()) return true;
    for (const std::string& fault : result.faults) std::printf("  %s\n", fault.c_str());
    std::printf("%s%s", schedule.ToString().c_str(), result.logs.c_str());
    std::printf("replay: chaos_rounds --rounds 1 --seed %lu --show\n",
                static_cast<unsigned long>(schedule.seed));
    std::fflush(stdout);
    return false;
  }

  std::string Summary() const {
    std::string text = absl::StrFormat(
        "chaos: %d rounds from seed %d on, %d on PostgreSQL, %d on SQLite, %d failed%s; %d events, "
        "each seen once\n%s",
        done_, flags_.seed, on_postgres_, on_sqlite_, failed_,
        failed_ > 0 ? absl::StrCat(" (seeds ", failed_seeds_, ")") : "", events_, Table(deeds_));
    return text;
  }

  const Flags flags_;
  const std::string root_;
  std::optional<PostgresServer> postgres_;
  RoundSetting setting_;
  absl::Duration length_ = absl::Seconds(4);
  int done_ = 0, failed_ = 0, on_postgres_ = 0, on_sqlite_ = 0;
  size_t events_ = 0;
  std::string failed_seeds_;
  Deeds deeds_;
};

}  // namespace
}  // namespace shiftadd::testing

int main(int argc, char** argv) {
  CLI::App app("Kills, stops and cuts off the daemons of small clusters, round after round.");
  shiftadd::testing::Flags flags;
  app.add_option("--rounds", flags.rounds, "How many")->capture_default_str();
  app.add_option("--seed", flags.seed, "Of the first round")->capture_default_str();
  app.add_option("--seconds", flags.seconds, "Begin no round after so long; 0: no limit");
  app.add_option("--store", flags.store, "Leave out the seeds of the other store")
      ->check(CLI::IsMember({"both", "sqlite", "postgres"}))
      ->capture_default_str();
  app.add_option("--report", flags.report, "Write the counts to this file after every round");
  app.add_option("--lease-seconds", flags.lease_seconds,
                 "Longer on a machine that is busy with much else")
      ->capture_default_str();
  app.add_flag("--keep-going", flags.keep_going, "Go on after a round that failed");
  app.add_flag("--show", flags.show, "Print every round's schedule");
  CLI11_PARSE(app, argc, argv);
  return shiftadd::testing::Chaos(flags).Run() ? 0 : 1;
}
