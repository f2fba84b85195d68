#include "services/cli/cluster_status.h"

#include <algorithm>
#include <future>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/base/printable.h"
#include "services/cli/clients.h"
#include "services/cli/progress_view.h"
#include "services/cli/proto_json.h"
#include "services/cli/table.h"
#include "services/cli/units.h"
#include "services/rpc/addresses.h"

namespace shiftadd::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

// A daemon that hears but hangs must not keep the others' answers back.
constexpr absl::Duration kTimeout = absl::Seconds(8);
constexpr size_t kShortDigest = 19;  // "sha256:" and 12 digits
constexpr size_t kMostOfAnError = 160;
// Of no bytes. Asking for any digest shows whether the store answers.
constexpr char kSomeBlob[] =
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct PackagerAnswer {
  absl::Status status;
  std::optional<absl::Status> blobs;
  std::vector<v1::Replica> replicas;
};

PackagerAnswer AskPackager(const std::string& address) {
  PackageClientOptions options;
  options.timeout = kTimeout;
  const std::unique_ptr<PackageClient> client = PackageClient::Connect(address, options);
  PackagerAnswer answer;
  absl::StatusOr<std::vector<v1::Replica>> replicas = client->ListReplicas();
  answer.status = replicas.status();
  if (!replicas.ok()) return answer;
  answer.replicas = *std::move(replicas);
  const absl::Status blob = client->StatBlob(kSomeBlob).status();
  if (absl::IsPermissionDenied(blob)) return answer;  // a viewer may not ask
  answer.blobs = absl::IsNotFound(blob) ? absl::OkStatus() : blob;
  return answer;
}

absl::StatusOr<v1::ClusterStatus> AskCoordinator(const std::string& address) {
  const JobClient client("coordinator", address);
  return client.Call(&JobClient::Stub::GetClusterStatus, v1::GetClusterStatusRequest(), kTimeout);
}

// One answer an address, in their order.
template <typename Answer>
std::vector<Answer> AskEach(const std::vector<std::string>& addresses,
                            Answer (*ask)(const std::string&)) {
  std::vector<std::future<Answer>> asked;
  asked.reserve(addresses.size());
  for (const std::string& address : addresses) {
    asked.push_back(std::async(std::launch::async, ask, address));
  }
  std::vector<Answer> answers;
  answers.reserve(asked.size());
  for (std::future<Answer>& answer : asked) answers.push_back(answer.get());
  return answers;
}

void TakeCoordinators(const std::vector<std::string>& addresses, ClusterStatus* status) {
  const auto answers = AskEach(addresses, AskCoordinator);
  for (size_t i = 0; i < addresses.size(); ++i) {
    status->coordinators.push_back({addresses[i], answers[i].status()});
    if (!answers[i].ok()) continue;
    if (!status->work.has_value() ||
        (!status->work->store_fault().empty() && answers[i]->store_fault().empty())) {
      status->work = *answers[i];
    }
  }
}

// A server reports to one packager at a time: where two know it, the later report counts.
void AddReplica(const v1::Replica& replica, std::vector<v1::Replica>* all) {
  for (v1::Replica& known : *all) {
    if (known.id() != replica.id() || known.reference() != replica.reference()) continue;
    if (known.update_time().seconds() < replica.update_time().seconds()) known = replica;
    return;
  }
  all->push_back(replica);
}

void TakePackagers(const std::vector<std::string>& addresses, ClusterStatus* status) {
  const std::vector<PackagerAnswer> answers = AskEach(addresses, AskPackager);
  for (size_t i = 0; i < addresses.size(); ++i) {
    status->packagers.push_back({addresses[i], answers[i].status});
    if (!answers[i].status.ok()) continue;
    if (!status->blobs.has_value() || !status->blobs->ok()) status->blobs = answers[i].blobs;
    for (const v1::Replica& replica : answers[i].replicas) AddReplica(replica, &status->replicas);
  }
}

bool AnyAnswers(const std::vector<AskedAddress>& asked) {
  return asked.empty() || std::any_of(asked.begin(), asked.end(),
                                      [](const AskedAddress& a) { return a.status.ok(); });
}

// One line, cut between characters where it is long.
std::string OneLine(absl::string_view text) {
  return Shortened(
      absl::StrJoin(absl::StrSplit(text, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty()), " "),
      kMostOfAnError);
}

std::string StateOf(const v1::Replica& replica) {
  switch (replica.state()) {
    case v1::REPLICA_STATE_SERVING:
      return "serving";
    case v1::REPLICA_STATE_LOADING:
      return "loading";
    case v1::REPLICA_STATE_DRAINING:
      return "draining";
    default:
      return "unknown";
  }
}

std::string AddressTable(const ClusterStatus& status) {
  Table table({"SERVICE", "ADDRESS", "STATE"});
  const auto add = [&](const char* service, const std::vector<AskedAddress>& asked) {
    for (const AskedAddress& a : asked) {
      table.Add({service, a.address, a.status.ok() ? "answers" : OneLine(a.status.message())});
    }
  };
  add("coordinator", status.coordinators);
  add("packager", status.packagers);
  return table.ToString();
}

std::string StoreLine(const ClusterStatus& status) {
  std::vector<std::string> stores;
  if (status.work.has_value()) {
    const std::string& fault = status.work->store_fault();
    stores.push_back(absl::StrCat(
        "database ", fault.empty() ? "answers" : absl::StrCat("is away: ", OneLine(fault))));
  }
  if (status.blobs.has_value()) {
    const absl::Status& fault = *status.blobs;
    stores.push_back(
        absl::StrCat("blob store ",
                     fault.ok() ? "answers" : absl::StrCat("is away: ", OneLine(fault.message()))));
  }
  return stores.empty() ? "" : absl::StrCat("stores: ", absl::StrJoin(stores, ", "), "\n");
}

std::string JobLines(const v1::ClusterStatus& work) {
  std::vector<std::string> counts;
  for (const v1::JobCount& jobs : work.jobs()) {
    counts.push_back(absl::StrCat(jobs.count(), " ", StateName(jobs.state())));
  }
  std::string text = absl::StrCat("jobs: ", counts.empty() ? "none" : absl::StrJoin(counts, ", "),
                                  "\ntasks: ", work.tasks_running(), " leased, ",
                                  work.tasks_ready(), " wait for a worker\n");
  for (const v1::FailedJob& job : work.failed()) {
    absl::StrAppend(&text, "failed: ", job.job_id(),
                    job.output().empty() ? "" : absl::StrCat(" (", job.output(), ")"), ": ",
                    OneLine(job.error()), "\n");
  }
  return text;
}

// How many there are of which kind; who is out of work counts as that, whatever else it does.
std::string WorkerLine(const v1::ClusterStatus& work) {
  int lost = 0, leased = 0, idle = 0;
  std::map<std::string, int> out;  // cordoned, drained
  for (const v1::WorkerInfo& worker : work.workers()) {
    if (IsLost(worker)) {
      ++lost;
    } else if (IsOutOfWork(worker)) {
      ++out[worker.state().substr(0, worker.state().find(','))];
    } else {
      ++(worker.task_id().empty() ? idle : leased);
    }
  }
  std::string text = absl::StrCat("workers: ", work.workers_size() - lost, " connected, of which ",
                                  leased, " at work, ", idle, " idle");
  for (const auto& [standing, count] : out) absl::StrAppend(&text, ", ", count, " ", standing);
  if (lost > 0) absl::StrAppend(&text, "; ", lost, " lost");
  return text + "\n";
}

std::string WorkerTable(const v1::ClusterStatus& work) {
  Table table({"WORKER", "STATE", "DEVICE", "TASK", "LAST SEEN (UTC)"});
  for (const v1::WorkerInfo& w : work.workers()) {
    const std::string task =
        w.task_id().empty() ? "-" : absl::StrCat(w.task_id(), " (", w.task_kind(), ")");
    // A worker that may work and does not has nothing to do, unless its state says more.
    const bool backlog = w.state() == "idle" && work.tasks_ready() == 0;
    table.Add({w.worker_id(), backlog ? "idle: no task is ready" : w.state(), w.device_class(),
               task, FormatUnixTime(w.last_seen().seconds())});
  }
  return work.workers().empty() ? "" : table.ToString();
}

std::string ReplicaTable(const std::vector<v1::Replica>& replicas) {
  Table table({"REPLICA OF", "STATE", "DIGEST", "HTTP", "GRPC", "ERROR"});
  for (const v1::Replica& replica : replicas) {
    table.Add({replica.reference(), StateOf(replica),
               replica.digest().empty() ? "-" : replica.digest().substr(0, kShortDigest),
               replica.http_address(), replica.grpc_address(),
               replica.error().empty() ? "-" : OneLine(replica.error())});
  }
  return replicas.empty() ? "" : table.ToString();
}

OrderedJson AddressJson(const std::vector<AskedAddress>& asked) {
  OrderedJson list = OrderedJson::array();
  for (const AskedAddress& a : asked) {
    list.push_back({{"address", a.address},
                    {"reachable", a.status.ok()},
                    {"error", std::string(a.status.message())}});
  }
  return list;
}

OrderedJson StoreJson(bool known, absl::string_view fault) {
  if (!known) return nullptr;
  return {{"reachable", fault.empty()}, {"error", std::string(fault)}};
}

OrderedJson ReplicaJson(const std::vector<v1::Replica>& replicas) {
  OrderedJson list = OrderedJson::array();
  for (const v1::Replica& replica : replicas) {
    list.push_back({{"id", replica.id()},
                    {"reference", replica.reference()},
                    {"digest", replica.digest()},
                    {"state", StateOf(replica)},
                    {"error", replica.error()},
                    {"http", replica.http_address()},
                    {"grpc", replica.grpc_address()}});
  }
  return list;
}

}  // namespace

bool IsLost(const v1::WorkerInfo& worker) { return absl::EndsWith(worker.state(), "lost"); }

bool IsOutOfWork(const v1::WorkerInfo& worker) {
  return absl::StartsWith(worker.state(), "cordoned, ") ||
         absl::StartsWith(worker.state(), "drained, ");
}

ClusterStatus AskCluster(const std::string& coordinators, const std::string& packagers) {
  ClusterStatus status;
  std::thread other([&] { TakePackagers(rpc::SplitAddresses(packagers), &status); });
  TakeCoordinators(rpc::SplitAddresses(coordinators), &status);
  other.join();
  return status;
}

bool EachKindAnswers(const ClusterStatus& status) {
  return AnyAnswers(status.coordinators) && AnyAnswers(status.packagers);
}

bool StoresAnswer(const ClusterStatus& status) {
  return (!status.work.has_value() || status.work->store_fault().empty()) &&
         (!status.blobs.has_value() || status.blobs->ok());
}

std::string FormatClusterStatus(const ClusterStatus& status) {
  std::string text = absl::StrCat(AddressTable(status), StoreLine(status));
  if (!status.work.has_value() && !status.coordinators.empty()) {
    absl::StrAppend(&text, "jobs, tasks and workers: not known, as no coordinator answers\n");
  } else if (status.work.has_value() && status.work->store_fault().empty()) {
    absl::StrAppend(&text, JobLines(*status.work), WorkerLine(*status.work),
                    WorkerTable(*status.work));
  }
  return text + ReplicaTable(status.replicas);
}

OrderedJson ClusterStatusJson(const ClusterStatus& status) {
  const bool known = status.work.has_value() && status.work->store_fault().empty();
  const v1::ClusterStatus work = status.work.value_or(v1::ClusterStatus());
  OrderedJson jobs = OrderedJson::object(), failed = OrderedJson::array(),
              workers = OrderedJson::array();
  for (const v1::JobCount& count : work.jobs()) jobs[StateName(count.state())] = count.count();
  for (const v1::FailedJob& job : work.failed()) failed.push_back(ToJson(job));
  for (const v1::WorkerInfo& worker : work.workers()) workers.push_back(ToJson(worker));
  OrderedJson json = {{"coordinators", AddressJson(status.coordinators)},
                      {"packagers", AddressJson(status.packagers)},
                      {"database", StoreJson(status.work.has_value(), work.store_fault())},
                      {"blobs", StoreJson(status.blobs.has_value(),
                                          status.blobs.value_or(absl::OkStatus()).message())},
                      {"jobs", nullptr},
                      {"failed_jobs", nullptr},
                      {"tasks", nullptr},
                      {"workers", nullptr},
                      {"replicas", ReplicaJson(status.replicas)}};
  if (!known) return json;
  json["jobs"] = std::move(jobs);
  json["failed_jobs"] = std::move(failed);
  json["tasks"] = {{"ready", work.tasks_ready()}, {"running", work.tasks_running()}};
  json["workers"] = std::move(workers);
  return json;
}

}  // namespace shiftadd::cli
