#include "services/access/tokens.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/access/watched_file.h"
#include "services/base/digest.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"

namespace shiftadd::access {
namespace {

constexpr size_t kMaxName = 100;
constexpr size_t kTokenBytes = 32;
constexpr size_t kMaxToken = 512;

absl::StatusOr<TokenEntry> ParseLine(absl::string_view line) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  if (words.size() != 3) {
    return absl::InvalidArgumentError("expected NAME ROLE[,ROLE] sha256:HEX");
  }
  if (!IsCallerName(words[0])) {
    return absl::InvalidArgumentError(
        "the name: expected 1 to 100 letters, digits, '.', '_', '-', '@'");
  }
  TokenEntry entry;
  entry.name = std::string(words[0]);
  for (const absl::string_view name : absl::StrSplit(words[1], ',')) {
    const std::optional<Role> role = FindRole(name);
    if (!role.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("the roles: expected of: ", RoleNames()));
    }
    entry.roles.Add(*role);
  }
  if (!ValidateDigest(words[2]).ok()) {
    return absl::InvalidArgumentError("the hash: expected sha256: and 64 lower-case hex digits");
  }
  entry.digest = std::string(words[2]);
  return entry;
}

class TokenFileImpl : public TokenFile {
 public:
  explicit TokenFileImpl(const std::string& path) : file_(path) {}

  absl::Status Load() {
    SA_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(file_.path()));
    SA_ASSIGN_OR_RETURN(entries_, ParseTokens(text, file_.path()));
    return absl::OkStatus();
  }

  std::optional<Caller> Find(absl::string_view token) override {
    if (token.empty() || token.size() > kMaxToken) return std::nullopt;
    const std::string digest = Sha256Digest(token);
    const std::lock_guard<std::mutex> hold(mutex_);
    if (file_.Changed()) {
      if (const absl::Status status = Load(); !status.ok()) {
        spdlog::error("tokens: {}; those that were there stay", std::string(status.message()));
      }
    }
    // All of them, whichever it is: the time tells nothing.
    const TokenEntry* found = nullptr;
    for (const TokenEntry& entry : entries_) {
      if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) found = &entry;
    }
    if (found == nullptr) return std::nullopt;
    return Caller{found->name, found->roles.Implied()};
  }

 private:
  std::mutex mutex_;
  WatchedFile file_;
  std::vector<TokenEntry> entries_;
};

}  // namespace

bool IsCallerName(absl::string_view name) {
  if (name.empty() || name.size() > kMaxName) return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-' || c == '@';
  });
}

absl::StatusOr<std::vector<TokenEntry>> ParseTokens(absl::string_view text,
                                                    absl::string_view path) {
  std::vector<TokenEntry> entries;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    absl::StatusOr<TokenEntry> entry = ParseLine(line);
    if (!entry.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", entry.status().message()));
    }
    entries.push_back(*std::move(entry));
  }
  return entries;
}

std::string FormatToken(const TokenEntry& entry) {
  std::string roles;
  for (const Role role : AllRoles()) {
    if (entry.roles.Has(role)) absl::StrAppend(&roles, roles.empty() ? "" : ",", RoleName(role));
  }
  return absl::StrCat(entry.name, " ", roles, " ", entry.digest);
}

std::string NewToken() {
  std::string bytes(kTokenBytes, '\0');
  // A system without randomness must not hand out tokens that can be guessed.
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), kTokenBytes) != 1) std::abort();
  return absl::StrCat("sat_", absl::WebSafeBase64Escape(bytes));
}

absl::StatusOr<std::shared_ptr<TokenFile>> TokenFile::Open(const std::string& path) {
  auto file = std::make_shared<TokenFileImpl>(path);
  SA_RETURN_IF_ERROR(file->Load());
  return std::shared_ptr<TokenFile>(std::move(file));
}

}  // namespace shiftadd::access
