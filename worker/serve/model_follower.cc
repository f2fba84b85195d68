#include "worker/serve/model_follower.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/cpu_linear.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/packaging/package_watch.h"
#include "worker/serve/package_config.h"

namespace shiftadd {
namespace {

constexpr absl::Duration kLongestRetry = absl::Minutes(5);
constexpr absl::Duration kAfterCancel = absl::Seconds(30);

// What loading a package may take at its peak: its blobs as they come and the form that kernels
// read, and the cache that its engine may fill.
bool FitsBeside(const ResolvedPackage& package, const LoadOptions& load) {
  const int64_t need = 2 * package.bytes + WantedCacheBytes(load);
  const int64_t room = UnpromisedRoom(load.memory_root);
  if (need <= room) return true;
  spdlog::info("{} ({}) needs up to {} MB, {} MB are free: the old version goes first",
               package.name, package.digest, need / 1'000'000, room / 1'000'000);
  return false;
}

// Reads every blob and drops it: what is missing or damaged is found while the old version still
// serves.
absl::Status CheckBlobs(const ResolvedPackage& package) {
  SA_ASSIGN_OR_RETURN(const PackageConfig config, ParsePackageConfig(package.config_json));
  std::vector<std::string> digests = {config.head, config.unquantized, config.tokenizer};
  for (const PackageLayer& layer : config.layers) digests.push_back(layer.digest);
  for (const std::string& digest : digests) {
    SA_RETURN_IF_ERROR(package.read(digest).status());
  }
  return absl::OkStatus();
}

// What the packager hears of a model of this process.
v1::Replica Self(const ModelState& state, const ReplicaAddress& address, bool retired) {
  v1::Replica replica;
  replica.set_id(address.id);
  replica.set_reference(state.reference);
  replica.set_digest(state.digest);
  replica.set_state(state.state == "serving" ? v1::REPLICA_STATE_SERVING
                                             : v1::REPLICA_STATE_LOADING);
  if (retired) replica.set_state(v1::REPLICA_STATE_DRAINING);
  replica.set_error(state.error);
  replica.set_http_address(address.http);
  replica.set_grpc_address(address.grpc);
  return replica;
}

}  // namespace

bool AwaitUnused(const ModelPtr& version, int others, absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (version.use_count() > 1 + others) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

// Where digests come from and reports go to.
class ModelFollower::Source {
 public:
  Source(ModelFollower* follower, const v1::Replica& replica)
      : watch_(follower->location_.package_dir.empty()
                   ? PackageWatch::Start(
                         follower->location_.packager, replica,
                         [follower](const std::string& digest) { follower->Wanted(digest); })
                   : nullptr) {}
  bool polled() const { return watch_ == nullptr; }
  void Report(const v1::Replica& replica) {
    if (watch_ != nullptr) watch_->Report(replica);
  }

 private:
  const std::unique_ptr<PackageWatch> watch_;
};

ModelFollower::ModelFollower(const PackageLocation& location, const FollowOptions& options,
                             ModelRegistry* registry, ServerMetrics* metrics)
    : location_(location),
      options_(options),
      registry_(registry),
      metrics_(metrics),
      retry_(options.retry, kLongestRetry) {
  // There from the start: the first is an increase then.
  for (const char* outcome : {"loaded", "failed"}) metrics_->Loads(location_.reference, outcome);
  source_ = std::make_unique<Source>(this, Self(Now(), options_.address, retired_));
  thread_ = std::thread([this] { Loop(); });
}

ModelFollower::~ModelFollower() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  source_.reset();
}

void ModelFollower::Retire() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    retired_ = true;
  }
  Report();
}

void ModelFollower::Wanted(const std::string& digest) {
  const std::lock_guard<std::mutex> lock(mutex_);
  wanted_ = digest;
  heard_ = true;
  changed_.notify_all();
}

ModelState ModelFollower::Now() const {
  for (ModelState& state : registry_->States()) {
    if (state.reference == location_.reference) return std::move(state);
  }
  return {location_.reference, "", "waiting", ""};
}

void ModelFollower::Report() {
  const ModelState now = Now();
  bool retired = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    retired = retired_;
  }
  source_->Report(Self(now, options_.address, retired));
}

void ModelFollower::Note(const std::string& state, const std::string& error) {
  registry_->Note(location_.reference, state, error);
  Report();
}

void ModelFollower::Loop() {
  while (true) {
    std::optional<std::string> wanted;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const absl::Time poll =
          source_->polled() ? absl::Now() + options_.poll : absl::InfiniteFuture();
      // An hour: waiting for the infinite future overflows in the library.
      const absl::Time until = std::min({poll, retry_.next(), absl::Now() + absl::Hours(1)});
      changed_.wait_until(lock, absl::ToChronoTime(until), [this] { return stop_ || heard_; });
      if (stop_) return;
      retry_.Begin(absl::Now());
      heard_ = false;
      if (retired_) continue;
      wanted = wanted_;
    }
    if (source_->polled()) {
      const absl::StatusOr<std::string> digest = ResolveDigest(location_);
      if (!digest.ok() && !absl::IsNotFound(digest.status())) continue;  // while it is written
      wanted = digest.value_or("");
    }
    if (wanted.has_value()) MoveTo(*wanted);
  }
}

void ModelFollower::MoveTo(const std::string& digest) {
  const ModelState now = Now();
  if (digest.empty()) return MoveToNothing(now);
  if (digest == now.digest) {
    retry_.Served();
    if (!now.error.empty()) Note("serving", "");
    return;
  }
  if (!retry_.May(digest)) return;
  spdlog::info("{} is {} now; {} serves until it is loaded", location_.reference, digest,
               now.digest.empty() ? "nothing" : now.digest);
  Note("loading", now.error);
  PackageLocation next = location_;
  next.digest = digest;
  absl::StatusOr<ModelPtr> version = LoadNext(next);
  if (!version.ok()) return Failed(digest, version.status());
  const std::string isa = kernels::IsaName((*version)->model->isa());
  registry_->Put(*std::move(version));
  metrics_->SetPackage(location_.reference, digest, isa);
  metrics_->Loads(location_.reference, "loaded").Increment();
  spdlog::info("{} is served as {}", location_.reference, digest);
  retry_.Served();
  Report();
}

void ModelFollower::MoveToNothing(const ModelState& now) {
  const std::string error =
      absl::StrCat(location_.reference, " is gone from ",
                   source_->polled() ? location_.package_dir : "the packager");
  if (now.error == error) return;
  spdlog::warn("{}; version {} goes on", error, now.digest);
  Note("", error);
}

void ModelFollower::Failed(const std::string& digest, const absl::Status& status) {
  metrics_->Loads(location_.reference, "failed").Increment();
  const absl::Duration pause = retry_.Failed(digest, absl::Now());
  const std::string error =
      absl::StrCat("version ", digest, " cannot be served: ", status.message());
  const ModelState now = Now();
  spdlog::error("{}: {}; {}; tried again in {}", location_.reference, error,
                now.digest.empty() ? "no version is left" : "version " + now.digest + " goes on",
                absl::FormatDuration(pause));
  Note(now.digest.empty() ? "waiting" : "serving", error);
}

absl::StatusOr<ModelPtr> ModelFollower::LoadNext(const PackageLocation& next) {
  bool beside = options_.replacing == Replacing::kBeside;
  if (options_.replacing == Replacing::kAuto) {
    SA_ASSIGN_OR_RETURN(const ResolvedPackage package, ResolvePackage(next));
    beside = FitsBeside(package, options_.load);
  }
  if (!beside) return LoadAfterDrain(next);
  absl::StatusOr<ModelPtr> version = LoadModel(next, options_.load, metrics_);
  // A GPU says so itself.
  if (absl::IsResourceExhausted(version.status()) && options_.replacing == Replacing::kAuto) {
    spdlog::info("{}: the old version goes first", std::string(version.status().message()));
    return LoadAfterDrain(next);
  }
  return version;
}

absl::StatusOr<ModelPtr> ModelFollower::LoadAfterDrain(const PackageLocation& next) {
  {
    SA_ASSIGN_OR_RETURN(const ResolvedPackage package, ResolvePackage(next));
    SA_RETURN_IF_ERROR(CheckBlobs(package));
  }
  std::string old_digest;
  if (ModelPtr old = registry_->Take(location_.reference); old != nullptr) {
    old_digest = old->served.digest;
    Report();
    if (!AwaitUnused(old, 0, options_.drain)) {
      spdlog::warn("{}: requests that run longer than {} are cancelled", location_.reference,
                   absl::FormatDuration(options_.drain));
      old->engine->Drain(
          absl::ZeroDuration(),
          absl::StrCat("a new version takes this one's place, which waits no longer than ",
                       absl::FormatDuration(options_.drain), " (--drain-seconds)"));
      AwaitUnused(old, 0, kAfterCancel);
    }
  }
  absl::StatusOr<ModelPtr> version = LoadModel(next, options_.load, metrics_);
  if (version.ok() || old_digest.empty()) return version;
  PackageLocation back = location_;
  back.digest = old_digest;
  absl::StatusOr<ModelPtr> old = LoadModel(back, options_.load, metrics_);
  if (old.ok()) {
    registry_->Put(*std::move(old));
  } else {
    spdlog::error("{}: version {} cannot be loaded again: {}", location_.reference, old_digest,
                  std::string(old.status().message()));
  }
  return version;
}

}  // namespace shiftadd
