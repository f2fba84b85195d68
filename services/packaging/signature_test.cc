#include "services/packaging/signature.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "services/base/digest.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// openssl genpkey -algorithm ed25519; openssl pkey -pubout. For these tests alone.
constexpr char kPrivate[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEIIpzSDMz9pmrYsTsd4dHEOsdINgdwEWz4bDNduFE5nmW\n"
    "-----END PRIVATE KEY-----\n";
constexpr char kPublic[] =
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEAV/8IdlnlqPaXSs7suxYvLwkpgnFbcWDz5koHtAOvlXs=\n"
    "-----END PUBLIC KEY-----\n";
constexpr char kOtherPrivate[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEIFXusuxxhQyVBB0llWE65L0YuzFB0kzlcDhTmxHhCOGB\n"
    "-----END PRIVATE KEY-----\n";

std::string Digest() { return Sha256Digest("a manifest"); }

std::string Why(const std::vector<std::string>& documents, const std::string& digest = Digest()) {
  const absl::Status status = VerifySignatures(documents, digest, kPublic);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
  return std::string(status.message());
}

TEST(Signature, FitsItsPackageAndItsKeyAlone) {
  const std::string document = SignDigest(kPrivate, Digest()).value();
  EXPECT_TRUE(VerifySignatures({document}, Digest(), kPublic).ok());
  EXPECT_TRUE(VerifySignatures({"{}", document}, Digest(), kPublic).ok());
  EXPECT_EQ(SignDigest(kPrivate, Digest()).value(), document);  // no chance in it
  EXPECT_THAT(Why({}), HasSubstr("found none"));
  EXPECT_THAT(Why({document}, Sha256Digest("another")), HasSubstr("by this key that does not fit"));
  const std::string other = SignDigest(kOtherPrivate, Digest()).value();
  EXPECT_THAT(Why({other}), HasSubstr("one by the key "));
  EXPECT_THAT(Why({"not json"}), HasSubstr("cannot be read"));
}

TEST(Signature, AnyChangeBreaksIt) {
  const json document = json::parse(SignDigest(kPrivate, Digest()).value());
  json moved = document;  // claims to be of another package
  moved["subject"] = Sha256Digest("another");
  Why({moved.dump()}, Sha256Digest("another"));
  json changed = document;
  std::string signature = changed["signature"];
  signature[5] = signature[5] == 'A' ? 'B' : 'A';
  changed["signature"] = signature;
  Why({changed.dump()});
  json claimed = json::parse(SignDigest(kOtherPrivate, Digest()).value());
  claimed["public_key"] = document["public_key"];
  Why({claimed.dump()});
}

TEST(Signature, OtherKeysAreRefused) {
  EXPECT_EQ(SignDigest("no key", Digest()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SignDigest(kPublic, Digest()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SignDigest(kPrivate, "sha256:1").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(VerifySignatures({}, Digest(), "no key").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(VerifySignatures({}, Digest(), kPrivate).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shiftadd::packaging
