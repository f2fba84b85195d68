// The tables of a coordinator's database and the steps between their versions.
#ifndef SHIFTADD_SERVICES_STORE_SQLITE_SCHEMA_H_
#define SHIFTADD_SERVICES_STORE_SQLITE_SCHEMA_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/store/sqlite_db.h"

namespace shiftadd::sqlite {

// Element i takes a database from version i to i + 1. Never changed once released, only appended
// to.
const std::vector<std::string>& JobMigrations();

// Brings the database to the newest version, one transaction a step. FAILED_PRECONDITION if it is
// newer than `migrations` knows.
absl::Status Migrate(Database* db, const std::vector<std::string>& migrations);

}  // namespace shiftadd::sqlite

#endif  // SHIFTADD_SERVICES_STORE_SQLITE_SCHEMA_H_
