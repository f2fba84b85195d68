#include "services/store/postgres_notifier.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace shiftadd::sql {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(5);
constexpr char kAny[] = "any";
constexpr char kWork[] = "work";

}  // namespace

std::string NotificationOf(absl::string_view self, Change change) {
  return absl::StrCat(self, " ", change == Change::kWork ? kWork : kAny);
}

Change ReadNotification(absl::string_view text, absl::string_view self) {
  const size_t blank = text.find(' ');
  if (text.substr(0, blank) == self) return Change::kNone;
  const bool any = blank != absl::string_view::npos && text.substr(blank + 1) == kAny;
  return any ? Change::kAny : Change::kWork;
}

PostgresNotifier::PostgresNotifier(PostgresUrl url, std::string channel, std::string self)
    : url_(std::move(url)), channel_(std::move(channel)), self_(std::move(self)) {
  thread_ = std::thread([this] { Run(); });
}

PostgresNotifier::~PostgresNotifier() {
  {
    const std::lock_guard<std::mutex> hold(mutex_);
    stop_ = true;
    wake_.notify_one();
  }
  thread_.join();
}

void PostgresNotifier::Notify(Change change) {
  const std::lock_guard<std::mutex> hold(mutex_);
  due_ = std::max(due_, change);
  wake_.notify_one();
}

void PostgresNotifier::Run() {
  while (true) {
    Change change = Change::kNone;
    {
      std::unique_lock<std::mutex> hold(mutex_);
      wake_.wait(hold, [&] { return stop_ || due_ != Change::kNone; });
      if (due_ == Change::kNone) return;
      change = std::exchange(due_, Change::kNone);
    }
    Send(change);
    absl::SleepFor(kPause);
  }
}

void PostgresNotifier::Send(Change change) {
  const std::string notify =
      absl::StrCat("NOTIFY ", channel_, ", '", NotificationOf(self_, change), "'");
  // That the connection has been ended since is found out by using it: then once more, on another.
  const bool fresh = connection_ == nullptr;
  if (!Connect() || connection_->Simple(notify).ok()) return;
  connection_ = nullptr;
  if (!fresh && Connect() && !connection_->Simple(notify).ok()) connection_ = nullptr;
}

bool PostgresNotifier::Connect() {
  if (connection_ != nullptr) return true;
  auto connection = PostgresConnection::Connect(url_);
  if (!connection.ok()) return false;
  connection_ = *std::move(connection);
  // There is nothing in it that a crash of the server could lose.
  connection_->Simple("SET synchronous_commit = off").status().IgnoreError();
  return true;
}

}  // namespace shiftadd::sql
