// Hears of other processes' commits.
#ifndef SHIFTADD_SERVICES_STORE_POSTGRES_LISTENER_H_
#define SHIFTADD_SERVICES_STORE_POSTGRES_LISTENER_H_

#include <functional>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "services/store/postgres_connection.h"
#include "services/store/postgres_url.h"

namespace shiftadd::sql {

// A thread with a connection of its own that LISTENs. Calls `changed` for notifications that are
// not from `self`, and every `poll` too, for any change that may have been: a notification may be
// lost with a connection. While it has no connection it tries again every second.
class PostgresListener {
 public:
  PostgresListener(PostgresUrl url, std::string channel, std::string self, absl::Duration poll,
                   std::function<void(Change)> changed);
  ~PostgresListener();

 private:
  void Run();
  // Until the connection is lost or the listener ends.
  void Listen(PostgresConnection* connection);
  // True: the descriptor can be read (or has failed); false: `timeout` has passed, or the end has
  // come.
  bool Wait(int descriptor, absl::Duration timeout);
  bool stopped();

  const PostgresUrl url_;
  const std::string channel_, self_;
  const absl::Duration poll_;
  const std::function<void(Change)> changed_;
  int stop_pipe_[2] = {-1, -1};
  std::thread thread_;
};

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_POSTGRES_LISTENER_H_
