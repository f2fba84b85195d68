#include "services/store/postgres_listener.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/logging.h"
#include "services/store/postgres_notifier.h"

namespace shiftadd::sql {
namespace {

constexpr absl::Duration kReconnect = absl::Seconds(1);

struct NotifyFree {
  void operator()(PGnotify* notify) const { PQfreemem(notify); }
};

}  // namespace

PostgresListener::PostgresListener(PostgresUrl url, std::string channel, std::string self,
                                   absl::Duration poll, std::function<void(Change)> changed)
    : url_(std::move(url)),
      channel_(std::move(channel)),
      self_(std::move(self)),
      poll_(poll),
      changed_(std::move(changed)) {
  if (pipe2(stop_pipe_, O_CLOEXEC) != 0) return;  // without it only the polling of callers is left
  thread_ = std::thread([this] { Run(); });
}

PostgresListener::~PostgresListener() {
  if (stop_pipe_[1] >= 0) close(stop_pipe_[1]);
  if (thread_.joinable()) thread_.join();
  if (stop_pipe_[0] >= 0) close(stop_pipe_[0]);
}

bool PostgresListener::stopped() {
  pollfd end = {stop_pipe_[0], POLLIN, 0};
  return poll(&end, 1, 0) != 0;  // the writing end is closed
}

bool PostgresListener::Wait(int descriptor, absl::Duration timeout) {
  pollfd both[2] = {{stop_pipe_[0], POLLIN, 0}, {descriptor, POLLIN, 0}};
  const auto millis = std::clamp<int64_t>(absl::ToInt64Milliseconds(timeout), 0, 1 << 30);
  poll(both, descriptor < 0 ? 1 : 2, static_cast<int>(millis));
  return descriptor >= 0 && both[1].revents != 0;
}

void PostgresListener::Run() {
  bool said = false;
  while (!stopped()) {
    auto connection = PostgresConnection::Connect(url_);
    absl::Status status = connection.status();
    if (status.ok()) status = (*connection)->Simple(absl::StrCat("LISTEN ", channel_)).status();
    if (status.ok()) {
      if (said) spdlog::info("connected to {} again", url_.shown());
      said = false;
      changed_(Change::kWork);  // whatever happened before
      Listen(connection->get());
      continue;
    }
    if (!said) spdlog::warn("store: {}", status.ToString());
    said = true;
    Wait(-1, kReconnect);
    changed_(Change::kWork);
  }
}

void PostgresListener::Listen(PostgresConnection* connection) {
  absl::Time polled = absl::Now();
  while (!stopped()) {
    const absl::Duration left = poll_ - (absl::Now() - polled);
    const bool readable = left > absl::ZeroDuration() && Wait(PQsocket(connection->raw()), left);
    if (readable) {
      if (PQconsumeInput(connection->raw()) == 0) return;
      Change others = Change::kNone;
      while (true) {
        const std::unique_ptr<PGnotify, NotifyFree> notify(PQnotifies(connection->raw()));
        if (notify == nullptr) break;
        others = std::max(others, ReadNotification(notify->extra, self_));
      }
      if (others != Change::kNone) changed_(others);
    } else if (absl::Now() - polled >= poll_) {
      polled = absl::Now();
      if (!connection->Simple("SELECT 1").ok()) return;  // is it still there?
      changed_(Change::kWork);
    }
  }
}

}  // namespace shiftadd::sql
