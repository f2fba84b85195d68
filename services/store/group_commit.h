// Transactions that come while another one commits are committed together, behind it.
#ifndef SHIFTADD_SERVICES_STORE_GROUP_COMMIT_H_
#define SHIFTADD_SERVICES_STORE_GROUP_COMMIT_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "services/store/sql.h"

namespace shiftadd::sql {

// Waiting for the disk is most of what a transaction costs. One of the callers leads: it commits
// what has queued up, its own transaction first, and hands the lead to the next one that waits.
// Thread-safe.
class GroupCommit {
 public:
  // Somebody's transaction.
  struct Request {
    explicit Request(const Database::Work* work) : work(work) {}
    const Database::Work* const work;
    absl::Status status;  // to be set by the committer

   private:
    friend class GroupCommit;
    bool done = false, leads = false;  // under mutex_
    std::condition_variable wake;
  };
  // Sets the status of each; at least one, and never two batches at a time.
  using Committer = std::function<void(const std::vector<Request*>& batch)>;

  explicit GroupCommit(Committer commit) : commit_(std::move(commit)) {}

  // Returns when the work is committed, or is known not to be.
  absl::Status Write(const Database::Work& work);

 private:
  const Committer commit_;
  std::mutex mutex_;
  std::deque<Request*> queue_;  // under mutex_
  bool writing_ = false;        // somebody leads; under mutex_
};

}  // namespace shiftadd::sql

#endif  // SHIFTADD_SERVICES_STORE_GROUP_COMMIT_H_
