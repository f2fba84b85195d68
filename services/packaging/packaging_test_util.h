// A packager over real stores in a temporary folder.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGING_TEST_UTIL_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGING_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "services/base/clock.h"
#include "services/packaging/packager.h"

namespace shiftadd::packaging {

// The store under test; each test program defines it. Opened again for the same folder it must find
// what was written before.
absl::StatusOr<std::unique_ptr<PackageStore>> OpenTestPackageStore(const std::string& dir);

class PackagerFixture : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Closes everything and opens it again, as a restart does.
  void Restart();
  // A spec whose blobs are in the store; `variant` makes other content.
  PublishSpec Spec(const std::string& reference, const std::string& variant = "");
  // The same without storing the layers' blobs.
  static PublishSpec SpecOnly(const std::string& reference, const std::string& variant);
  std::string LayerDigest(const std::string& variant) const;
  // Makes every blob look as if it was stored two hours ago.
  void AgeBlobs();
  // What the OCI index says of a reference; empty if nothing.
  std::string Mirrored(const std::string& reference);

  std::string dir_;
  FakeClock clock_{absl::Now()};
  PackagerOptions options_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<PackageStore> store_;
  std::unique_ptr<Packager> packager_;
};

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGING_TEST_UTIL_H_
