// BlobStore over an OCI image layout directory.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/blob/blob_store.h"
#include "services/blob/checks.h"
#include "services/blob/oci_index.h"
#include "services/blob/posix_file.h"

namespace shiftadd {
namespace {

using blob::ErrnoStatus;
using blob::Fd;
using blob::FileLock;
using blob::TempFile;
using blob::ValidateJob;
using nlohmann::json;

constexpr uint64_t kCompareBytes = 1u << 20;
constexpr uint64_t kWholeFile = ~uint64_t{0};

std::string HexOf(const std::string& digest) { return digest.substr(sizeof("sha256:") - 1); }

absl::Status NotFound(const std::string& digest, const std::string& where) {
  return absl::NotFoundError(absl::StrCat("blob ", digest, " is not in ", where));
}

// Whether the file at `path` holds exactly the bytes of `other`.
bool SameBytes(const std::string& path, const Fd& other, const std::string& other_path) {
  const absl::StatusOr<Fd> fd = blob::Open(path, O_RDONLY);
  if (!fd.ok()) return false;
  for (uint64_t offset = 0;; offset += kCompareBytes) {
    const absl::StatusOr<std::string> a = blob::ReadAt(*fd, path, offset, kCompareBytes);
    const absl::StatusOr<std::string> b = blob::ReadAt(other, other_path, offset, kCompareBytes);
    if (!a.ok() || !b.ok() || *a != *b) return false;
    if (a->size() < kCompareBytes) return true;
  }
}

bool SameBytes(const std::string& path, absl::string_view data) {
  const absl::StatusOr<Fd> fd = blob::Open(path, O_RDONLY);
  if (!fd.ok()) return false;
  const absl::StatusOr<uint64_t> size = blob::SizeOf(*fd, path);
  if (!size.ok() || *size != data.size()) return false;
  for (uint64_t offset = 0; offset < data.size(); offset += kCompareBytes) {
    const absl::StatusOr<std::string> part = blob::ReadAt(*fd, path, offset, kCompareBytes);
    if (!part.ok() || *part != data.substr(offset, kCompareBytes)) return false;
  }
  return true;
}

class LayoutStore : public BlobStore {
 public:
  LayoutStore(const std::string& dir, StoreUse use)
      : dir_(dir),
        use_(use),
        blobs_(dir + "/blobs/sha256"),
        scratch_(dir + "/scratch"),
        temp_(dir + "/tmp"),
        lock_(dir + "/.blobs.lock"),
        index_(dir, temp_) {}

  absl::Status Init() {
    if (use_ == StoreUse::kRead) return blob::CheckLayout(dir_);
    for (const std::string& d : {blobs_, scratch_, temp_}) {
      SA_RETURN_IF_ERROR(blob::MakeDirectories(d));
    }
    blob::RemoveStaleTempFiles(temp_);
    return blob::InitLayout(dir_, temp_);
  }

  absl::StatusOr<std::string> Put(absl::string_view data) override {
    const std::string digest = Sha256Digest(data);
    SA_RETURN_IF_ERROR(Writable());
    // Shared with other writers, exclusive against DeleteIfOlder: a blob that is touched here
    // stays.
    SA_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(lock_, FileLock::kShared));
    if (SameBytes(PathOf(digest), data) && Touch(digest)) return digest;
    SA_RETURN_IF_ERROR(WriteNew(PathOf(digest), data));
    return digest;
  }

  absl::StatusOr<std::unique_ptr<BlobWriter>> NewWriter() override;

  absl::StatusOr<std::string> Get(const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    return GetVerified(PathOf(digest), digest, dir_);
  }

  absl::StatusOr<uint64_t> Stat(const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    struct stat st;
    if (stat(PathOf(digest).c_str(), &st) == 0) {
      if (S_ISREG(st.st_mode)) return static_cast<uint64_t>(st.st_size);
      return absl::FailedPreconditionError(
          absl::StrCat(PathOf(digest), ": expected a regular file"));
    }
    return errno == ENOENT ? Missing(digest, dir_) : ErrnoStatus(errno, "stat", PathOf(digest));
  }

  absl::StatusOr<uint64_t> Renew(const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    SA_RETURN_IF_ERROR(Writable());
    SA_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(lock_, FileLock::kShared));
    SA_ASSIGN_OR_RETURN(const uint64_t size, Stat(digest));
    if (!Touch(digest)) return ErrnoStatus(errno, "set time of", PathOf(digest));
    return size;
  }

  absl::StatusOr<std::string> ReadRange(const std::string& digest, uint64_t offset,
                                        uint64_t length) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    const std::string path = PathOf(digest);
    const absl::StatusOr<Fd> fd = blob::Open(path, O_RDONLY);
    if (absl::IsNotFound(fd.status())) return Missing(digest, dir_);
    if (!fd.ok()) return fd.status();
    SA_ASSIGN_OR_RETURN(const uint64_t size, blob::SizeOf(*fd, path));
    if (offset > size) {
      return absl::OutOfRangeError(absl::StrCat("blob ", digest, ": offset: expected at most ",
                                                size, " (its size), found ", offset));
    }
    return blob::ReadAt(*fd, path, offset, length);
  }

  absl::Status Delete(const std::string& digest) override {
    return DeleteIfOlder(digest, absl::InfiniteFuture()).status();
  }

  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, absl::Time cutoff) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    SA_RETURN_IF_ERROR(Writable());
    SA_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(lock_, FileLock::kExclusive));
    const std::string path = PathOf(digest);
    struct stat st;
    if (stat(path.c_str(), &st) != 0) {
      if (errno == ENOENT) return false;
      return ErrnoStatus(errno, "stat", path);
    }
    if (absl::TimeFromTimespec(st.st_mtim) >= cutoff) return false;
    if (unlink(path.c_str()) != 0) return ErrnoStatus(errno, "delete", path);
    SA_RETURN_IF_ERROR(blob::SyncDirectory(blobs_));
    return true;
  }

  absl::StatusOr<std::vector<std::string>> List() override {
    SA_ASSIGN_OR_RETURN(const std::vector<BlobInfo> infos, ListInfo());
    std::vector<std::string> digests;
    digests.reserve(infos.size());
    for (const BlobInfo& info : infos) digests.push_back(info.digest);
    return digests;
  }

  absl::StatusOr<std::vector<BlobInfo>> ListInfo() override {
    SA_RETURN_IF_ERROR(Away());
    std::error_code error;
    std::vector<BlobInfo> infos;
    std::filesystem::directory_iterator it(blobs_, error);
    for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
      const std::string digest = "sha256:" + it->path().filename().string();
      struct stat st;
      if (!ValidateDigest(digest).ok() || stat(it->path().c_str(), &st) != 0) continue;
      infos.push_back(
          {digest, static_cast<uint64_t>(st.st_size), absl::TimeFromTimespec(st.st_mtim)});
    }
    if (error) return ErrnoStatus(error.value(), "list", blobs_);
    std::sort(infos.begin(), infos.end(),
              [](const BlobInfo& a, const BlobInfo& b) { return a.digest < b.digest; });
    return infos;
  }

  absl::StatusOr<std::string> PutScratch(const std::string& job, absl::string_view data) override {
    SA_RETURN_IF_ERROR(ValidateJob(job));
    // Nothing is made in a folder on which a disk will be mounted.
    SA_RETURN_IF_ERROR(Writable());
    const std::string digest = Sha256Digest(data), folder = scratch_ + "/" + job;
    const std::string path = folder + "/" + HexOf(digest);
    if (SameBytes(path, data)) return digest;
    SA_RETURN_IF_ERROR(blob::MakeDirectories(folder));
    SA_RETURN_IF_ERROR(WriteNew(path, data));
    return digest;
  }

  absl::StatusOr<std::string> GetScratch(const std::string& job,
                                         const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateJob(job));
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    const std::string folder = scratch_ + "/" + job;
    return GetVerified(folder + "/" + HexOf(digest), digest, folder);
  }

  absl::Status DeleteScratchBlob(const std::string& job, const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateJob(job));
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    SA_RETURN_IF_ERROR(MayWrite());
    const std::string path = scratch_ + "/" + job + "/" + HexOf(digest);
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, "delete", path);
  }

  absl::Status DeleteScratch(const std::string& job) override {
    SA_RETURN_IF_ERROR(ValidateJob(job));
    SA_RETURN_IF_ERROR(Writable());
    const std::string folder = scratch_ + "/" + job;
    std::error_code error;
    // A writer that has not heard of the end may add a file between the listing and the rmdir.
    for (int attempt = 0; attempt < 5; ++attempt) {
      error.clear();
      std::filesystem::remove_all(folder, error);
      if (!error || error.value() == ENOENT) return absl::OkStatus();
      if (error.value() != ENOTEMPTY) break;
    }
    return ErrnoStatus(error.value(), "delete", folder);
  }

  absl::Status PutTag(const std::string& reference, const json& descriptor) override {
    SA_RETURN_IF_ERROR(MayWrite());
    return index_.Put(reference, descriptor);
  }
  absl::Status DeleteTag(const std::string& reference) override {
    SA_RETURN_IF_ERROR(MayWrite());
    return index_.Delete(reference);
  }
  absl::StatusOr<std::map<std::string, json>> ListTags() override { return index_.List(); }

  // Makes a finished temp file the blob `digest`.
  absl::Status Adopt(TempFile temp, const std::string& digest) {
    SA_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(lock_, FileLock::kShared));
    if (SameBytes(PathOf(digest), temp.fd(), temp.path()) && Touch(digest)) return absl::OkStatus();
    return temp.MoveTo(PathOf(digest));
  }

 private:
  std::string PathOf(const std::string& digest) const { return blobs_ + "/" + HexOf(digest); }

  // False if it is gone.
  bool Touch(const std::string& digest) const {
    return utimensat(AT_FDCWD, PathOf(digest).c_str(), nullptr, 0) == 0;
  }

  absl::Status WriteNew(const std::string& path, absl::string_view data) const {
    SA_ASSIGN_OR_RETURN(TempFile temp, TempFile::Create(temp_));
    SA_RETURN_IF_ERROR(temp.Append(data));
    return temp.MoveTo(path);
  }

  // Of a folder that is not there (a disk that is not mounted, say) nothing is known.
  absl::Status Away() const {
    if (access((dir_ + "/oci-layout").c_str(), F_OK) == 0 || errno != ENOENT) {
      return absl::OkStatus();
    }
    return absl::UnavailableError(
        absl::StrCat("blob folder ", dir_, " is away: it has no oci-layout"));
  }
  absl::Status MayWrite() const {
    if (use_ == StoreUse::kReadAndWrite) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("blob folder ", dir_, " was opened to be read only"));
  }
  absl::Status Writable() const {
    SA_RETURN_IF_ERROR(MayWrite());
    return Away();
  }
  absl::Status Missing(const std::string& digest, const std::string& where) const {
    SA_RETURN_IF_ERROR(Away());
    return NotFound(digest, where);
  }

  absl::StatusOr<std::string> GetVerified(const std::string& path, const std::string& digest,
                                          const std::string& where) {
    const absl::StatusOr<Fd> fd = blob::Open(path, O_RDONLY);
    if (absl::IsNotFound(fd.status())) return Missing(digest, where);
    if (!fd.ok()) return fd.status();
    SA_ASSIGN_OR_RETURN(std::string data, blob::ReadAt(*fd, path, 0, kWholeFile));
    const std::string found = Sha256Digest(data);
    if (found != digest) {
      return absl::DataLossError(
          absl::StrCat(path, ": damaged: expected digest ", digest, ", found ", found));
    }
    return data;
  }

  const std::string dir_;
  const StoreUse use_;
  const std::string blobs_, scratch_, temp_, lock_;
  blob::OciIndex index_;
};

class LayoutWriter : public BlobWriter {
 public:
  LayoutWriter(LayoutStore* store, TempFile temp) : store_(store), temp_(std::move(temp)) {}

  absl::Status Append(absl::string_view data) override {
    SA_RETURN_IF_ERROR(temp_.Append(data));
    hash_.Update(data.data(), data.size());
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Commit(const std::string& expected_digest) override {
    const std::string digest = hash_.Finish();
    if (!expected_digest.empty() && expected_digest != digest) {
      return absl::DataLossError(
          absl::StrCat("blob: expected digest ", expected_digest, ", found ", digest));
    }
    SA_RETURN_IF_ERROR(store_->Adopt(std::move(temp_), digest));
    return digest;
  }

 private:
  LayoutStore* store_;
  TempFile temp_;
  Sha256 hash_;
};

absl::StatusOr<std::unique_ptr<BlobWriter>> LayoutStore::NewWriter() {
  SA_RETURN_IF_ERROR(Writable());
  SA_ASSIGN_OR_RETURN(TempFile temp, TempFile::Create(temp_));
  return std::unique_ptr<BlobWriter>(new LayoutWriter(this, std::move(temp)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> OpenOciLayout(const std::string& dir, StoreUse use) {
  if (dir.empty()) return absl::InvalidArgumentError("blob folder: expected a path, found \"\"");
  auto store = std::make_unique<LayoutStore>(dir, use);
  SA_RETURN_IF_ERROR(Annotate(store->Init(), absl::StrCat("blob folder ", dir)));
  return store;
}

}  // namespace shiftadd
