#include "tests/scale/watchers.h"

#include "absl/synchronization/notification.h"
#include "services/rpc/rpc.h"

namespace shiftadd::testing {
namespace {
constexpr int kStreamsPerConnection = 100;
}  // namespace

class Watchers::Stream : public grpc::ClientReadReactor<v1::JobEvent> {
 public:
  Stream(v1::JobService::Stub* stub, const std::string& job, WatchFigures* figures)
      : figures_(figures) {
    request_.set_job_id(job);
    request_.set_from_sequence(1);
    ++figures_->open;
    stub->async()->WatchJob(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void Cancel() {
    cancelled_ = true;
    context_.TryCancel();
  }
  void AwaitEnd() { ended_.WaitForNotification(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    ++figures_->events;
    if (event_.sequence() != ++last_) ++figures_->gaps;
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    if (!status.ok() && !cancelled_) ++figures_->failed;
    --figures_->open;
    ended_.Notify();
  }

 private:
  WatchFigures* const figures_;
  grpc::ClientContext context_;
  v1::WatchJobRequest request_;
  v1::JobEvent event_;
  uint64_t last_ = 0;
  std::atomic<bool> cancelled_{false};
  absl::Notification ended_;
};

Watchers::Watchers(int count, const std::string& coordinator, const std::vector<std::string>& jobs,
                   WatchFigures* figures) {
  for (int i = 0; i < count; ++i) {
    if (i % kStreamsPerConnection == 0) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      stubs_.push_back(v1::JobService::NewStub(
          grpc::CreateCustomChannel(coordinator, grpc::InsecureChannelCredentials(), arguments)));
    }
    streams_.push_back(std::make_unique<Stream>(
        stubs_.back().get(), jobs[static_cast<size_t>(i) % jobs.size()], figures));
  }
}

Watchers::~Watchers() {
  for (auto& stream : streams_) stream->Cancel();
  for (auto& stream : streams_) stream->AwaitEnd();
}

}  // namespace shiftadd::testing
