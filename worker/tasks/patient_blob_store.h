// The blob store as a task sees it.
#ifndef SHIFTADD_WORKER_TASKS_PATIENT_BLOB_STORE_H_
#define SHIFTADD_WORKER_TASKS_PATIENT_BLOB_STORE_H_

#include <atomic>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/blob/blob_store.h"

namespace shiftadd {

// Hands everything on to another store. What is UNAVAILABLE there is tried again for a while: a
// registry that restarts or a disk that is mounted again costs no task its work. Blobs that were
// asked for and were not there, or had other bytes, are remembered by name. Thread-safe.
class PatientBlobStore : public BlobStore {
 public:
  // Less than the shortest time without progress after which a task loses its lease.
  static constexpr absl::Duration kPatience = absl::Seconds(60);

  // `store` must outlive this one.
  explicit PatientBlobStore(BlobStore* store, absl::Duration patience = kPatience)
      : store_(store), patience_(patience) {}

  // Forgets what was lost. From now on `cancelled`, which must outlive what is called, ends waits.
  void Begin(const std::atomic<bool>* cancelled);
  // `cancelled` is not looked at any more.
  void End() { cancelled_ = nullptr; }
  // Since Begin, in lexical order.
  std::vector<std::string> lost() const;

  absl::StatusOr<std::string> Put(absl::string_view data) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> NewWriter() override;
  absl::StatusOr<std::string> Get(const std::string& digest) override;
  absl::StatusOr<uint64_t> Stat(const std::string& digest) override;
  absl::StatusOr<uint64_t> Renew(const std::string& digest) override;
  absl::StatusOr<std::string> ReadRange(const std::string& digest, uint64_t offset,
                                        uint64_t length) override;
  absl::Status Delete(const std::string& digest) override;
  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, absl::Time cutoff) override;
  absl::StatusOr<std::vector<std::string>> List() override;
  absl::StatusOr<std::vector<BlobInfo>> ListInfo() override;
  absl::StatusOr<std::string> PutScratch(const std::string& job, absl::string_view data) override;
  absl::StatusOr<std::string> GetScratch(const std::string& job,
                                         const std::string& digest) override;
  absl::Status DeleteScratchBlob(const std::string& job, const std::string& digest) override;
  absl::Status DeleteScratch(const std::string& job) override;
  absl::Status PutTag(const std::string& reference, const nlohmann::json& descriptor) override;
  absl::Status DeleteTag(const std::string& reference) override;
  absl::StatusOr<std::map<std::string, nlohmann::json>> ListTags() override;

 private:
  template <typename Work>
  auto Try(const Work& work) -> decltype(work());
  absl::StatusOr<std::string> Remember(const std::string& digest,
                                       absl::StatusOr<std::string> result);

  BlobStore* const store_;
  const absl::Duration patience_;
  std::atomic<const std::atomic<bool>*> cancelled_{nullptr};
  mutable std::mutex mutex_;
  std::set<std::string> lost_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_PATIENT_BLOB_STORE_H_
