#include <map>

#include "services/packaging/packaging_test_util.h"
#include "services/store/postgres_server.h"

namespace shiftadd::packaging {
namespace {

// The database of one test's folder.
const std::string& DatabaseOf(const std::string& dir) {
  static auto* const known = new std::map<std::string, std::string>();
  std::string& url = (*known)[dir];
  if (url.empty()) url = PostgresServer::Shared().NewDatabase();
  return url;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackageStore>> OpenTestPackageStore(const std::string& dir) {
  return OpenPostgresPackageStore(DatabaseOf(dir), dir + "/packager");
}

}  // namespace shiftadd::packaging
