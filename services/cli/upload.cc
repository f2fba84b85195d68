#include "services/cli/upload.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/cli/files.h"

namespace shiftadd::cli {
namespace {

constexpr size_t kMaxText = 1u << 30;
constexpr size_t kChunk = 1u << 20;  // the protocol's limit

absl::StatusOr<std::string> Send(const PackageClient& client, const std::string& text,
                                 const std::string& digest) {
  grpc::ClientContext call;
  rpc::SetDeadline(&call, absl::Minutes(10));
  v1::WriteBlobResponse response;
  auto writer = client.stub()->WriteBlob(&call, &response);
  v1::WriteBlobRequest first;
  first.set_digest(digest);
  bool open = writer->Write(first);
  for (size_t at = 0; open && at < text.size(); at += kChunk) {
    v1::WriteBlobRequest piece;
    piece.set_data(text.substr(at, kChunk));
    open = writer->Write(piece);
  }
  writer->WritesDone();
  SA_RETURN_IF_ERROR(client.Explain(writer->Finish()));
  return response.digest();
}

}  // namespace

absl::StatusOr<std::string> UploadText(const PackageClient& client, const std::string& path) {
  SA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxText));
  if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": is empty"));
  const std::string digest = Sha256Digest(text);
  v1::StatBlobRequest stat;
  stat.set_digest(digest);
  if (client.Call(&PackageClient::Stub::StatBlob, stat).ok()) return digest;
  const absl::StatusOr<std::string> stored = Send(client, text, digest);
  if (!stored.ok()) return Annotate(stored.status(), absl::StrCat("uploading ", path));
  if (*stored != digest) {
    return absl::DataLossError(
        absl::StrCat(path, ": has ", digest, ", the packager stored ", *stored));
  }
  return digest;
}

}  // namespace shiftadd::cli
