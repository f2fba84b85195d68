#include "services/store/job_schema.h"

namespace shiftadd {

// Times are microseconds since the Unix epoch. Columns repeat what queries and leases need from the
// document; where they do (state, device_class, last_sequence) the column counts.
const std::vector<std::string>& SqliteJobMigrations() {
  static const auto* steps = new std::vector<std::string>{R"sql(
    CREATE TABLE jobs (
      number INTEGER PRIMARY KEY AUTOINCREMENT,
      job_id TEXT NOT NULL UNIQUE,
      owner TEXT NOT NULL,
      request_id TEXT NOT NULL,
      fingerprint TEXT NOT NULL,
      state INTEGER NOT NULL,
      priority INTEGER NOT NULL,
      any_device INTEGER NOT NULL,
      device_class TEXT NOT NULL,
      last_sequence INTEGER NOT NULL,
      revision INTEGER NOT NULL,
      cleaned INTEGER NOT NULL,
      document BLOB NOT NULL);
    CREATE UNIQUE INDEX jobs_by_request ON jobs (owner, request_id) WHERE request_id <> '';
    CREATE INDEX jobs_by_state ON jobs (state);

    CREATE TABLE tasks (
      number INTEGER PRIMARY KEY AUTOINCREMENT,
      task_id TEXT NOT NULL UNIQUE,
      job_id TEXT NOT NULL REFERENCES jobs (job_id),
      kind INTEGER NOT NULL,
      ordinal INTEGER NOT NULL,
      lane INTEGER NOT NULL,
      rank INTEGER NOT NULL,
      state INTEGER NOT NULL,
      lease_epoch INTEGER NOT NULL,
      deadline INTEGER NOT NULL,
      worker TEXT NOT NULL,
      lost_by TEXT NOT NULL,
      attempts TEXT NOT NULL,
      progress REAL NOT NULL,
      lease_time INTEGER NOT NULL,
      end_time INTEGER NOT NULL,
      error_code INTEGER NOT NULL,
      error TEXT NOT NULL,
      payload BLOB NOT NULL,
      result BLOB NOT NULL,
      UNIQUE (job_id, kind, ordinal));
    CREATE INDEX tasks_by_state ON tasks (state, deadline);

    CREATE TABLE events (
      job_id TEXT NOT NULL REFERENCES jobs (job_id),
      sequence INTEGER NOT NULL,
      payload BLOB NOT NULL,
      PRIMARY KEY (job_id, sequence)) WITHOUT ROWID;

    CREATE TABLE owners (
      owner TEXT PRIMARY KEY,
      turn INTEGER NOT NULL) WITHOUT ROWID;

    CREATE TABLE workers (
      worker_id TEXT PRIMARY KEY,
      device_class TEXT NOT NULL,
      memory INTEGER NOT NULL,
      version TEXT NOT NULL,
      last_seen INTEGER NOT NULL) WITHOUT ROWID;
  )sql",
                                                          R"sql(
    ALTER TABLE jobs ADD COLUMN quantizer_version TEXT NOT NULL DEFAULT '';
  )sql",
                                                          R"sql(
    ALTER TABLE tasks ADD COLUMN excused INTEGER NOT NULL DEFAULT 0;
  )sql",
                                                          R"sql(
    ALTER TABLE tasks ADD COLUMN lease_request TEXT NOT NULL DEFAULT '';
    ALTER TABLE tasks ADD COLUMN losses TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE workers ADD COLUMN standing INTEGER NOT NULL DEFAULT 0;
  )sql",
                                                          R"sql(
    DROP INDEX tasks_by_state;
    CREATE INDEX tasks_by_state ON tasks (state);
    CREATE INDEX tasks_by_job ON tasks (job_id, state);
  )sql"};
  return *steps;
}

// Names are compared and sorted by their bytes, as SQLite does. What may hold any bytes is BYTEA.
const std::vector<std::string>& PostgresJobMigrations() {
  static const auto* steps = new std::vector<std::string>{R"sql(
    CREATE TABLE jobs (
      number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      job_id TEXT COLLATE "C" NOT NULL UNIQUE,
      owner TEXT COLLATE "C" NOT NULL,
      request_id TEXT COLLATE "C" NOT NULL,
      fingerprint BYTEA NOT NULL,
      state BIGINT NOT NULL,
      priority BIGINT NOT NULL,
      any_device BIGINT NOT NULL,
      device_class TEXT COLLATE "C" NOT NULL,
      last_sequence BIGINT NOT NULL,
      revision BIGINT NOT NULL,
      cleaned BIGINT NOT NULL,
      quantizer_version TEXT NOT NULL,
      document BYTEA NOT NULL);
    CREATE UNIQUE INDEX jobs_by_request ON jobs (owner, request_id) WHERE request_id <> '';
    CREATE INDEX jobs_by_state ON jobs (state);

    CREATE TABLE tasks (
      number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      task_id TEXT COLLATE "C" NOT NULL UNIQUE,
      job_id TEXT COLLATE "C" NOT NULL REFERENCES jobs (job_id),
      kind BIGINT NOT NULL,
      ordinal BIGINT NOT NULL,
      lane BIGINT NOT NULL,
      rank BIGINT NOT NULL,
      state BIGINT NOT NULL,
      lease_epoch BIGINT NOT NULL,
      deadline BIGINT NOT NULL,
      worker TEXT COLLATE "C" NOT NULL,
      lost_by TEXT COLLATE "C" NOT NULL,
      attempts TEXT NOT NULL,
      progress DOUBLE PRECISION NOT NULL,
      lease_time BIGINT NOT NULL,
      end_time BIGINT NOT NULL,
      error_code BIGINT NOT NULL,
      error BYTEA NOT NULL,
      payload BYTEA NOT NULL,
      result BYTEA NOT NULL,
      UNIQUE (job_id, kind, ordinal));
    CREATE INDEX tasks_by_state ON tasks (state, deadline);

    CREATE TABLE events (
      job_id TEXT COLLATE "C" NOT NULL REFERENCES jobs (job_id),
      sequence BIGINT NOT NULL,
      payload BYTEA NOT NULL,
      PRIMARY KEY (job_id, sequence));

    CREATE TABLE owners (
      owner TEXT COLLATE "C" PRIMARY KEY,
      turn BIGINT NOT NULL);

    CREATE TABLE workers (
      worker_id TEXT COLLATE "C" PRIMARY KEY,
      device_class TEXT COLLATE "C" NOT NULL,
      memory BIGINT NOT NULL,
      version TEXT NOT NULL,
      last_seen BIGINT NOT NULL);
  )sql",
                                                          R"sql(
    ALTER TABLE tasks ADD COLUMN excused BIGINT NOT NULL DEFAULT 0;
  )sql",
                                                          R"sql(
    ALTER TABLE tasks ADD COLUMN lease_request TEXT COLLATE "C" NOT NULL DEFAULT '';
    ALTER TABLE tasks ADD COLUMN losses TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE workers ADD COLUMN standing BIGINT NOT NULL DEFAULT 0;
  )sql",
                                                          // A renewal, or one more event, changes
                                                          // no indexed column: it needs room in
                                                          // its page and no other work (HOT).
                                                          R"sql(
    DROP INDEX tasks_by_state;
    CREATE INDEX tasks_by_state ON tasks (state);
    CREATE INDEX tasks_by_job ON tasks (job_id, state);
    ALTER TABLE tasks SET (fillfactor = 70);
    ALTER TABLE jobs SET (fillfactor = 70);
    ALTER TABLE workers SET (fillfactor = 50);
    ALTER TABLE owners SET (fillfactor = 50);
  )sql"};
  return *steps;
}

}  // namespace shiftadd
