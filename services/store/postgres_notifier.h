// Tells other processes of our commits.
#ifndef SHIFTADD_SERVICES_STORE_POSTGRES_NOTIFIER_H_
#define SHIFTADD_SERVICES_STORE_POSTGRES_NOTIFIER_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/strings/string_view.h"
#include "services/store/change_signal.h"
#include "services/store/postgres_connection.h"
#include "services/store/postgres_url.h"

namespace shiftadd::sql {

// A thread with a connection of its own. NOTIFY inside a transaction makes its commit wait for
// every other one that notifies, one disk write after the other (PostgreSQL's queue has one lock,
// held until the commit is through); so it is sent behind the commits, once for all of the last few
// milliseconds. What is lost with the process is found by the listeners' polling.
class PostgresNotifier {
 public:
  // `self` is an id without blanks: a listener leaves out its own.
  PostgresNotifier(PostgresUrl url, std::string channel, std::string self);
  // Sends what is still to be sent, if the server answers.
  ~PostgresNotifier();

  // Thread-safe; returns at once.
  void Notify(Change change);

 private:
  void Run();
  void Send(Change change);
  // False: the server does not answer.
  bool Connect();

  const PostgresUrl url_;
  const std::string channel_, self_;
  std::unique_ptr<PostgresConnection> connection_;  // of the thread; null: none
  std::mutex mutex_;
  std::condition_variable wake_;
  Change due_ = Change::kNone;  // under mutex_
  bool stop_ = false;           // under mutex_
  std::thread thread_;
};

// The text of a notification.
std::string NotificationOf(absl::string_view self, Change change);
// What it tells to `self`; kNone if it is from itself. One that cannot be read tells everything.
Change ReadNotification(absl::string_view text, absl::string_view self);

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_POSTGRES_NOTIFIER_H_
