#include "services/store/postgres_db.h"

#include <endian.h>

#include <chrono>
#include <cstring>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/fail_point.h"
#include "services/base/status_macros.h"

namespace shiftadd::sql {
namespace {

constexpr int kTries = 12;
// Conflicts end when the others are through, however slow the machine: they are met again for so
// long at least.
constexpr absl::Duration kConflictPatience = absl::Seconds(15);
constexpr absl::Duration kFirstPause = absl::Milliseconds(2);
constexpr absl::Duration kLongestPause = absl::Milliseconds(200);
constexpr std::chrono::seconds kPatience(10);  // for a connection

// Microseconds since the Unix epoch.
constexpr char kServerTime[] = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint";
// Two programs that bring one database up to date: any number, the same for all.
constexpr char kSchemaLock[] = "SELECT pg_advisory_xact_lock(7316288)";

class PostgresRows : public Rows {
 public:
  explicit PostgresRows(PostgresResult result)
      : result_(std::move(result)), count_(PQntuples(result_.get())) {}

  absl::StatusOr<bool> Next() override { return ++row_ < count_; }

  int64_t Int(int column) const override {
    const char* data = PQgetvalue(result_.get(), row_, column);
    switch (PQgetlength(result_.get(), row_, column)) {
      case 8: {
        uint64_t bits = 0;
        std::memcpy(&bits, data, sizeof(bits));
        return static_cast<int64_t>(be64toh(bits));
      }
      case 4: {
        uint32_t bits = 0;
        std::memcpy(&bits, data, sizeof(bits));
        return static_cast<int32_t>(be32toh(bits));
      }
      default:
        return 0;
    }
  }
  double Real(int column) const override {
    const int64_t bits = Int(column);
    double value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  std::string Bytes(int column) const override {
    return std::string(PQgetvalue(result_.get(), row_, column),
                       static_cast<size_t>(PQgetlength(result_.get(), row_, column)));
  }

 private:
  const PostgresResult result_;
  const int count_;
  int row_ = -1;
};

class PostgresSession : public Session {
 public:
  PostgresSession(PostgresConnection* connection, std::optional<int64_t> now)
      : connection_(connection), now_(now) {}

  absl::StatusOr<std::unique_ptr<Rows>> Execute(const std::string& sql,
                                                const std::vector<Value>& values) override {
    SA_ASSIGN_OR_RETURN(PostgresResult result, connection_->Prepared(sql, values));
    changes_ = 0;
    // Empty, and no number, for what changes nothing.
    if (!absl::SimpleAtoi(PQcmdTuples(result.get()), &changes_)) changes_ = 0;
    return std::make_unique<PostgresRows>(std::move(result));
  }
  absl::Status Script(const std::string& sql) override { return connection_->Simple(sql).status(); }
  int64_t Changes() override { return changes_; }
  absl::StatusOr<int64_t> Now() override {
    if (!now_.has_value()) {
      SA_ASSIGN_OR_RETURN(auto rows, Execute(kServerTime, {}));
      SA_RETURN_IF_ERROR(rows->Next().status());
      now_ = rows->Int(0);
    }
    return *now_;
  }
  std::string For(Lock lock) const override {
    return lock == Lock::kSkipLocked ? " FOR UPDATE SKIP LOCKED" : " FOR UPDATE";
  }
  absl::Status LockSchema() override { return Script(kSchemaLock); }
  Change announced() const { return announced_; }

 private:
  PostgresConnection* const connection_;
  std::optional<int64_t> now_;
  int64_t changes_ = 0;
};

}  // namespace

Postgres::Postgres(PostgresUrl url, PostgresOptions options)
    : url_(std::move(url)), options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<Postgres>> Postgres::Connect(const PostgresUrl& url,
                                                            PostgresOptions options) {
  std::unique_ptr<Postgres> db(new Postgres(url, std::move(options)));
  SA_RETURN_IF_ERROR(db->Write([](Session& session) { return session.Now().status(); }));
  return db;
}

absl::Time Postgres::Now() {
  if (options_.clock != nullptr) return options_.clock->Now();
  return absl::Now() + absl::Microseconds(offset_.load());
}

// --- Connections ---------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<PostgresConnection>> Postgres::Take() {
  {
    std::unique_lock<std::mutex> hold(mutex_);
    if (!returned_.wait_for(hold, kPatience, [&] { return lent_ < options_.connections; })) {
      return absl::UnavailableError("database: every connection is busy");
    }
    ++lent_;
    if (!idle_.empty()) {
      std::unique_ptr<PostgresConnection> connection = std::move(idle_.back());
      idle_.pop_back();
      return connection;
    }
  }
  auto connection = PostgresConnection::Connect(url_);
  if (!connection.ok()) GiveBack(nullptr);
  return connection;
}

void Postgres::GiveBack(std::unique_ptr<PostgresConnection> connection) {
  std::vector<std::unique_ptr<PostgresConnection>> dead;  // ended outside of the lock
  const std::lock_guard<std::mutex> hold(mutex_);
  --lent_;
  if (connection != nullptr) {
    if (connection->lost()) {
      dead.swap(idle_);  // most likely they have died with it
      dead.push_back(std::move(connection));
    } else {
      idle_.push_back(std::move(connection));
    }
  }
  returned_.notify_one();
}

// --- Transactions --------------------------------------------------------------------------------

absl::Status Postgres::Write(const Work& work) { return Run(Mode::kWrite, work); }
absl::Status Postgres::Read(const Work& work) { return Run(Mode::kRead, work); }

absl::Status Postgres::Run(Mode mode, const Work& work) {
  absl::Duration pause = kFirstPause;
  absl::Status status;
  const absl::Time patient_until = absl::Now() + kConflictPatience;
  bool conflict = false;
  for (int i = 0; i < kTries || (conflict && absl::Now() < patient_until); ++i) {
    auto connection = Take();
    if (!connection.ok()) {
      status = connection.status();
      // Who was let in once waits, whatever has been done to the server since.
      if (connected_) status = absl::UnavailableError(status.message());
      break;
    }
    connected_ = true;
    Change announced = Change::kNone;
    const Try result = RunOnce(mode, connection->get(), work, &announced);
    const bool lost = (*connection)->lost();
    GiveBack(*std::move(connection));
    if (announced != Change::kNone && options_.announce) options_.announce(announced);
    status = result.status;
    if (!result.again) break;
    conflict = !lost;
    // Another connection can be had at once or not at all; who met a conflict lets others pass.
    if (lost) continue;
    absl::SleepFor(pause * (1 + static_cast<double>(absl::ToUnixNanos(absl::Now()) % 1000) / 1000));
    pause = std::min(pause * 2, kLongestPause);
  }
  if (absl::IsUnavailable(status)) away_ = true;
  return status;
}

Postgres::Try Postgres::RunOnce(Mode mode, PostgresConnection* connection, const Work& work,
                                Change* announced) {
  std::optional<int64_t> now;
  if (mode == Mode::kWrite) {
    const auto begun = Begin(connection);
    if (!begun.ok()) return {begun.status(), connection->lost()};
    now = *begun;
  } else if (options_.clock != nullptr) {
    now = absl::ToUnixMicros(options_.clock->Now());
  }
  PostgresSession session(connection, now);
  absl::Status status = work(session);
  if (mode == Mode::kRead) return {status, !status.ok() && connection->lost()};
  if (status.ok()) {
    ReachFailPoint("store.commit.before");
    status = Commit(connection);
    ReachFailPoint("store.commit.after");
    if (status.ok()) *announced = session.announced();
    // Whether a commit whose answer was lost has been made is not known: the caller decides.
    const bool conflict = !status.ok() && connection->fault() == PostgresFault::kConflict;
    return {status, conflict && !connection->lost()};
  }
  const bool again = connection->lost() || connection->fault() == PostgresFault::kConflict;
  if (!connection->lost()) {
    const absl::Status undone = connection->Simple("ROLLBACK").status();
    undone.IgnoreError();  // a connection that is lost by then is not used again
  }
  return {status, again};
}

absl::StatusOr<int64_t> Postgres::Begin(PostgresConnection* connection) {
  connection->ClearFault();
  const std::string begin = absl::StrCat("BEGIN ISOLATION LEVEL ", options_.isolation);
  if (options_.clock != nullptr) {
    SA_RETURN_IF_ERROR(connection->Simple(begin).status());
    return absl::ToUnixMicros(options_.clock->Now());
  }
  SA_ASSIGN_OR_RETURN(const PostgresResult result,
                      connection->Simple(absl::StrCat(begin, "; ", kServerTime)));
  int64_t now = 0;
  if (!absl::SimpleAtoi(PQgetvalue(result.get(), 0, 0), &now)) {
    return absl::InternalError("database: its time cannot be read");
  }
  offset_ = now - absl::ToUnixMicros(absl::Now());
  return now;
}

absl::Status Postgres::Commit(PostgresConnection* connection) {
  SA_ASSIGN_OR_RETURN(const PostgresResult result, connection->Simple("COMMIT"));
  // A transaction in which something failed is rolled back by COMMIT.
  if (absl::string_view(PQcmdStatus(result.get())) == "COMMIT") return absl::OkStatus();
  return absl::InternalError("database: the transaction was rolled back");
}

}  // namespace shiftadd::sql
