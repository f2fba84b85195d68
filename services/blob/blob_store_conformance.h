// What every BlobStore must do: instantiate BlobStoreConformance with a factory of empty stores.
#ifndef SHIFTADD_SERVICES_BLOB_BLOB_STORE_CONFORMANCE_H_
#define SHIFTADD_SERVICES_BLOB_BLOB_STORE_CONFORMANCE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "services/blob/blob_store.h"

namespace shiftadd {

struct BlobStoreFactory {
  std::string name;
  // Opens the store at `place` (an empty folder's path): the same place gives the same store.
  std::function<absl::StatusOr<std::unique_ptr<BlobStore>>(const std::string& place)> open;
};

class BlobStoreConformance : public testing::TestWithParam<BlobStoreFactory> {
 protected:
  void SetUp() override;
  void TearDown() override;
  std::unique_ptr<BlobStore> Open() const;

  std::string place_;
  std::unique_ptr<BlobStore> store_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BLOB_BLOB_STORE_CONFORMANCE_H_
