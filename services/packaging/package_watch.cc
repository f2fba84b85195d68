#include "services/packaging/package_watch.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "services/base/logging.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(500), kLongestPause = absl::Seconds(10);
constexpr absl::Duration kPoll = absl::Seconds(5);
constexpr absl::Duration kCallTimeout = absl::Seconds(10);

class Watch : public PackageWatch {
 public:
  Watch(const std::string& address, v1::Replica replica, OnDigest on_digest)
      : address_(address),
        on_digest_(std::move(on_digest)),
        stub_(v1::PackageService::NewStub(rpc::MakeChannel(address))),
        replica_(std::move(replica)),
        thread_([this] { Loop(); }) {}

  ~Watch() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      if (context_ != nullptr) context_->TryCancel();
    }
    changed_.notify_all();
    thread_.join();
  }

  void Report(const v1::Replica& replica) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    replica_ = replica;
    if (stream_ != nullptr) SendReport();  // if it fails, the next stream begins with it
  }

 private:
  using Stream =
      grpc::ClientReaderWriterInterface<v1::WatchReferenceRequest, v1::WatchReferenceResponse>;

  // Under mutex_: writes do not overlap.
  void SendReport() {
    v1::WatchReferenceRequest request;
    *request.mutable_replica() = replica_;
    stream_->Write(request);
  }

  // The call that the end of the watch cancels; null: none.
  void SetCall(grpc::ClientContext* context) {
    const std::lock_guard<std::mutex> lock(mutex_);
    context_ = context;
    if (stop_ && context != nullptr) context->TryCancel();
  }

  void Loop() {
    absl::Duration pause = kFirstPause;
    bool reachable = true;
    while (true) {
      bool heard = false;
      const absl::Status status = Follow(&heard);
      if (absl::IsUnimplemented(status)) heard = Ask();
      if (Stopped()) return;
      if (!heard && reachable) {
        spdlog::warn("packager at {} cannot be followed: {}; it is tried again", address_,
                     std::string(status.message()));
      }
      reachable = heard;
      if (heard) pause = kFirstPause;
      if (Pause(absl::IsUnimplemented(status) ? kPoll : pause)) return;
      pause = std::min(2 * pause, kLongestPause);
    }
  }

  // One stream to its end.
  absl::Status Follow(bool* heard) {
    grpc::ClientContext context;
    SetCall(&context);  // first: opening the stream may wait for a packager that is away
    const std::unique_ptr<Stream> stream = stub_->WatchReference(&context);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stream_ = stream.get();
      SendReport();
    }
    v1::WatchReferenceResponse response;
    while (stream->Read(&response)) {
      *heard = true;
      on_digest_(response.digest());
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stream_ = nullptr;
    }
    const grpc::Status status = stream->Finish();
    SetCall(nullptr);
    return rpc::FromGrpc(status);
  }

  // Without a stream. False if there was no answer.
  bool Ask() {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kCallTimeout);
    v1::ResolveReferenceRequest request;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      request.set_reference(replica_.reference());
    }
    v1::ResolveReferenceResponse response;
    SetCall(&context);
    const grpc::Status status = stub_->ResolveReference(&context, request, &response);
    SetCall(nullptr);
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) response.clear_digest();
    const bool heard = status.ok() || status.error_code() == grpc::StatusCode::NOT_FOUND;
    if (heard && !Stopped()) on_digest_(response.digest());
    return heard;
  }

  bool Stopped() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stop_;
  }
  // True if the watch ends.
  bool Pause(absl::Duration duration) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, absl::ToChronoMilliseconds(duration), [this] { return stop_; });
  }

  const std::string address_;
  const OnDigest on_digest_;
  const std::unique_ptr<v1::PackageService::Stub> stub_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  v1::Replica replica_;
  Stream* stream_ = nullptr;                // open for writing; the thread's
  grpc::ClientContext* context_ = nullptr;  // of the call that runs
  std::thread thread_;                      // last: it uses the others
};

}  // namespace

std::unique_ptr<PackageWatch> PackageWatch::Start(const std::string& address,
                                                  const v1::Replica& replica, OnDigest on_digest) {
  return std::make_unique<Watch>(address, replica, std::move(on_digest));
}

}  // namespace shiftadd
