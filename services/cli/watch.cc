#include "services/cli/watch.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "services/base/status_macros.h"
#include "services/cli/cluster_status.h"
#include "services/cli/interrupt.h"
#include "services/cli/progress_view.h"

namespace shiftadd::cli {
namespace {

constexpr absl::Duration kLongestPause = absl::Seconds(5);
constexpr absl::Duration kLook = absl::Seconds(2);  // a call that the end of watching may wait for

// Cancels the call that is running and those that follow, from another thread.
class Cancellable {
 public:
  void Set(grpc::ClientContext* call) {
    std::lock_guard lock(mutex_);
    call_ = call;
    if (cancelled_ && call_ != nullptr) call_->TryCancel();
  }
  void Cancel() {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (call_ != nullptr) call_->TryCancel();
  }

 private:
  std::mutex mutex_;
  grpc::ClientContext* call_ = nullptr;
  bool cancelled_ = false;
};

// One view, drawn over its last drawing.
class Screen {
 public:
  explicit Screen(Context& context) : context_(context) {}

  void Draw(const std::vector<std::string>& lines) {
    Erase();
    for (const std::string& line : lines) context_.out << line << "\n";
    drawn_ = lines.size();
    context_.out.flush();
  }
  void Erase() {
    // Up one line and clear it, for each.
    for (; drawn_ > 0; --drawn_) context_.out << "\x1b[1A\x1b[2K";
  }
  static int Width() {
    winsize size = {};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return std::max<int>(size.ws_col - 1, 20);
  }

 private:
  Context& context_;
  size_t drawn_ = 0;
};

// Reads the stream until it ends or the job has: `show` gets every event's plain line.
class Follower {
 public:
  // `mutex`: held while the view changes and is shown.
  Follower(const JobClient& client, std::string job_id, const WatchOptions& options,
           std::mutex* mutex)
      : client_(client),
        job_id_(std::move(job_id)),
        options_(options),
        mutex_(mutex),
        guard_([this] { running_.Cancel(); }) {}

  // OK when the job has ended; CANCELLED after Ctrl-C; the last error when patience has run out.
  absl::Status Run(const std::function<void(const std::string&)>& show) {
    absl::Duration pause = options_.first_pause;
    absl::Time deadline = absl::Now() + options_.patience;
    while (true) {
      const uint64_t before = view_.last_sequence();
      const absl::Status status = ReadStream(show);
      if (IsTerminal(view_.state())) return absl::OkStatus();
      if (guard_.interrupted()) return absl::CancelledError("interrupted");
      // A stream that ends early without an error comes from a coordinator that is shutting down.
      if (!status.ok() && !absl::IsUnavailable(status)) return status;
      if (view_.last_sequence() > before) {
        deadline = absl::Now() + options_.patience;
        pause = options_.first_pause;
      }
      if (absl::Now() >= deadline) {
        return status.ok()
                   ? absl::UnavailableError("the coordinator ends the stream again and again")
                   : status;
      }
      if (another_) continue;
      guard_.Sleep(pause);
      pause = std::min(pause * 2, kLongestPause);
    }
  }

  const JobView& view() const { return view_; }
  std::string Refresh(const v1::Progress& progress, const std::string& notice, absl::Time now) {
    return view_.Refresh(progress, notice, now);
  }
  bool interrupted() const { return guard_.interrupted(); }

 private:
  absl::Status ReadStream(const std::function<void(const std::string&)>& show) {
    grpc::ClientContext call;
    running_.Set(&call);
    v1::WatchJobRequest request;
    request.set_job_id(job_id_);
    request.set_from_sequence(view_.last_sequence() + 1);
    const JobClient::Target coordinator = client_.target();
    auto reader = coordinator.stub->WatchJob(&call, request);
    v1::JobEvent event;
    // The coordinator ends the stream with the job; a retried one goes on behind its first end.
    while (reader->Read(&event)) {
      const std::lock_guard lock(*mutex_);
      show(view_.Apply(event));
    }
    const absl::Status status = rpc::FromGrpc(reader->Finish());
    running_.Set(nullptr);
    another_ = client_.Note(coordinator, status);
    return client_.Explain(status);
  }

  const JobClient& client_;
  const std::string job_id_;
  const WatchOptions options_;
  std::mutex* const mutex_;
  JobView view_;
  bool another_ = false;  // a coordinator is left that has not failed yet
  Cancellable running_;
  InterruptGuard guard_;  // last: its thread uses running_
};

absl::StatusOr<v1::Job> GetJob(const JobClient& client, const std::string& job_id,
                               absl::Duration timeout = absl::Seconds(30)) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  return client.Call(&JobClient::Stub::GetJob, request, timeout);
}

// Why the tasks of a job wait; empty while they need not.
std::string Notice(const JobClient& client, const v1::Job& job) {
  // The coordinator's own work aside.
  const bool has_tasks = !IsTerminal(job.state()) && job.state() != v1::JOB_STATE_ALLOCATING &&
                         job.state() != v1::JOB_STATE_PACKAGING &&
                         job.state() != v1::JOB_STATE_CANCELLING;
  if (!has_tasks || job.progress().workers() > 0) return "";
  const auto response = client.Call(&JobClient::Stub::ListWorkers, v1::ListWorkersRequest(), kLook);
  if (!response.ok()) return "";
  int out_of_work = 0;
  for (const v1::WorkerInfo& worker : response->workers()) {
    if (IsLost(worker)) continue;
    if (!IsOutOfWork(worker)) return "";
    ++out_of_work;
  }
  return absl::StrCat(out_of_work == 0
                          ? "no worker is connected"
                          : absl::StrCat("no worker takes tasks, ", out_of_work,
                                         out_of_work == 1 ? " is" : " are", " cordoned or drained"),
                      "; tasks wait: see `shiftadd status`");
}

// Calls `look` after every `pause` until the end of its life.
class Lookout {
 public:
  Lookout(absl::Duration pause, std::function<void()> look)
      : thread_([this, pause, look = std::move(look)] {
          while (!ended_.WaitForNotificationWithTimeout(pause)) look();
        }) {}
  ~Lookout() {
    ended_.Notify();
    thread_.join();
  }

 private:
  absl::Notification ended_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<v1::Job> AwaitJob(const JobClient& client, const std::string& job_id,
                                 const WatchOptions& options) {
  std::mutex mutex;
  SA_RETURN_IF_ERROR(Follower(client, job_id, options, &mutex).Run([](const std::string&) {}));
  return GetJob(client, job_id);
}

int WatchJob(Context& context, const JobClient& client, const std::string& job_id,
             const WatchOptions& options) {
  Screen screen(context);
  std::mutex mutex;  // of the screen and the follower's view
  bool quiet = true;
  Follower follower(client, job_id, options, &mutex);
  const auto show = [&](const std::string& line) {
    if (context.terminal) {
      screen.Draw(follower.view().Render(Screen::Width(), context.color));
    } else if (!line.empty()) {
      context.out << line << "\n" << std::flush;
    }
  };
  absl::Status status;
  {
    const Lookout lookout(options.quiet, [&] {
      {
        const std::lock_guard lock(mutex);
        if (!std::exchange(quiet, true)) return;
      }
      const absl::StatusOr<v1::Job> job = GetJob(client, job_id, kLook);
      if (!job.ok()) return;
      const std::string notice = Notice(client, *job);
      const std::lock_guard lock(mutex);
      if (quiet && !follower.interrupted())
        show(follower.Refresh(job->progress(), notice, absl::Now()));
    });
    status = follower.Run([&](const std::string& line) {
      quiet = false;
      show(line);
    });
  }
  if (absl::IsCancelled(status)) {
    context.out << "\ndetached; the job goes on. Come back with: shiftadd watch " << job_id << "\n";
    return kExitOk;
  }
  if (!status.ok()) return Report(context, status);
  absl::StatusOr<v1::Job> job = GetJob(client, job_id);
  if (!job.ok()) return Report(context, job.status());
  screen.Erase();
  context.out << FormatOutcome(*job) << std::flush;
  return job->state() == v1::JOB_STATE_SUCCEEDED ? kExitOk : kExitFailed;
}

}  // namespace shiftadd::cli
