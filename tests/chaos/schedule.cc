#include "tests/chaos/schedule.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shiftadd::testing {
namespace {

// splitmix64: the distributions of <random> differ from library to library.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}
  // 0 … n - 1
  uint64_t Roll(uint64_t n) {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % n;
  }
  absl::Duration Millis(uint64_t least, uint64_t most) {
    return absl::Milliseconds(least + Roll(most - least + 1));
  }

 private:
  uint64_t state_;
};

// Half of the acts hit workers: there are more of them, and they do the work.
Role PickRole(Dice* dice) {
  switch (dice->Roll(6)) {
    case 0:
    case 1:
      return Role::kCoordinator;
    case 2:
      return Role::kPackager;
    default:
      return Role::kWorker;
  }
}

ActKind PickKind(Dice* dice, bool postgres) {
  const uint64_t n = dice->Roll(100);
  if (n < 30) return ActKind::kKill;
  if (n < 65) return ActKind::kFailPoint;
  if (n < 73) return ActKind::kStop;
  if (n < 79) return ActKind::kTerminate;
  if (n < 86) return ActKind::kDrop;
  if (n < 92) return ActKind::kDelay;
  if (n < 97 || !postgres) return ActKind::kHold;
  return ActKind::kStore;
}

// How often a point is passed differs by orders of magnitude: a store commits all the time, a tag
// moves once, and the packager commits a handful of times in a job.
uint64_t PickNth(Dice* dice, Role role, const std::string& point) {
  if (point.rfind("store.", 0) == 0) return 1 + dice->Roll(role == Role::kPackager ? 5 : 30);
  if (point.rfind("blob.", 0) == 0) return 1 + dice->Roll(6);
  if (point.rfind("task.", 0) == 0) return 1 + dice->Roll(3);
  return 1;
}

Act MakeAct(Dice* dice, const Schedule& schedule, absl::Duration length) {
  Act act;
  act.at = dice->Millis(0, static_cast<uint64_t>(absl::ToInt64Milliseconds(length)));
  act.kind = PickKind(dice, schedule.postgres);
  act.role = PickRole(dice);
  const int count = act.role == Role::kWorker        ? schedule.workers
                    : act.role == Role::kCoordinator ? schedule.coordinators
                                                     : 1;
  act.index = static_cast<int>(dice->Roll(static_cast<uint64_t>(count)));
  // Two thirds come back at once; the others after long enough for leases to end.
  act.pause = dice->Roll(3) > 0 ? absl::ZeroDuration() : dice->Millis(100, 2500);
  switch (act.kind) {
    case ActKind::kFailPoint: {
      const auto& points = FailPointsOf(act.role);
      const std::string& point = points[dice->Roll(points.size())];
      const bool stop = dice->Roll(5) == 0;
      act.fail_point =
          absl::StrCat(point, ":", PickNth(dice, act.role, point), stop ? ":stop" : ":kill");
      break;
    }
    case ActKind::kStop:
    case ActKind::kHold:
    case ActKind::kStore:
      act.pause = dice->Millis(50, 3500);
      break;
    case ActKind::kDelay:
      act.pause = dice->Millis(300, 2000);
      act.delay = dice->Millis(5, 250);
      break;
    default:
      break;
  }
  return act;
}

}  // namespace

const char* RoleName(Role role) {
  switch (role) {
    case Role::kCoordinator:
      return "coordinator";
    case Role::kWorker:
      return "worker";
    case Role::kPackager:
      return "packager";
  }
  return "?";
}

const char* ActName(ActKind kind) {
  switch (kind) {
    case ActKind::kKill:
      return "kill";
    case ActKind::kTerminate:
      return "terminate";
    case ActKind::kStop:
      return "stop";
    case ActKind::kFailPoint:
      return "fail point";
    case ActKind::kDrop:
      return "drop";
    case ActKind::kDelay:
      return "delay";
    case ActKind::kHold:
      return "hold";
    case ActKind::kStore:
      return "kill of PostgreSQL";
  }
  return "?";
}

const std::vector<std::string>& FailPointsOf(Role role) {
  static const auto& coordinator = *new std::vector<std::string>{
      "store.commit.before", "store.commit.after", "task.complete.before", "task.complete.after"};
  static const auto& worker =
      *new std::vector<std::string>{"blob.rename.before", "blob.rename.after", "task.lease.after",
                                    "task.report.before", "task.report.after"};
  static const auto& packager = *new std::vector<std::string>{
      "store.commit.before", "store.commit.after", "blob.rename.before", "blob.rename.after",
      "publish.start",       "publish.config",     "publish.manifest",   "publish.provenance",
      "tag.move.before",     "tag.move.after",     "publish.row",        "publish.referrers"};
  switch (role) {
    case Role::kCoordinator:
      return coordinator;
    case Role::kWorker:
      return worker;
    default:
      return packager;
  }
}

std::string Act::ToString() const {
  std::string text = absl::StrCat("at ", absl::FormatDuration(at), ": ", ActName(kind));
  if (kind != ActKind::kStore) absl::StrAppend(&text, " ", RoleName(role), " ", index);
  if (!fail_point.empty()) absl::StrAppend(&text, " ", fail_point);
  if (delay > absl::ZeroDuration()) absl::StrAppend(&text, " by ", absl::FormatDuration(delay));
  if (pause > absl::ZeroDuration()) absl::StrAppend(&text, ", for ", absl::FormatDuration(pause));
  return text;
}

std::string Schedule::ToString() const {
  std::string text =
      absl::StrCat("seed ", seed, ": ", postgres ? "PostgreSQL" : "SQLite", ", ", coordinators,
                   coordinators == 1 ? " coordinator, " : " coordinators, ", workers,
                   workers == 1 ? " worker" : " workers", refine ? ", refined" : "", "\n");
  for (const Act& act : acts) absl::StrAppend(&text, "  ", act.ToString(), "\n");
  return text;
}

Schedule MakeSchedule(uint64_t seed, absl::Duration length) {
  Dice dice(seed);
  Schedule schedule;
  schedule.seed = seed;
  schedule.postgres = dice.Roll(2) == 0;
  schedule.coordinators = schedule.postgres ? 1 + static_cast<int>(dice.Roll(3)) : 1;
  schedule.workers = 1 + static_cast<int>(dice.Roll(3));
  schedule.refine = dice.Roll(3) == 0;
  const uint64_t acts = 2 + dice.Roll(7);
  for (uint64_t i = 0; i < acts; ++i) schedule.acts.push_back(MakeAct(&dice, schedule, length));
  std::stable_sort(schedule.acts.begin(), schedule.acts.end(),
                   [](const Act& a, const Act& b) { return a.at < b.at; });
  return schedule;
}

}  // namespace shiftadd::testing
