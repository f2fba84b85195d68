#include "services/access/tls_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace shiftadd::access {
namespace {

using testing::HasSubstr;

class TlsFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(testing::TempDir(), "/tls-", getpid());
    std::filesystem::remove_all(dir_);
    const std::string make =
        absl::StrCat(SHIFTADD_SOURCE_DIR, "/deploy/certs.sh ", dir_, " >", dir_, ".log 2>&1");
    ASSERT_EQ(std::system(make.c_str()), 0) << make;
  }
  void TearDown() override {
    std::filesystem::remove_all(dir_);
    std::filesystem::remove(dir_ + ".log");
  }
  std::string Fault(const TlsFiles& files) {
    const absl::Status status = CheckTlsFiles(files);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }
  // `file` once more, good from `from` to `until` seconds from now.
  std::string WithTimes(const std::string& file, int64_t from, int64_t until) {
    const auto read = [](const std::string& path, auto* parse) {
      BIO* in = BIO_new_file(path.c_str(), "r");
      auto* found = parse(in, nullptr, nullptr, nullptr);
      BIO_free(in);
      return found;
    };
    X509* certificate = read(file, PEM_read_bio_X509);
    EVP_PKEY* ca = read(dir_ + "/ca.key", PEM_read_bio_PrivateKey);
    X509_gmtime_adj(X509_getm_notBefore(certificate), from);
    X509_gmtime_adj(X509_getm_notAfter(certificate), until);
    EXPECT_GT(X509_sign(certificate, ca, EVP_sha256()), 0);
    std::string out = absl::StrCat(dir_, "/from", from, ".crt");
    BIO* bio = BIO_new_file(out.c_str(), "w");
    EXPECT_EQ(PEM_write_bio_X509(bio, certificate), 1);
    BIO_free(bio);
    EVP_PKEY_free(ca);
    X509_free(certificate);
    return out;
  }
  std::string dir_;
};

TEST_F(TlsFilesTest, WhatTheScriptMakesIsGood) {
  for (const char* role :
       {"admin", "user", "client", "viewer", "worker", "coordinator", "packager", "server"}) {
    EXPECT_TRUE(CheckTlsFiles(TlsFilesIn(dir_, role)).ok()) << role;
    const auto mode = std::filesystem::status(TlsFilesIn(dir_, role).key).permissions();
    EXPECT_EQ(mode, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  }
  EXPECT_TRUE(CheckTlsFiles({}).ok());
}

TEST_F(TlsFilesTest, FaultsNameTheFlagAndTheFile) {
  const TlsFiles good = TlsFilesIn(dir_, "user");
  EXPECT_THAT(Fault({good.cert, "", good.ca}), HasSubstr("--tls-cert needs --tls-key"));
  EXPECT_THAT(Fault({"", good.key, ""}), HasSubstr("--tls-key needs --tls-cert"));
  EXPECT_THAT(Fault({good.cert, TlsFilesIn(dir_, "admin").key, good.ca}),
              testing::AllOf(HasSubstr("admin.key"), HasSubstr("is not the key of")));
  EXPECT_THAT(Fault({good.key, good.key, good.ca}), HasSubstr("expected a certificate in PEM"));
  EXPECT_THAT(Fault({good.cert, good.cert, good.ca}), HasSubstr("expected a private key in PEM"));
  EXPECT_THAT(Fault({"", "", dir_ + "/none"}),
              HasSubstr("--tls-ca: " + dir_ + "/none: cannot be read"));
  std::ofstream(dir_ + "/empty");
  EXPECT_THAT(Fault({"", "", dir_ + "/empty"}), HasSubstr("expected a certificate in PEM"));
  EXPECT_THAT(Fault({"", "", dir_}), HasSubstr("expected a file"));
}

TEST_F(TlsFilesTest, CertificatesOutOfTheirTimeAreNamed) {
  const TlsFiles good = TlsFilesIn(dir_, "coordinator");
  constexpr int64_t kHour = 3600;
  EXPECT_TRUE(CheckTlsFiles({WithTimes(good.cert, -kHour, kHour), good.key, good.ca}).ok());
  const std::string early = WithTimes(good.cert, kHour, 2 * kHour);
  EXPECT_THAT(Fault({early, good.key, good.ca}),
              HasSubstr("--tls-cert " + early + ": the certificate is not valid yet"));
  const std::string late = WithTimes(good.cert, -2 * kHour, -kHour);
  EXPECT_THAT(Fault({late, good.key, good.ca}),
              HasSubstr("--tls-cert " + late + ": the certificate has expired"));
  const std::string early_ca = WithTimes(good.ca, kHour, 2 * kHour);
  EXPECT_THAT(Fault({good.cert, good.key, early_ca}),
              HasSubstr("--tls-ca " + early_ca + ": the certificate is not valid yet"));
  const auto text = [](const std::string& path) {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string both = dir_ + "/both.crt";  // the next authority before today's
  std::ofstream(both) << text(early_ca) << text(good.ca);
  EXPECT_TRUE(CheckTlsFiles({good.cert, good.key, both}).ok());
}

}  // namespace
}  // namespace shiftadd::access
