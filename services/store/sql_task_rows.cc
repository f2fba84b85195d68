#include "services/store/sql_task_rows.h"

#include <algorithm>

#include "nlohmann/json.hpp"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using sql::Statement;

absl::Status ParseLosses(const std::string& text, std::vector<TaskLoss>* losses) {
  const nlohmann::json list = nlohmann::json::parse(text, nullptr, false);
  for (const nlohmann::json& item : list) {
    if (!item.is_array() || item.size() != 3 ||
        !std::all_of(item.begin(), item.end(), [](const auto& part) { return part.is_string(); }))
      continue;
    losses->push_back(
        {item[0].get<std::string>(), item[1].get<std::string>(), item[2].get<std::string>()});
  }
  if (list.is_array() && losses->size() == list.size()) return absl::OkStatus();
  return absl::DataLossError("database: a task's losses are damaged");
}

}  // namespace

// The cut may fall into a character: what is left of it is replaced.
std::string LossesJson(const std::vector<TaskLoss>& losses) {
  nlohmann::json list = nlohmann::json::array();
  for (const TaskLoss& loss : losses) list.push_back({loss.worker, loss.cause, loss.error});
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<TaskRecord> ReadTaskRow(Statement* row) {
  TaskRecord t;
  t.task_id = row->GetText();
  t.job_id = row->GetText();
  t.kind = static_cast<v1::TaskKind>(row->GetInt());
  t.ordinal = static_cast<uint32_t>(row->GetInt());
  t.lane = static_cast<uint32_t>(row->GetInt());
  t.rank = static_cast<int>(row->GetInt());
  t.state = static_cast<TaskState>(row->GetInt());
  t.lease_epoch = static_cast<uint64_t>(row->GetInt());
  t.deadline = absl::FromUnixMicros(row->GetInt());
  t.worker = row->GetText();
  const nlohmann::json attempts = nlohmann::json::parse(row->GetText(), nullptr, false);
  if (!attempts.is_object()) return absl::DataLossError("database: a task's attempts are damaged");
  for (const auto& [cause, count] : attempts.items()) {
    if (count.is_number_integer()) t.attempts[cause] = count.get<int>();
  }
  t.progress = row->GetReal();
  t.lease_time = absl::FromUnixMicros(row->GetInt());
  t.end_time = absl::FromUnixMicros(row->GetInt());
  t.error_code = static_cast<int>(row->GetInt());
  t.error = row->GetText();
  t.excuse = static_cast<LeaseExcuse>(row->GetInt());
  SA_RETURN_IF_ERROR(ParseLosses(row->GetText(), &t.losses));
  t.payload = row->GetText();
  t.result = row->GetText();
  return t;
}

}  // namespace shiftadd
