#include "services/packaging/reference_watch.h"

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/packaging/reference.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::packaging {
namespace {

// Tags also move where nobody announces it: by another process on the same database.
constexpr absl::Duration kLookAgain = absl::Seconds(5);

// Sends the reference's digest whenever it is another, on a thread of its own.
class Teller {
 public:
  Teller(Packager* packager, std::string reference, grpc::ServerContext* context,
         WatchStream* stream)
      : packager_(packager),
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
      if (!stream_->Write(response)) break;
    }
    context_->TryCancel();  // the reading thread wakes
  }

  Packager* const packager_;
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
  if (!stream->Read(&request)) {
    return absl::InvalidArgumentError("WatchReference: expected a first message, found none");
  }
  const std::string reference = request.replica().reference(), id = request.replica().id();
  SA_RETURN_IF_ERROR(Annotate(ParseReference(reference).status(), "replica.reference"));
  const uint64_t key = replicas->Add(request.replica(), packager->Now());
  spdlog::info("replica {} of {} at {} has come", id, reference, request.replica().http_address());
  absl::Status status;
  {
    Teller teller(packager, reference, context, stream);
    while (stream->Read(&request)) replicas->Update(key, request.replica(), packager->Now());
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
