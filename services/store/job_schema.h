// The tables of a coordinator's database and the steps between their versions.
#ifndef SHIFTADD_SERVICES_STORE_JOB_SCHEMA_H_
#define SHIFTADD_SERVICES_STORE_JOB_SCHEMA_H_

#include <string>
#include <vector>

namespace shiftadd {

// Element i takes a database from version i to i + 1 (sql::Migrate). Never changed once released,
// only appended to. Versions of the two have nothing to do with each other.
const std::vector<std::string>& SqliteJobMigrations();
const std::vector<std::string>& PostgresJobMigrations();

// Where each keeps its version. A PostgreSQL database has the packager's tables too.
inline constexpr char kSqliteJobVersions[] = "schema_version";
inline constexpr char kPostgresJobVersions[] = "job_schema_version";

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_JOB_SCHEMA_H_
