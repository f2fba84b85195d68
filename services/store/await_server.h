// What a daemon does about its database before it serves.
#ifndef SHIFTADD_SERVICES_STORE_AWAIT_SERVER_H_
#define SHIFTADD_SERVICES_STORE_AWAIT_SERVER_H_

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "services/base/logging.h"
#include "services/base/shutdown.h"

namespace shiftadd::sql {

// Opens a store; a server that cannot be reached is waited for: it may be starting just as we are.
// CANCELLED: SIGINT or SIGTERM came first, which is an orderly end.
template <typename Open>
auto AwaitServer(const Open& open) {
  constexpr absl::Duration kPause = absl::Seconds(1);
  auto store = open();
  if (absl::IsUnavailable(store.status())) {
    spdlog::warn("waiting for the store: {}", store.status().ToString());
  }
  while (absl::IsUnavailable(store.status())) {
    if (WaitForShutdown(kPause)) {
      store = absl::CancelledError("stopped while waiting for the store");
      break;
    }
    store = open();
  }
  return store;
}

inline absl::Status UsePgDump() {
  return absl::InvalidArgumentError(
      "--backup copies a SQLite file; of a PostgreSQL database pg_dump makes consistent copies "
      "while coordinators run: pg_dump --format=custom --file=FILE --dbname=URL (deploy/README.md, "
      "Backup)");
}

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_AWAIT_SERVER_H_
