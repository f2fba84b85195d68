// For tests: OpenPostgresJobStore of job_store.h with the driver's options.
#ifndef SHIFTADD_SERVICES_STORE_POSTGRES_JOB_STORE_H_
#define SHIFTADD_SERVICES_STORE_POSTGRES_JOB_STORE_H_

#include <memory>
#include <string>

#include "services/store/job_store.h"
#include "services/store/postgres_db.h"

namespace shiftadd {

// `options.announce` is set here.
absl::StatusOr<std::unique_ptr<JobStore>> OpenPostgresJobStore(const std::string& url,
                                                               sql::PostgresOptions options,
                                                               const StorePolicy& policy);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_POSTGRES_JOB_STORE_H_
