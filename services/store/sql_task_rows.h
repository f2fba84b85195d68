// Rows of the table of tasks, for SqlJobStore.
#ifndef SHIFTADD_SERVICES_STORE_SQL_TASK_ROWS_H_
#define SHIFTADD_SERVICES_STORE_SQL_TASK_ROWS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/store/job_store.h"
#include "services/store/sql.h"

namespace shiftadd {

// The beginning of a SELECT whose rows ReadTaskRow reads; payload and result, or two texts in their
// place, have to follow.
inline constexpr char kTaskColumns[] =
    "SELECT task_id, job_id, kind, ordinal, lane, rank, state, lease_epoch, deadline, worker, "
    "attempts, progress, lease_time, end_time, error_code, error, excused, losses, ";

absl::StatusOr<TaskRecord> ReadTaskRow(sql::Statement* row);

// As the column keeps them.
std::string LossesJson(const std::vector<TaskLoss>& losses);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_SQL_TASK_ROWS_H_
