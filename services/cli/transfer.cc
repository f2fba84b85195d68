#include "services/cli/transfer.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::cli {
namespace {

absl::StatusOr<bool> MoveOne(const BlobToMove& blob, const TransferEnds& ends) {
  SA_ASSIGN_OR_RETURN(const bool there, ends.has(blob));
  if (there) return true;
  SA_ASSIGN_OR_RETURN(const std::string data, ends.read(blob.digest));
  if (data.size() != blob.bytes) {
    return absl::DataLossError(
        absl::StrCat("expected ", blob.bytes, " bytes, found ", data.size()));
  }
  SA_RETURN_IF_ERROR(ends.write(blob, data));
  return false;
}

}  // namespace

absl::StatusOr<TransferState> MoveBlobs(const std::vector<BlobToMove>& blobs,
                                        const TransferEnds& ends, int parallel,
                                        const std::function<void(const TransferState&)>& progress) {
  std::vector<BlobToMove> distinct;
  std::set<std::string> seen;
  TransferState state;
  for (const BlobToMove& blob : blobs) {
    if (!seen.insert(blob.digest).second) continue;
    distinct.push_back(blob);
    ++state.blobs;
    state.bytes += blob.bytes;
  }
  std::mutex mutex;
  absl::Status first_error;
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < distinct.size(); i = next++) {
      const absl::StatusOr<bool> there = MoveOne(distinct[i], ends);
      const std::lock_guard<std::mutex> lock(mutex);
      if (!there.ok()) {
        if (first_error.ok()) {
          first_error = Annotate(there.status(), absl::StrCat("blob ", distinct[i].digest));
        }
        next = distinct.size();
        return;
      }
      ++state.done_blobs;
      state.done_bytes += distinct[i].bytes;
      if (*there) ++state.there_blobs;
      progress(state);
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < std::min<int>(parallel, static_cast<int>(distinct.size())); ++t) {
    threads.emplace_back(work);
  }
  work();
  for (std::thread& thread : threads) thread.join();
  if (!first_error.ok()) return first_error;
  return state;
}

}  // namespace shiftadd::cli
