#include "services/store/postgres_connection.h"

#include <endian.h>

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::sql {
namespace {

// Of the types that Value knows (catalog/pg_type.dat).
constexpr Oid kInt8 = 20, kText = 25, kFloat8 = 701, kBytea = 17;
constexpr int kBinary = 1;

// A statement that waits longer has met somebody who holds rows and does not go on; a transaction
// that is idle for long is one of a process that was stopped, and must not hold up the others.
constexpr char kSettings[] =
    "SET statement_timeout = '30s'; SET lock_timeout = '10s'; "
    "SET idle_in_transaction_session_timeout = '10s'";

std::string Encode(const Value& value) {
  uint64_t bits = 0;
  switch (value.type) {
    case Value::Type::kInt:
      bits = static_cast<uint64_t>(value.number);
      break;
    case Value::Type::kReal:
      std::memcpy(&bits, &value.real, sizeof(bits));
      break;
    default:
      return value.bytes;
  }
  bits = htobe64(bits);
  return std::string(reinterpret_cast<const char*>(&bits), sizeof(bits));
}

Oid TypeOf(const Value& value) {
  switch (value.type) {
    case Value::Type::kInt:
      return kInt8;
    case Value::Type::kReal:
      return kFloat8;
    case Value::Type::kText:
      return kText;
    case Value::Type::kBlob:
      return kBytea;
  }
  return 0;
}

// Question marks become $1, $2, …; no statement of ours has one in a literal.
std::string Numbered(const std::string& sql) {
  std::string out;
  int number = 0;
  for (const char c : sql) {
    if (c == '?') {
      absl::StrAppend(&out, "$", ++number);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

PostgresFault FaultOf(absl::string_view state) {
  if (state == "40001" || state == "40P01") return PostgresFault::kConflict;
  // Connections that end, servers that shut down or start, pools that forgot our statements.
  if (absl::StartsWith(state, "08") || absl::StartsWith(state, "57P") || state == "26000" ||
      state == "25P03") {
    return PostgresFault::kLost;
  }
  return PostgresFault::kOther;
}

// By the classes of SQLSTATE (appendix A of PostgreSQL's manual).
absl::StatusCode CodeOf(absl::string_view state) {
  if (state == "53100" || state == "53200" || state == "54000") {
    return absl::StatusCode::kResourceExhausted;
  }
  if (state == "23505") return absl::StatusCode::kAlreadyExists;
  for (const char* prefix : {"08", "40", "53", "55P03", "57", "58", "25006", "25P03", "26000"}) {
    if (absl::StartsWith(state, prefix)) return absl::StatusCode::kUnavailable;
  }
  if (absl::StartsWith(state, "22")) return absl::StatusCode::kInvalidArgument;
  if (absl::StartsWith(state, "XX001") || absl::StartsWith(state, "XX002")) {
    return absl::StatusCode::kDataLoss;
  }
  for (const char* prefix : {"28", "3D", "42501"}) {
    if (absl::StartsWith(state, prefix)) return absl::StatusCode::kFailedPrecondition;
  }
  return absl::StatusCode::kInternal;
}

bool IsRefusal(absl::string_view message) {
  for (const char* text : {"authentication failed", "no password supplied", "does not exist",
                           "no pg_hba.conf entry", "permission denied for database"}) {
    if (absl::StrContains(message, text)) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresConnection::Connect(
    const PostgresUrl& url) {
  // What the URL says itself counts: it comes last.
  const char* const keys[] = {
      "connect_timeout",  "application_name", "keepalives_idle", "keepalives_count",
      "tcp_user_timeout", "client_encoding",  "dbname",          nullptr};
  const char* const values[] = {"5",    "shiftadd",         "10",   "3", "15000",
                                "UTF8", url.text().c_str(), nullptr};
  PGconn* raw = PQconnectdbParams(keys, values, /*expand_dbname=*/1);
  std::unique_ptr<PostgresConnection> connection(new PostgresConnection(raw, url));
  if (PQstatus(raw) != CONNECTION_OK) {
    const std::string message =
        absl::StrCat("database ", url.shown(), ": ", url.Redact(PQerrorMessage(raw)));
    if (IsRefusal(message)) return absl::FailedPreconditionError(message);
    return absl::UnavailableError(message);
  }
  PQsetNoticeProcessor(
      raw, [](void*, const char*) {}, nullptr);
  SA_RETURN_IF_ERROR(connection->Simple(kSettings).status());
  return connection;
}

PostgresConnection::~PostgresConnection() { PQfinish(raw_); }

absl::StatusOr<PostgresResult> PostgresConnection::Check(PGresult* raw_result) {
  PostgresResult result(raw_result);
  const ExecStatusType status = PQresultStatus(result.get());
  if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) return result;
  const char* field = PQresultErrorField(result.get(), PG_DIAG_SQLSTATE);
  const bool connected = PQstatus(raw_) == CONNECTION_OK;
  const std::string state = field != nullptr ? field : "";
  fault_ = connected && !state.empty() ? FaultOf(state) : PostgresFault::kLost;
  const char* text = PQresultErrorField(result.get(), PG_DIAG_MESSAGE_PRIMARY);
  if (text == nullptr) text = PQerrorMessage(raw_);
  const absl::StatusCode code =
      fault_ == PostgresFault::kLost ? absl::StatusCode::kUnavailable : CodeOf(state);
  return absl::Status(
      code, absl::StrCat("database: ", url_.Redact(text), state.empty() ? "" : " (SQLSTATE ", state,
                         state.empty() ? "" : ")"));
}

absl::StatusOr<PostgresResult> PostgresConnection::Simple(const std::string& sql) {
  return Check(PQexec(raw_, sql.c_str()));
}

absl::StatusOr<PostgresResult> PostgresConnection::Prepared(const std::string& sql,
                                                            const std::vector<Value>& values) {
  std::vector<Oid> types;
  std::vector<std::string> encoded;
  std::vector<const char*> data;
  std::vector<int> sizes, formats(values.size(), kBinary);
  encoded.reserve(values.size());
  for (const Value& value : values) {
    types.push_back(TypeOf(value));
    encoded.push_back(Encode(value));
    data.push_back(encoded.back().data());
    sizes.push_back(static_cast<int>(encoded.back().size()));
  }
  const int count = static_cast<int>(values.size());
  auto known = prepared_.find(sql);
  if (known == prepared_.end()) {
    const std::string name = absl::StrCat("s", prepared_.size());
    SA_RETURN_IF_ERROR(
        Check(PQprepare(raw_, name.c_str(), Numbered(sql).c_str(), count, types.data())).status());
    known = prepared_.emplace(sql, name).first;
  }
  return Check(PQexecPrepared(raw_, known->second.c_str(), count, data.data(), sizes.data(),
                              formats.data(), kBinary));
}

}  // namespace shiftadd::sql
