#include "services/access/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"

namespace shiftadd::access {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(ParseTokensTest, ReadsWhatItWrites) {
  const TokenEntry entry = {"ann@example.org", {Role::kUser, Role::kClient}, Sha256Digest("t")};
  const auto entries =
      ParseTokens(absl::StrCat("# who\n\n  ", FormatToken(entry), "  \r\n"), "tokens");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ((*entries)[0].name, entry.name);
  EXPECT_EQ((*entries)[0].roles, entry.roles);
  EXPECT_EQ((*entries)[0].digest, entry.digest);
  EXPECT_TRUE(ParseTokens("", "tokens")->empty());
}

TEST(ParseTokensTest, AFaultNamesTheLineAndNothingOfIt) {
  const std::string digest = Sha256Digest("t");
  for (const std::string& line : std::initializer_list<std::string>{
           "S3CRET", "ann viewer", absl::StrCat("ann S3CRET ", digest), "ann viewer sha256:S3CRET",
           absl::StrCat("S3CRET/ann viewer ", digest), absl::StrCat("ann viewer, ", digest),
           absl::StrCat("ann viewer ", digest, " S3CRET"),
           absl::StrCat("ann viewer sha256:", std::string(64, 'G'))}) {
    const auto entries = ParseTokens("# first\n" + line, "/etc/tokens");
    EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(entries.status().message()), HasSubstr("/etc/tokens:2: ")) << line;
    EXPECT_THAT(std::string(entries.status().message()), Not(HasSubstr("S3CRET"))) << line;
  }
}

TEST(NewTokenTest, IsLongAndNeverTheSame) {
  std::set<std::string> tokens;
  for (int i = 0; i < 100; ++i) tokens.insert(NewToken());
  EXPECT_EQ(tokens.size(), 100u);
  for (const std::string& token : tokens) EXPECT_GE(token.size(), 46u);
}

TEST(TokenFileTest, AFileThatIsNotThereIsRefused) {
  EXPECT_EQ(TokenFile::Open("/nonexistent/tokens").status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(TokenFile::Open("/dev/null").status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace shiftadd::access
