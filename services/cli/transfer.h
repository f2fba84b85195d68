// Moves blobs from one place to another, several at a time, and only those that are not there.
#ifndef SHIFTADD_SERVICES_CLI_TRANSFER_H_
#define SHIFTADD_SERVICES_CLI_TRANSFER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shiftadd::cli {

struct BlobToMove {
  std::string digest;
  uint64_t bytes = 0;
};

// Called from several threads at once.
struct TransferEnds {
  std::function<absl::StatusOr<bool>(const BlobToMove&)> has;  // the target
  std::function<absl::StatusOr<std::string>(const std::string& digest)> read;
  std::function<absl::Status(const BlobToMove&, const std::string& data)> write;
};

struct TransferState {
  uint64_t blobs = 0, bytes = 0;  // in all
  uint64_t done_blobs = 0, done_bytes = 0;
  uint64_t there_blobs = 0;  // of those done: were there before
};

// The first error ends it; what was written stays, so that the next attempt goes on from there.
// `progress` is called after each blob, one call at a time.
absl::StatusOr<TransferState> MoveBlobs(const std::vector<BlobToMove>& blobs,
                                        const TransferEnds& ends, int parallel,
                                        const std::function<void(const TransferState&)>& progress);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_TRANSFER_H_
