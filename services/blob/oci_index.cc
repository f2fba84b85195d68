#include "services/blob/oci_index.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/blob/checks.h"
#include "services/blob/posix_file.h"

namespace shiftadd::blob {
namespace {

using nlohmann::json;

constexpr char kRefName[] = "org.opencontainers.image.ref.name";
constexpr char kIndexMediaType[] = "application/vnd.oci.image.index.v1+json";
constexpr char kLayoutVersion[] = "1.0.0";
constexpr uint64_t kMaxIndexBytes = 256u << 20;

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const Fd fd, Open(path, O_RDONLY));
  return ReadAt(fd, path, 0, kMaxIndexBytes);
}

absl::Status ReplaceFile(const std::string& path, const std::string& temp_dir,
                         const std::string& text) {
  SA_ASSIGN_OR_RETURN(TempFile temp, TempFile::Create(temp_dir));
  SA_RETURN_IF_ERROR(temp.Append(text));
  return temp.MoveTo(path);
}

json EmptyIndex() {
  return {{"schemaVersion", 2}, {"mediaType", kIndexMediaType}, {"manifests", json::array()}};
}

// NOT_FOUND: there is no such file.
absl::Status CheckVersion(const std::string& layout) {
  SA_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(layout));
  const json found = ParseJson(text);
  if (found.is_object() && found.value("imageLayoutVersion", json()) == kLayoutVersion) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(layout, ": expected imageLayoutVersion ", kLayoutVersion, ", found ", text));
}

// Empty if the entry has no reference.
std::string ReferenceOf(const json& entry) {
  const auto annotations = entry.find("annotations");
  if (annotations == entry.end() || !annotations->is_object()) return "";
  const auto name = annotations->find(kRefName);
  return name != annotations->end() && name->is_string() ? name->get<std::string>() : "";
}

void EraseReference(json& manifests, const std::string& reference) {
  manifests.erase(std::remove_if(manifests.begin(), manifests.end(),
                                 [&](const json& m) { return ReferenceOf(m) == reference; }),
                  manifests.end());
}

}  // namespace

absl::Status CheckLayout(const std::string& dir) {
  for (const char* file : {"/index.json", "/oci-layout"}) {
    const absl::Status there = Open(dir + file, O_RDONLY).status();
    if (absl::IsNotFound(there)) {
      return absl::NotFoundError(absl::StrCat("no OCI image layout is there (", file + 1, ")"));
    }
    SA_RETURN_IF_ERROR(there);
  }
  return CheckVersion(dir + "/oci-layout");
}

absl::Status InitLayout(const std::string& dir, const std::string& temp_dir) {
  const std::string layout = dir + "/oci-layout", index = dir + "/index.json";
  SA_ASSIGN_OR_RETURN(const FileLock lock,
                      FileLock::Acquire(dir + "/.index.lock", FileLock::kExclusive));
  absl::Status version = CheckVersion(layout);
  if (absl::IsNotFound(version)) {
    version = ReplaceFile(layout, temp_dir, json{{"imageLayoutVersion", kLayoutVersion}}.dump());
  }
  SA_RETURN_IF_ERROR(version);
  const absl::Status there = Open(index, O_RDONLY).status();
  return absl::IsNotFound(there) ? ReplaceFile(index, temp_dir, EmptyIndex().dump()) : there;
}

OciIndex::OciIndex(const std::string& dir, std::string temp_dir)
    : path_(dir + "/index.json"),
      lock_path_(dir + "/.index.lock"),
      temp_dir_(std::move(temp_dir)) {}

absl::StatusOr<json> OciIndex::Read() const {
  const absl::StatusOr<std::string> text = ReadSmallFile(path_);
  if (absl::IsNotFound(text.status())) return EmptyIndex();
  if (!text.ok()) return text.status();
  // Not every layout was written by us.
  json index = ParseJson(*text);
  if (!index.is_object() || !index.contains("manifests") || !index["manifests"].is_array()) {
    return absl::DataLossError(absl::StrCat(
        path_, ": not an OCI index (expected a JSON object with an array \"manifests\")"));
  }
  size_t i = 0;
  for (const json& entry : index["manifests"]) {
    const absl::Status sound = CheckDescriptor(entry, absl::StrCat("manifests[", i++, "]"));
    if (!sound.ok()) return absl::DataLossError(absl::StrCat(path_, ": ", sound.message()));
  }
  return index;
}

absl::Status OciIndex::Write(const json& index) const {
  return ReplaceFile(path_, temp_dir_, index.dump());
}

absl::Status OciIndex::Put(const std::string& reference, const json& descriptor) {
  if (reference.empty())
    return absl::InvalidArgumentError("reference: expected name:tag, found \"\"");
  SA_RETURN_IF_ERROR(CheckDescriptor(descriptor));
  SA_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(lock_path_, FileLock::kExclusive));
  SA_ASSIGN_OR_RETURN(json index, Read());
  json entry = descriptor;
  entry["annotations"][kRefName] = reference;
  json& manifests = index["manifests"];
  EraseReference(manifests, reference);
  manifests.push_back(std::move(entry));
  std::stable_sort(manifests.begin(), manifests.end(),
                   [](const json& a, const json& b) { return ReferenceOf(a) < ReferenceOf(b); });
  return Write(index);
}

absl::Status OciIndex::Delete(const std::string& reference) {
  if (reference.empty())
    return absl::InvalidArgumentError("reference: expected name:tag, found \"\"");
  SA_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Acquire(lock_path_, FileLock::kExclusive));
  SA_ASSIGN_OR_RETURN(json index, Read());
  json& manifests = index["manifests"];
  const size_t before = manifests.size();
  EraseReference(manifests, reference);
  return manifests.size() == before ? absl::OkStatus() : Write(index);
}

absl::StatusOr<std::map<std::string, json>> OciIndex::List() const {
  SA_ASSIGN_OR_RETURN(const json index, Read());
  std::map<std::string, json> tags;
  for (json entry : index["manifests"]) {
    const std::string reference = ReferenceOf(entry);
    if (reference.empty()) continue;
    entry["annotations"].erase(kRefName);
    if (entry["annotations"].empty()) entry.erase("annotations");
    tags[reference] = std::move(entry);
  }
  return tags;
}

}  // namespace shiftadd::blob
