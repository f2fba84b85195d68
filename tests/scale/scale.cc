// How far the control plane goes: a real coordinator and packager, simulated workers, queued jobs,
// watchers.
//   scale_run --store sqlite --workers 64 --jobs 200 --watchers 1000 --seconds 60
// Prints one row of a table, and exits with 1 where a call failed, a watcher missed an event, or
// idle time was above --max-idle of the leased time.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"
#include "services/base/ids.h"
#include "services/blob/blob_store.h"
#include "services/coordinator/simulated_cluster.h"
#include "services/rpc/rpc.h"
#include "services/store/postgres_server.h"
#include "tests/cluster.h"
#include "tests/process.h"
#include "tests/scale/simulated_workers.h"
#include "tests/scale/watchers.h"

namespace shiftadd::testing {
namespace {

struct Flags {
  std::string store = "sqlite";
  int workers = 64, jobs = 200, watchers = 1000, blocks = 64;
  double seconds = 60, task_seconds = 1, max_idle = 0;
};

// Of a process, from /proc: resident MB.
double ResidentMb(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/statm"));
  double total = 0, resident = 0;
  in >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

// What /proc/PID/stat says: the parent and the CPU seconds of the process and its children that
// have ended.
struct ProcessStat {
  pid_t parent = 0;
  double cpu_seconds = 0;
};
ProcessStat StatOf(const std::string& pid) {
  const std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  std::istringstream in(stat.substr(std::min(stat.size(), stat.rfind(')') + 2)));
  std::string skipped;
  ProcessStat out;
  in >> skipped >> out.parent;
  for (int i = 0; i < 9; ++i) in >> skipped;
  for (int i = 0; i < 4; ++i) {
    double ticks = 0;
    in >> ticks;
    out.cpu_seconds += ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  return out;
}
// Of a process and its children.
double CpuSeconds(pid_t pid) {
  if (pid <= 0) return 0;
  double seconds = StatOf(absl::StrCat(pid)).cpu_seconds;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const ProcessStat child = StatOf(name);
    if (child.parent == pid) seconds += child.cpu_seconds;
  }
  return seconds;
}
// Of the whole machine, idle time left out.
double BusySeconds() {
  std::ifstream in("/proc/stat");
  std::string word;
  in >> word;
  double busy = 0;
  for (int i = 0; i < 8; ++i) {
    double ticks = 0;
    in >> ticks;
    if (i != 3 && i != 4) busy += ticks;  // idle, and waiting for the disk
  }
  return busy / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// The processes, ended with the object.
class ControlPlane {
 public:
  explicit ControlPlane(const Flags& flags) : dir_(NewTempDir("scale")) {
    if (flags.store == "postgres") postgres_ = std::make_unique<PostgresServer>(/*durable=*/true);
    const std::string url = postgres_ != nullptr ? postgres_->NewDatabase() : "";
    packager_ = Start("packager", url, {});
    packager_port_ = Port("packager", &packager_);
    coordinator_ =
        Start("coordinator", url, {"--packager", absl::StrCat("127.0.0.1:", packager_port_)});
    coordinator_port_ = Port("coordinator", &coordinator_);
  }
  ~ControlPlane() {
    coordinator_.Kill();
    packager_.Kill();
    std::filesystem::remove_all(dir_);
  }
  std::string coordinator() const { return absl::StrCat("127.0.0.1:", coordinator_port_); }
  pid_t pid() const { return coordinator_.pid(); }
  pid_t packager_pid() const { return packager_.pid(); }
  pid_t postgres_pid() const { return postgres_ == nullptr ? 0 : postgres_->pid(); }
  std::string blobs() const { return dir_ + "/blobs"; }
  std::string Log() const { return ReadFile(dir_ + "/coordinator.log"); }

 private:
  Process Start(const std::string& name, const std::string& url,
                const std::vector<std::string>& more) const {
    std::vector<std::string> argv = {Binary("shiftadd-" + name),
                                     "--listen",
                                     "127.0.0.1:0",
                                     "--http",
                                     "127.0.0.1:0",
                                     "--blobs",
                                     blobs(),
                                     "--port-file",
                                     absl::StrCat(dir_, "/", name, ".port"),
                                     "--data-dir",
                                     absl::StrCat(dir_, "/", name)};
    if (!url.empty()) {
      argv.push_back("--store");
      argv.push_back(url);
    }
    argv.insert(argv.end(), more.begin(), more.end());
    return Process(argv, absl::StrCat(dir_, "/", name, ".log"));
  }
  int Port(const std::string& name, Process* process) const {
    return WaitForPorts(absl::StrCat(dir_, "/", name, ".port"), process,
                        absl::StrCat(dir_, "/", name, ".log"))[0];
  }

  const std::string dir_;
  std::unique_ptr<PostgresServer> postgres_;
  Process packager_, coordinator_;
  int packager_port_ = 0, coordinator_port_ = 0;
};

// CPU seconds since the start: whose they are.
struct Usage {
  explicit Usage(const ControlPlane& plane)
      : coordinator(CpuSeconds(plane.pid())),
        packager(CpuSeconds(plane.packager_pid())),
        postgres(CpuSeconds(plane.postgres_pid())),
        load(StatOf("self").cpu_seconds),
        machine(BusySeconds()) {}
  double coordinator, packager, postgres, load, machine;
};

// What the simulated results name has to be there to be pinned.
void StoreBlobs(const std::string& dir, int blocks) {
  const auto store = OpenOciLayout(dir).value();
  std::vector<std::string> texts = {"config", "tokenizer", "head", "unquantized"};
  for (int block = 0; block < blocks; ++block) {
    for (const char* layer : {"attn.q", "mlp.down"}) {
      for (int bits = 0; bits <= 8; ++bits) {
        texts.push_back(absl::StrCat("blocks.", block, ".", layer, "@", bits));
      }
    }
  }
  for (const std::string& text : texts) {
    if (!store->Put(text).ok()) std::abort();
  }
}

std::vector<std::string> SubmitJobs(const std::string& coordinator, int count,
                                    Latencies* latencies) {
  const auto stub = v1::JobService::NewStub(rpc::MakeChannel(coordinator));
  std::vector<std::string> jobs;
  for (int i = 0; i < count; ++i) {
    v1::SubmitJobRequest request = coordinator::SimulatedCluster::Request();
    request.set_request_id(NewId("scale"));
    request.mutable_spec()->set_output(absl::StrCat("job", i, ":latest"));
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    v1::Job job;
    const absl::Time start = absl::Now();
    const grpc::Status status = stub->SubmitJob(&context, request, &job);
    latencies->Add(absl::Now() - start);
    if (!status.ok()) {
      std::fprintf(stderr, "SubmitJob: %s\n", status.error_message().c_str());
      std::exit(1);
    }
    jobs.push_back(job.job_id());
  }
  return jobs;
}

int Run(const Flags& flags) {
  ControlPlane plane(flags);
  StoreBlobs(plane.blobs(), flags.blocks);
  coordinator::SimulatedModel model;
  model.blocks = static_cast<uint32_t>(flags.blocks);
  const coordinator::SimulatedCluster answers(model);

  Latencies submit;
  WorkerFigures figures;
  WatchFigures watched;
  // A part of the jobs first, so that the others are submitted to a coordinator that works.
  std::vector<std::string> jobs = SubmitJobs(plane.coordinator(), flags.jobs / 4, &submit);
  std::optional<SimulatedWorkers> workers;
  workers.emplace(
      flags.workers, plane.coordinator(), absl::Seconds(flags.task_seconds),
      [&](const v1::Task& task) { return answers.Answer(task); }, &figures);
  submit.Clear();
  for (const std::string& job :
       SubmitJobs(plane.coordinator(), flags.jobs - flags.jobs / 4, &submit)) {
    jobs.push_back(job);
  }
  std::optional<Watchers> watchers;
  if (flags.watchers > 0) watchers.emplace(flags.watchers, plane.coordinator(), jobs, &watched);
  // Every worker has work, and nothing of the start is counted.
  absl::SleepFor(absl::Seconds(2 * flags.task_seconds + 3));
  for (Latencies* l : {&figures.lease, &figures.renew, &figures.complete}) l->Clear();
  figures.idle_us = figures.leased_us = figures.empty_us = 0;
  figures.tasks = 0;
  const double rss_before = ResidentMb(plane.pid());
  const Usage before(plane);
  const uint64_t events_before = watched.events;
  const absl::Time start = absl::Now();
  std::string memory;
  while (absl::Now() < start + absl::Seconds(flags.seconds)) {
    absl::SleepFor(std::min(absl::Minutes(1), start + absl::Seconds(flags.seconds) - absl::Now()));
    absl::StrAppendFormat(&memory, " %.0f", ResidentMb(plane.pid()));
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const double rss = ResidentMb(plane.pid());
  const Usage after(plane);
  const double idle = static_cast<double>(figures.idle_us) / static_cast<double>(figures.leased_us);
  const int open = watched.open;
  const uint64_t events = watched.events - events_before;
  std::printf(
      "%-9s %7d %5d %8d %9.1f %7.1f%% %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f "
      "%6.2f %7.0f %7.0f\n",
      flags.store.c_str(), flags.workers, flags.jobs, open,
      static_cast<double>(figures.tasks) / seconds, 100 * idle, figures.lease.Quantile(.5),
      figures.lease.Quantile(.99), figures.renew.Quantile(.5), figures.renew.Quantile(.99),
      figures.complete.Quantile(.5), figures.complete.Quantile(.99), submit.Quantile(.5),
      submit.Quantile(.99), (after.coordinator - before.coordinator) / seconds, rss_before, rss);
  std::printf("  %lu events to watchers, %lu gaps, %d streams failed; %lu leases without a task\n",
              static_cast<unsigned long>(events), static_cast<unsigned long>(watched.gaps),
              watched.failed.load(), static_cast<unsigned long>(figures.empty_leases));
  const double ours = after.coordinator + after.packager + after.postgres + after.load -
                      before.coordinator - before.packager - before.postgres - before.load;
  std::printf(
      "  CPUs: coordinator %.2f, PostgreSQL %.2f, packager %.2f, workers and watchers %.2f, "
      "everybody "
      "else on the machine %.2f\n",
      (after.coordinator - before.coordinator) / seconds,
      (after.postgres - before.postgres) / seconds, (after.packager - before.packager) / seconds,
      (after.load - before.load) / seconds, (after.machine - before.machine - ours) / seconds);
  if (flags.seconds > 60) std::printf("  MB of the coordinator, each minute:%s\n", memory.c_str());
  std::fflush(stdout);
  watchers.reset();
  workers.reset();
  bool good = watched.gaps == 0 && watched.failed == 0 && figures.fault.empty();
  if (!figures.fault.empty()) std::printf("  %s\n", figures.fault.c_str());
  if (flags.max_idle > 0 && idle > flags.max_idle) {
    std::printf("  idle: found %.3f of the leased time, expected at most %.3f\n", idle,
                flags.max_idle);
    good = false;
  }
  if (!good) std::printf("%s\n", plane.Log().substr(0, 3000).c_str());
  return good ? 0 : 1;
}

}  // namespace
}  // namespace shiftadd::testing

int main(int argc, char** argv) {
  CLI::App app("Measures a coordinator under simulated workers, queued jobs and watchers.");
  shiftadd::testing::Flags flags;
  bool header = false;
  app.add_option("--store", flags.store)->check(CLI::IsMember({"sqlite", "postgres"}));
  app.add_option("--workers", flags.workers)->capture_default_str();
  app.add_option("--jobs", flags.jobs)->capture_default_str();
  app.add_option("--watchers", flags.watchers)->capture_default_str();
  app.add_option("--blocks", flags.blocks, "PROFILE tasks of a job")->capture_default_str();
  app.add_option("--seconds", flags.seconds, "How long to measure")->capture_default_str();
  app.add_option("--task-seconds", flags.task_seconds)->capture_default_str();
  app.add_option("--max-idle", flags.max_idle, "Fail above this share; 0: do not judge");
  app.add_flag("--header", header, "Print the table's head too");
  CLI11_PARSE(app, argc, argv);
  if (header) {
    std::printf(
        "store     workers  jobs watchers   tasks/s    idle lease50 lease99  renew50  "
        "renew99   compl50  compl99 submit50 submit99   CPUs  MB from   to\n");
  }
  return shiftadd::testing::Run(flags);
}
