#include "services/access/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/access/audit.h"
#include "services/access/protection.h"
#include "services/access/rate_limit.h"
#include "services/base/digest.h"

namespace shiftadd::access {
namespace {

using absl::StatusCode;
using testing::HasSubstr;
using testing::Not;

TEST(RolesTest, NamesGoBothWaysAndImply) {
  for (const Role role : AllRoles()) EXPECT_EQ(FindRole(RoleName(role)), role);
  EXPECT_FALSE(FindRole("root").has_value());
  EXPECT_FALSE(FindRole("").has_value());
  EXPECT_EQ((Roles{Role::kUser}.Implied()), (Roles{Role::kUser, Role::kViewer}));
  EXPECT_EQ(Roles{Role::kAdmin}.Implied().ToString(), RoleNames());
  EXPECT_EQ((Roles{Role::kWorker}.Implied()), Roles{Role::kWorker});
  EXPECT_EQ(Roles().ToString(), "none");
}

TEST(CertificateTest, NamesItsRole) {
  const auto caller = CallerOfCertificate("spiffe://shiftadd/worker/w-1", "");
  ASSERT_TRUE(caller.ok()) << caller.status();
  EXPECT_EQ(caller->name, "w-1");
  EXPECT_EQ(caller->roles, Roles{Role::kWorker});
  const auto subject = CallerOfCertificate("", "CN=ann,OU=user,O=us");
  ASSERT_TRUE(subject.ok()) << subject.status();
  EXPECT_EQ(subject->name, "ann");
  EXPECT_TRUE(subject->roles.Has(Role::kViewer));
  EXPECT_EQ(CallerOfCertificate("https://elsewhere/admin/eve", "CN=ann,OU=user")->name, "ann");
}

TEST(CertificateTest, WhatNamesNoRoleNamesNobody) {
  for (const char* uri : {"spiffe://shiftadd/root/w", "spiffe://shiftadd/worker",
                          "spiffe://shiftadd/worker/", "spiffe:///worker/w", "spiffe://",
                          "spiffe://shiftadd/worker/w/x", "spiffe://shiftadd/worker/a b"}) {
    // Not its subject then either: a certificate has one identity.
    EXPECT_EQ(CallerOfCertificate(uri, "CN=ann,OU=admin").status().code(),
              StatusCode::kUnauthenticated)
        << uri;
  }
  for (const char* subject : {"CN=ann", "OU=admin", "CN=ann\\,OU=admin", "CN=a\\,OU=admin,OU=rooot",
                              "CN=ann,OU=", "CN=ann,OU=user,OU=admin", "CN=ann+CN=bob,OU=admin",
                              "O=CN=ann\\,OU=admin", "", ",,="}) {
    EXPECT_EQ(CallerOfCertificate("", subject).status().code(), StatusCode::kUnauthenticated)
        << subject;
  }
}

class TokensAccessTest : public testing::Test {
 protected:
  std::shared_ptr<Access> Make(const std::string& lines, bool certificates = false,
                               double rate = 0) {
    path_ = absl::StrCat(testing::TempDir(), "/tokens-", getpid());
    std::ofstream(path_) << lines;
    AccessOptions options;
    options.certificates = certificates;
    options.tokens = TokenFile::Open(path_).value();
    options.requests_per_second = rate;
    return Access::Create(options);
  }
  static std::string Line(const std::string& name, const std::string& roles,
                          const std::string& token) {
    return absl::StrCat(name, " ", roles, " ", Sha256Digest(token), "\n");
  }
  ~TokensAccessTest() override { std::filesystem::remove(path_); }
  std::string path_;
};

constexpr char kGet[] = "/shiftadd.v1.JobService/GetJob";
constexpr char kSubmit[] = "/shiftadd.v1.JobService/SubmitJob";

TEST_F(TokensAccessTest, WhoAndWhetherHeMay) {
  const auto access =
      Make(Line("ann", "viewer", "secret-a") + Line("bob", "user,client", "secret-b") +
           Line("root", "admin", "secret-r"));
  EXPECT_TRUE(access->required());
  const auto check = [&](const char* method, const char* authorization) {
    return access->Check(method, {authorization, "", ""}).status();
  };
  EXPECT_TRUE(check(kGet, "Bearer secret-a").ok());
  EXPECT_TRUE(check(kGet, "bearer  secret-b").ok());  // a user is a viewer
  EXPECT_TRUE(check(kSubmit, "Bearer secret-b").ok());
  EXPECT_TRUE(check("/shiftadd.v1.GenerateService/Score", "Bearer secret-b").ok());
  const absl::Status denied = check(kSubmit, "Bearer secret-a");
  EXPECT_EQ(denied.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(denied.message()),
              testing::AllOf(HasSubstr("ann"), HasSubstr(kSubmit), HasSubstr("user")));
  for (const char* bad : {"Bearer secret-x", "Bearer ", "Basic secret-a", "secret-a", "Bearer"}) {
    const absl::Status status = check(kGet, bad);
    EXPECT_EQ(status.code(), StatusCode::kUnauthenticated) << bad;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret"))) << bad;
  }
  const absl::Status missing = check(kGet, "");
  EXPECT_EQ(missing.code(), StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("--token-file"));
  // Health is everybody's; what has no rule is nobody's but an admin's.
  EXPECT_TRUE(check("/grpc.health.v1.Health/Check", "").ok());
  EXPECT_EQ(check("/shiftadd.v1.JobService/New", "Bearer secret-r").code(),
            StatusCode::kPermissionDenied);
  EXPECT_TRUE(check("/shiftadd.v1.JobService/DeleteJob", "Bearer secret-r").ok());
}

TEST_F(TokensAccessTest, ATokenCountsBeforeACertificate) {
  const auto access = Make(Line("ann", "viewer", "t"), /*certificates=*/true);
  const char* uri = "spiffe://x/user/bob";
  EXPECT_EQ(access->Identify({"Bearer t", uri, ""})->name, "ann");
  EXPECT_EQ(access->Identify({"", uri, ""})->name, "bob");
  // A token that is wrong is not made good by a certificate.
  EXPECT_FALSE(access->Identify({"Bearer u", uri, ""}).ok());
  EXPECT_THAT(std::string(access->Identify({"", "", ""}).status().message()),
              HasSubstr("--tls-cert"));
}

TEST_F(TokensAccessTest, AFileThatIsWrittenAgainCounts) {
  const auto access = Make(Line("ann", "viewer", "old"));
  EXPECT_TRUE(access->Identify({"Bearer old", "", ""}).ok());
  std::ofstream(path_) << Line("ann", "viewer", "newer");
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (!access->Identify({"Bearer newer", "", ""}).ok() && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_TRUE(access->Identify({"Bearer newer", "", ""}).ok());
  EXPECT_FALSE(access->Identify({"Bearer old", "", ""}).ok());
  // Damage leaves what was there.
  std::ofstream(path_) << "nonsense\n";
  absl::SleepFor(absl::Milliseconds(1500));
  EXPECT_TRUE(access->Identify({"Bearer newer", "", ""}).ok());
}

TEST_F(TokensAccessTest, SoManyRequestsOfOneCaller) {
  const auto access = Make(Line("ann", "viewer", "a") + Line("bob", "viewer", "b"), false, 1e-3);
  // A burst of 5 seconds' worth is one at the least, and nobody else's.
  EXPECT_TRUE(access->Check(kGet, {"Bearer a", "", ""}).ok());
  EXPECT_EQ(access->Check(kGet, {"Bearer a", "", ""}).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_TRUE(access->Check(kGet, {"Bearer b", "", ""}).ok());
  RateLimit limit(2, 3);
  const absl::Time now = absl::Now();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.Take("ann", now)) << i;
  EXPECT_FALSE(limit.Take("ann", now));
  EXPECT_TRUE(limit.Take("bob", now));
  EXPECT_TRUE(limit.Take("ann", now + absl::Milliseconds(500)));
  EXPECT_FALSE(limit.Take("ann", now + absl::Milliseconds(500)));
  EXPECT_FALSE(limit.Take("ann", now));  // a clock that goes back gives nothing
}

TEST(RateLimitTest, SaysWhenToComeAgainAndForgetsWhoHasBeenAwayForLong) {
  EXPECT_EQ(RateLimit(20).RetrySeconds(), 1);
  EXPECT_EQ(RateLimit(0.3).RetrySeconds(), 4);
  EXPECT_EQ(RateLimit(1e-9).RetrySeconds(), 86400);
  RateLimit limit(1, 2);
  const absl::Time now = absl::Now();
  for (int i = 0; i < 3000; ++i) limit.Take(absl::StrCat("address ", i), now);
  EXPECT_EQ(limit.buckets(), 3000);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(limit.Take("ann", now + absl::Seconds(9))) << i;
  for (int i = 0; i < 3000; ++i) limit.Take(absl::StrCat("other ", i), now + absl::Seconds(10));
  EXPECT_LT(limit.buckets(), 3100);
  // Who has spent his was kept.
  EXPECT_TRUE(limit.Take("ann", now + absl::Seconds(10)));
  EXPECT_FALSE(limit.Take("ann", now + absl::Seconds(10)));
}

TEST(OpenAccessTest, EverybodyIsLocal) {
  const auto access = Access::Create({});
  EXPECT_FALSE(access->required());
  EXPECT_TRUE(access->Check(kSubmit, {}).ok());
  EXPECT_TRUE(access->Identify({"Bearer x", "", ""})->roles.Has(Role::kAdmin));
}

TEST(ClientKeyTest, IsOneMoreToken) {
  AccessOptions options;
  options.certificates = true;
  options.is_client_key = [](absl::string_view sent) { return sent == "Bearer key"; };
  const auto access = Access::Create(options);
  EXPECT_TRUE(access->Check("/v1/completions", {"Bearer key", "", ""}).ok());
  EXPECT_EQ(access->Check("/metrics", {"Bearer key", "", ""}).status().code(),
            StatusCode::kPermissionDenied);
  EXPECT_FALSE(access->Check("/v1/completions", {"Bearer other", "", ""}).ok());
}

TEST(ClientKeyTest, EachIsACallerOfItsOwn) {
  AccessOptions options;
  options.certificates = true;
  options.requests_per_second = 1e-3;
  options.is_client_key = [](absl::string_view sent) {
    return sent == "Bearer key" || sent == "Bearer other";
  };
  const auto access = Access::Create(options);
  EXPECT_TRUE(access->Check("/v1/completions", {"Bearer key", "", ""}).ok());
  EXPECT_TRUE(access->Check("/v1/completions", {"Bearer other", "", ""}).ok());
  const absl::Status refused = access->Check("/v1/completions", {"Bearer other", "", ""}).status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message().find("other"), absl::string_view::npos) << refused;
}

}  // namespace
}  // namespace shiftadd::access
