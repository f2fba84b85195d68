#include "worker/tasks/patient_blob_store.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "services/base/logging.h"

namespace shiftadd {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(2);
// Whoever cancels a task waits about so long.
constexpr absl::Duration kLook = absl::Milliseconds(100);

const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

}  // namespace

void PatientBlobStore::Begin(const std::atomic<bool>* cancelled) {
  cancelled_ = cancelled;
  const std::lock_guard<std::mutex> lock(mutex_);
  lost_.clear();
}

std::vector<std::string> PatientBlobStore::lost() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {lost_.begin(), lost_.end()};
}

template <typename Work>
auto PatientBlobStore::Try(const Work& work) -> decltype(work()) {
  const absl::Time end = absl::Now() + patience_;
  absl::Duration pause = kFirstPause;
  while (true) {
    auto result = work();
    if (!absl::IsUnavailable(StatusOf(result)) || absl::Now() + pause > end) return result;
    if (pause == kFirstPause) {
      spdlog::warn("waits for the blob store: {}", StatusOf(result).ToString());
    }
    for (const absl::Time wake = absl::Now() + pause; absl::Now() < wake;) {
      const std::atomic<bool>* const cancelled = cancelled_;
      if (cancelled != nullptr && *cancelled) return result;
      absl::SleepFor(std::min(kLook, wake - absl::Now()));
    }
    pause = std::min(pause * 2, kLongestPause);
  }
}

absl::StatusOr<std::string> PatientBlobStore::Remember(const std::string& digest,
                                                       absl::StatusOr<std::string> result) {
  if (absl::IsNotFound(result.status()) || absl::IsDataLoss(result.status())) {
    const std::lock_guard<std::mutex> lock(mutex_);
    lost_.insert(digest);
  }
  return result;
}

absl::StatusOr<std::string> PatientBlobStore::Put(absl::string_view data) {
  return Try([&] { return store_->Put(data); });
}
absl::StatusOr<std::unique_ptr<BlobWriter>> PatientBlobStore::NewWriter() {
  return Try([&] { return store_->NewWriter(); });
}
absl::StatusOr<std::string> PatientBlobStore::Get(const std::string& digest) {
  return Remember(digest, Try([&] { return store_->Get(digest); }));
}
absl::StatusOr<uint64_t> PatientBlobStore::Stat(const std::string& digest) {
  return Try([&] { return store_->Stat(digest); });
}
absl::StatusOr<uint64_t> PatientBlobStore::Renew(const std::string& digest) {
  return Try([&] { return store_->Renew(digest); });
}
absl::StatusOr<std::string> PatientBlobStore::ReadRange(const std::string& digest, uint64_t offset,
                                                        uint64_t length) {
  return Remember(digest, Try([&] { return store_->ReadRange(digest, offset, length); }));
}
absl::Status PatientBlobStore::Delete(const std::string& digest) {
  return Try([&] { return store_->Delete(digest); });
}
absl::StatusOr<bool> PatientBlobStore::DeleteIfOlder(const std::string& digest, absl::Time cutoff) {
  return Try([&] { return store_->DeleteIfOlder(digest, cutoff); });
}
absl::StatusOr<std::vector<std::string>> PatientBlobStore::List() {
  return Try([&] { return store_->List(); });
}
absl::StatusOr<std::vector<BlobInfo>> PatientBlobStore::ListInfo() {
  return Try([&] { return store_->ListInfo(); });
}
absl::StatusOr<std::string> PatientBlobStore::PutScratch(const std::string& job,
                                                         absl::string_view data) {
  return Try([&] { return store_->PutScratch(job, data); });
}
absl::StatusOr<std::string> PatientBlobStore::GetScratch(const std::string& job,
                                                         const std::string& digest) {
  return Remember(digest, Try([&] { return store_->GetScratch(job, digest); }));
}
absl::Status PatientBlobStore::DeleteScratchBlob(const std::string& job,
                                                 const std::string& digest) {
  return Try([&] { return store_->DeleteScratchBlob(job, digest); });
}
absl::Status PatientBlobStore::DeleteScratch(const std::string& job) {
  return Try([&] { return store_->DeleteScratch(job); });
}
absl::Status PatientBlobStore::PutTag(const std::string& reference,
                                      const nlohmann::json& descriptor) {
  return Try([&] { return store_->PutTag(reference, descriptor); });
}
absl::Status PatientBlobStore::DeleteTag(const std::string& reference) {
  return Try([&] { return store_->DeleteTag(reference); });
}
absl::StatusOr<std::map<std::string, nlohmann::json>> PatientBlobStore::ListTags() {
  return Try([&] { return store_->ListTags(); });
}

}  // namespace shiftadd
