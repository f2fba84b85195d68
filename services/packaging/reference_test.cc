#include "services/packaging/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace shiftadd::packaging {
namespace {

const std::string kDigest = "sha256:" + std::string(64, 'a');

TEST(ReferenceTest, GoodOnes) {
  for (const char* text :
       {"a:b", "smollm2:latest", "org/team/model-1.5__x:V1.0_rc-1", "a--b:c", "0:_x"}) {
    const auto reference = ParseReference(text);
    ASSERT_TRUE(reference.ok()) << reference.status();
    EXPECT_EQ(reference->ToString(), text);
    EXPECT_TRUE(reference->digest.empty());
    EXPECT_TRUE(ParseTagReference(text).ok());
  }
  const auto by_digest = ParseReference("org/model@" + kDigest);
  ASSERT_TRUE(by_digest.ok());
  EXPECT_EQ(by_digest->name, "org/model");
  EXPECT_EQ(by_digest->digest, kDigest);
  EXPECT_EQ(by_digest->tag, "");
  EXPECT_EQ(by_digest->ToString(), "org/model@" + kDigest);
  EXPECT_FALSE(ParseTagReference("org/model@" + kDigest).ok());
}

TEST(ReferenceTest, BadOnes) {
  const std::string cases[] = {"",
                               ":",
                               "a",
                               "a:",
                               ":b",
                               "A:b",
                               "a b:c",
                               "a:b c",
                               "a:b:c",
                               "a/:b",
                               "/a:b",
                               "a//b:c",
                               "-a:b",
                               "a-:b",
                               "a..b:c",
                               "a___b:c",
                               "a._b:c",
                               "../a:b",
                               "a/../b:c",
                               "a:.b",
                               "a:-b",
                               "a:" + std::string(129, 'x'),
                               std::string(256, 'a') + ":b",
                               "a@sha256:12",
                               "a@",
                               "a@md5:" + std::string(32, 'a'),
                               "a:b@" + kDigest,
                               std::string("a\0b:c", 5),
                               "\xc3\xa4:b",
                               "a:\xff"};
  for (const std::string& text : cases) {
    const auto reference = ParseReference(text);
    EXPECT_EQ(reference.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(reference.status().message()), testing::HasSubstr("name:tag"));
  }
}

TEST(ReferenceTest, ReferrersTagsAreKeptForProvenance) {
  const std::string tag = ReferrersTag(kDigest);
  EXPECT_EQ(tag, "sha256-" + std::string(64, 'a'));
  EXPECT_TRUE(IsReferrersTag(tag));
  EXPECT_FALSE(IsReferrersTag("sha256-abc"));
  EXPECT_FALSE(IsReferrersTag("latest"));
  EXPECT_FALSE(IsReferrersTag(""));
  EXPECT_FALSE(ParseTagReference("a:" + tag).ok());
}

}  // namespace
}  // namespace shiftadd::packaging
