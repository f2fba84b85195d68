#include "tests/chaos/fleet.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "tests/cluster.h"

namespace shiftadd::testing {
namespace {

constexpr int kClient = -1;  // stands for the index of who is no daemon
constexpr absl::Duration kStartPatience = absl::Minutes(3);
// Of an orderly end; a machine that does much else at once takes its time.
constexpr absl::Duration kTermPatience = absl::Minutes(2);
constexpr size_t kLogTail = 4000;

// 'T' while a signal has stopped it; 0 if there is no such process.
char ProcessState(pid_t pid) {
  const std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  const size_t end = stat.rfind(')');
  return end == std::string::npos || end + 2 >= stat.size() ? '\0' : stat[end + 2];
}

// The last point that a log tells of, or "".
std::string LastFailPoint(const std::string& log) {
  constexpr char kMark[] = "fail point ";
  const std::string text = ReadFile(log);
  const size_t at = text.rfind(kMark);
  if (at == std::string::npos) return "";
  const size_t begin = at + sizeof(kMark) - 1;
  return text.substr(begin, text.find(':', begin) - begin);
}

}  // namespace

Fleet::Fleet(const FleetOptions& options) : options_(options), store_dir_(options.dir + "/store") {
  const auto add = [&](Role role, int count) {
    for (int i = 0; i < count; ++i) {
      auto daemon = std::make_unique<Daemon>();
      daemon->role = role;
      daemon->index = i;
      const std::string name = absl::StrCat(options_.dir, "/", RoleName(role), i);
      daemon->port_file = name + ".port";
      daemon->log = name + ".log";
      daemons_.push_back(std::move(daemon));
    }
  };
  add(Role::kPackager, 1);
  add(Role::kCoordinator, options_.coordinators);
  add(Role::kWorker, options_.workers);
  const auto link = [&](Role from, int from_index, Role to, int to_index) {
    links_.push_back({from, to, from_index, to_index, std::make_unique<Proxy>()});
  };
  link(Role::kWorker, kClient, Role::kPackager, 0);
  for (int c = 0; c < options_.coordinators; ++c) {
    link(Role::kCoordinator, c, Role::kPackager, 0);
    link(Role::kWorker, kClient, Role::kCoordinator, c);
    for (int w = 0; w < options_.workers; ++w) link(Role::kWorker, w, Role::kCoordinator, c);
  }
  for (auto& daemon : daemons_) Start(daemon.get(), "");
}

bool Fleet::AwaitStart() {
  for (const absl::Time end = absl::Now() + kStartPatience; absl::Now() < end;) {
    Poll("starting");
    bool all = true;
    for (const auto& daemon : daemons_) all &= daemon->known;
    if (all) return true;
    absl::SleepFor(absl::Milliseconds(3));
  }
  faults_.push_back("not all daemons listen after three minutes");
  return false;
}

Fleet::~Fleet() {
  for (auto& daemon : daemons_) daemon->process.Kill();
}

Fleet::Daemon& Fleet::Find(Role role, int index) {
  for (auto& daemon : daemons_) {
    if (daemon->role == role && daemon->index == index) return *daemon;
  }
  std::abort();
}

std::string Fleet::Links(Role from, int from_index, Role to) const {
  std::vector<std::string> addresses;
  for (const Link& link : links_) {
    if (link.from == from && link.from_index == from_index && link.to == to) {
      addresses.push_back(link.proxy->address());
    }
  }
  return absl::StrJoin(addresses, ",");
}

std::string Fleet::coordinator_addresses() const {
  return Links(Role::kWorker, kClient, Role::kCoordinator);
}
std::string Fleet::packager_address() const {
  return Links(Role::kWorker, kClient, Role::kPackager);
}

std::string Fleet::data_dir(Role role) const {
  return absl::StrCat(options_.dir, "/", RoleName(role), "-data");
}

void Fleet::SignalWorkers(int signal) {
  for (auto& daemon : daemons_) {
    if (daemon->role == Role::kWorker) daemon->process.Signal(signal);
  }
}

std::vector<std::string> Fleet::Arguments(const Daemon& daemon) const {
  std::vector<std::string> argv = {Binary(absl::StrCat("shiftadd-", RoleName(daemon.role))),
                                   "--blobs",
                                   store_dir_,
                                   "--http",
                                   "127.0.0.1:0",
                                   "--port-file",
                                   daemon.port_file};
  const auto add = [&](std::vector<std::string> more) {
    argv.insert(argv.end(), more.begin(), more.end());
  };
  if (daemon.role == Role::kWorker) {
    add({"--coordinator", Links(Role::kWorker, daemon.index, Role::kCoordinator), "--source-root",
         options_.source_root, "--threads", "1", "--worker-id",
         absl::StrCat("worker-", daemon.index)});
    return argv;
  }
  add({"--listen", "127.0.0.1:0"});
  const bool packager = daemon.role == Role::kPackager;
  if (!options_.postgres_url.empty()) add({"--store", options_.postgres_url});
  if (options_.postgres_url.empty() || packager) {
    add({"--data-dir", data_dir(daemon.role)});
  }
  if (packager) {
    add({"--gc-grace-seconds", "0"});
  } else {
    // Kills are what a round is made of: none of them may poison a task.
    add({"--packager", Links(Role::kCoordinator, daemon.index, Role::kPackager), "--lease-seconds",
         absl::StrCat(options_.lease_seconds), "--max-attempts", "100000"});
  }
  return argv;
}

void Fleet::Start(Daemon* daemon, const std::string& fail_point) {
  daemon->process.Kill();
  std::filesystem::remove(daemon->port_file);
  daemon->known = false;
  daemon->start_at = daemon->continue_at = absl::InfiniteFuture();
  daemon->fail_point = fail_point;
  std::vector<std::string> env;
  if (!fail_point.empty()) env.push_back("SHIFTADD_FAIL_POINT=" + fail_point);
  daemon->process = Process(Arguments(*daemon), daemon->log, env);
}

void Fleet::LearnPort(Daemon* daemon) {
  if (daemon->known || !std::filesystem::exists(daemon->port_file)) return;
  int port = 0;
  std::istringstream(ReadFile(daemon->port_file)) >> port;
  if (port == 0) return;
  daemon->known = true;
  for (Link& link : links_) {
    if (link.to == daemon->role && link.to_index == daemon->index) link.proxy->SetTarget(port);
  }
}

void Fleet::Count(const std::string& deed, const std::string& job_state) {
  ++deeds_[{deed, job_state}];
}

void Fleet::Do(const Act& act, const std::string& job_state) {
  Daemon& daemon = Find(act.role, act.index);
  const bool network =
      act.kind == ActKind::kDrop || act.kind == ActKind::kDelay || act.kind == ActKind::kHold;
  const std::string deed = absl::StrCat(ActName(act.kind), " ", RoleName(act.role));
  if (network) {
    Disturb(act);
    Count(deed, job_state);
    return;
  }
  // Who is down already stays so until its time has come.
  if (!daemon.process.running()) return;
  const absl::Time again = absl::Now() + act.pause;
  switch (act.kind) {
    case ActKind::kTerminate:
      daemon.process.Signal(SIGCONT);
      End(&daemon);
      daemon.start_at = again;
      break;
    case ActKind::kStop:
      daemon.process.Signal(SIGSTOP);
      daemon.continue_at = again;
      break;
    case ActKind::kFailPoint:
      Start(&daemon, act.fail_point);
      daemon.pause_at_fail_point = act.pause;
      return;  // counted when it is reached
    default:
      daemon.process.Kill();
      daemon.start_at = again;
      break;
  }
  Count(deed, job_state);
}

void Fleet::Disturb(const Act& act) {
  for (Link& link : links_) {
    const bool from = link.from == act.role && link.from_index == act.index;
    const bool to = link.to == act.role && link.to_index == act.index;
    if (!from && !to) continue;
    if (act.kind == ActKind::kDrop) {
      link.proxy->Drop();
      continue;
    }
    if (act.kind == ActKind::kHold) link.proxy->SetHeld(true);
    link.proxy->SetDelay(act.delay);
    link.sound_at = absl::Now() + act.pause;
  }
}

void Fleet::SeeDeath(Daemon* daemon, const std::string& job_state) {
  if (daemon->over || daemon->start_at != absl::InfiniteFuture()) return;
  if (daemon->process.running()) return;
  const std::string point = daemon->fail_point.substr(0, daemon->fail_point.find(':'));
  if (daemon->process.exit_code() == 128 + SIGKILL && !point.empty() &&
      LastFailPoint(daemon->log) == point) {
    Count(absl::StrCat("kill ", RoleName(daemon->role), " at ", point), job_state);
    daemon->start_at = absl::Now() + daemon->pause_at_fail_point;
    return;
  }
  faults_.push_back(absl::StrCat(RoleName(daemon->role), " ", daemon->index,
                                 " ended by itself with ", daemon->process.exit_code(), " in ",
                                 job_state));
  daemon->start_at = absl::Now();
}

void Fleet::SeeStop(Daemon* daemon, const std::string& job_state) {
  if (daemon->fail_point.empty() || daemon->continue_at != absl::InfiniteFuture() ||
      ProcessState(daemon->process.pid()) != 'T') {
    return;
  }
  const std::string point = daemon->fail_point.substr(0, daemon->fail_point.find(':'));
  Count(absl::StrCat("stop ", RoleName(daemon->role), " at ", point), job_state);
  daemon->continue_at =
      absl::Now() + std::max(daemon->pause_at_fail_point, absl::Milliseconds(200));
}

void Fleet::Poll(const std::string& job_state) {
  const absl::Time now = absl::Now();
  for (auto& daemon : daemons_) {
    SeeDeath(daemon.get(), job_state);
    if (now >= daemon->start_at) Start(daemon.get(), "");
    SeeStop(daemon.get(), job_state);
    if (now >= daemon->continue_at) {
      daemon->process.Signal(SIGCONT);
      daemon->continue_at = absl::InfiniteFuture();
    }
    LearnPort(daemon.get());
  }
  for (Link& link : links_) {
    if (now < link.sound_at) continue;
    link.proxy->SetHeld(false);
    link.proxy->SetDelay(absl::ZeroDuration());
    link.sound_at = absl::InfiniteFuture();
  }
}

bool Fleet::Quiet() const {
  for (const auto& daemon : daemons_) {
    if (daemon->start_at != absl::InfiniteFuture() || !daemon->fail_point.empty() ||
        daemon->continue_at != absl::InfiniteFuture()) {
      return false;
    }
  }
  return std::all_of(links_.begin(), links_.end(),
                     [](const Link& link) { return link.sound_at == absl::InfiniteFuture(); });
}

void Fleet::Calm(const std::string& job_state) {
  for (Link& link : links_) link.sound_at = absl::InfinitePast();
  for (auto& daemon : daemons_) {
    SeeDeath(daemon.get(), job_state);
    const bool down = daemon->start_at != absl::InfiniteFuture();
    // Who is armed still, and has not come to its point, goes on without.
    if (down || !daemon->fail_point.empty()) Start(daemon.get(), "");
    daemon->process.Signal(SIGCONT);
    daemon->continue_at = absl::InfiniteFuture();
  }
  Poll(job_state);
}

void Fleet::End(Daemon* daemon) {
  daemon->process.Signal(SIGTERM);
  const int code = daemon->process.Wait(kTermPatience);
  const bool at_point = code == 128 + SIGKILL && !daemon->fail_point.empty();
  if (code == 0 || at_point) return;
  // It blocks the signal before it starts a thread; until then it ends by it.
  if (code == 128 + SIGTERM && !daemon->known) return;
  faults_.push_back(absl::StrCat(RoleName(daemon->role), " ", daemon->index, " ended with ", code,
                                 " on SIGTERM"));
}

void Fleet::Terminate(bool keep_packager) {
  for (const Role role : {Role::kWorker, Role::kCoordinator, Role::kPackager}) {
    if (role == Role::kPackager && keep_packager) continue;
    for (auto& daemon : daemons_) {
      if (daemon->role != role) continue;
      if (daemon->process.running()) End(daemon.get());
      daemon->over = true;
    }
  }
}

std::string Fleet::Logs() const {
  std::string all;
  for (const auto& daemon : daemons_) {
    std::string text = ReadFile(daemon->log);
    if (text.size() > kLogTail) text = "…" + text.substr(text.size() - kLogTail);
    absl::StrAppend(&all, "--- ", RoleName(daemon->role), " ", daemon->index, "\n", text, "\n");
  }
  return all;
}

}  // namespace shiftadd::testing
