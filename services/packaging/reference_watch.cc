#include "services/packaging/reference_watch.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/printable.h"
#include "services/base/status_macros.h"
#include "services/packaging/reference.h"
#include "services/rpc/stall_guard.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::packaging {
namespace {

// Tags also move where nobody announces it: by another process on the same database.
constexpr absl::Duration kLookAgain = absl::Seconds(5);
// What a replica holds outlives its stream by so long, where that ends without the replica: the
// packager stops, and is found again or another one is.
constexpr absl::Duration kHold = absl::Minutes(15);
constexpr size_t kMaxReport = 64 << 10;  // bytes

// Makes a report fit to be kept and shown to others.
absl::Status Check(v1::Replica* replica) {
  if (replica->ByteSizeLong() > kMaxReport) {
    return absl::InvalidArgumentError(absl::StrCat("replica: found ", replica->ByteSizeLong(),
                                                   " bytes, expected at most ", kMaxReport));
  }
  for (const auto& [field, name] :
       {std::pair("id", &replica->id()), std::pair("digest", &replica->digest()),
        std::pair("http_address", &replica->http_address()),
        std::pair("grpc_address", &replica->grpc_address())}) {
    if (HasControls(*name))
      return absl::InvalidArgumentError(
          absl::StrCat("replica.", field, ": expected no control characters"));
  }
  replica->set_error(EscapeControls(replica->error()));
  return absl::OkStatus();
}

// Keeps the collector from what a replica serves: tags may move away from it. By pins, so that it
// holds for every packager of the database, and over a restart. Each stream has its own: one that
// is found to be dead late takes nothing from the one that the replica has begun since.
// Thread-safe.
class Hold {
 public:
  Hold(Packager* packager, const v1::Replica& replica)
      : packager_(packager), prefix_(absl::StrCat(NewId("replica"), " ")) {
    Take(replica.digest());
  }
  ~Hold() {
    if (!packager_->waits_ended()) Release();
  }
  // `digest` in place of what was held before; empty: nothing.
  void Take(const std::string& digest) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (digest == digest_) return;
    const std::string before = std::exchange(digest_, digest);
    Pin();
    if (!before.empty()) Unpin(before);
  }
  void Renew() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (packager_->Now() - pinned_ > kHold / 3) Pin();
  }

 private:
  void Pin() {
    pinned_ = packager_->Now();
    if (digest_.empty()) return;
    const absl::Status status = packager_->Pin(prefix_ + digest_, {digest_}, pinned_ + kHold);
    if (!status.ok()) spdlog::warn("{}{} cannot be held: {}", prefix_, digest_, status.ToString());
  }
  void Unpin(const std::string& digest) {
    if (const absl::Status status = packager_->Unpin(prefix_ + digest); !status.ok()) {
      spdlog::warn("{}{} is held on: {}", prefix_, digest, status.ToString());
    }
  }
  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!digest_.empty()) Unpin(digest_);
  }

  Packager* const packager_;
  const std::string prefix_;
  std::mutex mutex_;
  std::string digest_;
  absl::Time pinned_;
};

// Sends the reference's digest whenever it is another, on a thread of its own.
class Teller {
 public:
  Teller(Packager* packager, std::string reference, Hold* hold, grpc::ServerContext* context,
         WatchStream* stream)
      : packager_(packager),
        hold_(hold),
        reference_(std::move(reference)),
        context_(context),
        stream_(stream),
        thread_([this] { Loop(); }) {}
  ~Teller() { Join(); }

  // The replica has gone.
  void End() { ended_ = true; }
  bool ended() const { return ended_ || packager_->waits_ended(); }
  // What ended it; after the thread's end only.
  const absl::Status& status() const { return status_; }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Loop() {
    uint64_t seen = 0;
    std::optional<std::string> told;
    while (!ended()) {
      seen = packager_->AwaitTagChange(seen, kLookAgain);
      if (ended()) break;
      hold_->Renew();
      absl::StatusOr<std::string> digest = packager_->Resolve(reference_);
      if (absl::IsNotFound(digest.status())) digest = "";
      if (!digest.ok()) {
        status_ = digest.status();
        break;
      }
      if (told == *digest) continue;
      told = *digest;
      v1::WatchReferenceResponse response;
      response.set_digest(*digest);
      if (!rpc::WriteInTime(context_, stream_, response)) break;
    }
    context_->TryCancel();  // the reading thread wakes
  }

  Packager* const packager_;
  Hold* const hold_;
  const std::string reference_;
  grpc::ServerContext* const context_;
  WatchStream* const stream_;
  std::atomic<bool> ended_{false};
  absl::Status status_;
  std::thread thread_;
};

}  // namespace

absl::Status ServeWatch(Packager* packager, Replicas* replicas, grpc::ServerContext* context,
                        WatchStream* stream) {
  v1::WatchReferenceRequest request;
  if (!rpc::ReadInTime(context, stream, &request)) {
    return absl::InvalidArgumentError("WatchReference: expected a first message, found none");
  }
  const std::string reference = request.replica().reference(), id = request.replica().id();
  SA_RETURN_IF_ERROR(Check(request.mutable_replica()));
  SA_RETURN_IF_ERROR(Annotate(ParseReference(reference).status(), "replica.reference"));
  const uint64_t key = replicas->Add(request.replica(), packager->Now());
  spdlog::info("replica {} of {} at {} has come", id, reference, request.replica().http_address());
  absl::Status status;
  {
    Hold hold(packager, request.replica());
    Teller teller(packager, reference, &hold, context, stream);
    while (stream->Read(&request)) {
      if (const absl::Status fit = Check(request.mutable_replica()); !fit.ok()) {
        spdlog::warn("replica {} of {}: {}", id, reference, fit.ToString());
        break;
      }
      replicas->Update(key, request.replica(), packager->Now());
      hold.Take(request.replica().digest());
    }
    teller.End();
    packager->WakeWaits();
    teller.Join();
    status = teller.status();
  }
  replicas->Remove(key);
  spdlog::info("replica {} of {} has gone", id, reference);
  return packager->waits_ended() ? absl::UnavailableError("the packager stops") : status;
}

}  // namespace shiftadd::packaging
