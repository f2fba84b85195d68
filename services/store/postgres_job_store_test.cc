#include "services/store/postgres_job_store.h"

#include "absl/strings/str_cat.h"
#include "services/store/job_store_conformance.h"
#include "services/store/postgres_server.h"

namespace shiftadd {
namespace {

// The database of one test's place.
std::string DatabaseOf(const std::string& place) {
  static auto* const known = new std::map<std::string, std::string>();
  std::string& url = (*known)[place];
  if (url.empty()) url = PostgresServer::Shared().NewDatabase();
  return url;
}

JobStoreFactory Factory(const std::string& name, const std::string& isolation) {
  return {name, true,
          [isolation](const std::string& place, std::shared_ptr<const Clock> clock,
                      const StorePolicy& policy) {
            sql::PostgresOptions options;
            options.clock = std::move(clock);
            options.isolation = isolation;
            return OpenPostgresJobStore(DatabaseOf(place), std::move(options), policy);
          }};
}

// SERIALIZABLE is not what coordinators use: there every conflict is met by running the transaction
// again.
INSTANTIATE_TEST_SUITE_P(Postgres, JobStoreConformance,
                         testing::Values(Factory("postgres", "READ COMMITTED"),
                                         Factory("postgres_serializable", "SERIALIZABLE")),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shiftadd
