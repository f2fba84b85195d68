#include "services/store/sql.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"

namespace shiftadd::sql {

Statement& Statement::Int(int64_t value) {
  values_.push_back({Value::Type::kInt, value, 0, {}});
  return *this;
}

Statement& Statement::Real(double value) {
  values_.push_back({Value::Type::kReal, 0, value, {}});
  return *this;
}

Statement& Statement::Text(absl::string_view value) {
  values_.push_back({Value::Type::kText, 0, 0, std::string(value)});
  return *this;
}

Statement& Statement::Blob(absl::string_view value) {
  values_.push_back({Value::Type::kBlob, 0, 0, std::string(value)});
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  column_ = 0;
  if (rows_ == nullptr) {
    SA_ASSIGN_OR_RETURN(rows_, session_.Execute(sql_, values_));
  }
  return rows_->Next();
}

absl::Status Statement::Run() {
  while (true) {
    SA_ASSIGN_OR_RETURN(const bool row, Step());
    if (!row) return absl::OkStatus();
  }
}

std::string ValueRows(absl::string_view row, size_t count) {
  return absl::StrJoin(std::vector<absl::string_view>(count, row), ", ");
}

namespace {

absl::Status MigrateIn(Session& session, const std::string& versions,
                       const std::vector<std::string>& steps) {
  SA_RETURN_IF_ERROR(session.LockSchema());
  SA_RETURN_IF_ERROR(
      session.Script(absl::StrCat("CREATE TABLE IF NOT EXISTS ", versions, " (version BIGINT)")));
  size_t version = 0;
  {
    Statement read(session, absl::StrCat("SELECT COALESCE(MAX(version), 0) FROM ", versions));
    SA_ASSIGN_OR_RETURN(const bool row, read.Step());
    if (row) version = static_cast<size_t>(read.GetInt());
  }
  if (version > steps.size()) {
    return absl::FailedPreconditionError(absl::StrCat("database schema: found version ", version,
                                                      ", this program knows ", steps.size(),
                                                      " at most: use a newer shiftadd"));
  }
  for (; version < steps.size(); ++version) {
    SA_RETURN_IF_ERROR(session.Script(steps[version]));
    Statement write(session, absl::StrCat("INSERT INTO ", versions, " (version) VALUES (?)"));
    SA_RETURN_IF_ERROR(write.Int(static_cast<int64_t>(version) + 1).Run());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Migrate(Database* database, const std::string& versions,
                     const std::vector<std::string>& steps) {
  return database->Write([&](Session& session) { return MigrateIn(session, versions, steps); });
}

}  // namespace shiftadd::sql
