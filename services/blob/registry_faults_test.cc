// What a registry may do wrong, from a server that does as it is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"
#include "services/blob/registry_client.h"
#include "services/blob/testing/scripted_http.h"

namespace shiftadd {
namespace {

using absl::StatusCode;
using blob::RegistryClient;
using blob::RegistryOptions;
using ::testing::HasSubstr;
using testing::ScriptedAnswer;
using testing::ScriptedHttp;
using testing::ScriptedRequest;

RegistryOptions Options() {
  RegistryOptions options;
  options.attempts = 3;
  options.first_pause = absl::Milliseconds(1);
  options.chunk_bytes = 10;
  return options;
}

const char kData[] = "0123456789abcdefghijklmnopqrstuvwxyz";

TEST(RegistryFaults, StatusesBecomeCodesThatNameTheUrl) {
  const struct {
    int status;
    StatusCode code;
    size_t requests;
  } cases[] = {{401, StatusCode::kUnauthenticated, 1},    {403, StatusCode::kPermissionDenied, 1},
               {404, StatusCode::kNotFound, 1},           {413, StatusCode::kResourceExhausted, 1},
               {418, StatusCode::kFailedPrecondition, 1}, {429, StatusCode::kUnavailable, 3},
               {500, StatusCode::kUnavailable, 3},        {503, StatusCode::kUnavailable, 3}};
  for (const auto& c : cases) {
    ScriptedHttp server([&](const ScriptedRequest&) {
      return ScriptedAnswer{c.status, {"Retry-After: 0"}, "{\"errors\":[\"so it is\"]}"};
    });
    RegistryClient client(server.url(), Options());
    const absl::Status status = client.GetBlob("r", Sha256Digest(kData)).status();
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(server.url()));
    EXPECT_EQ(server.requests().size(), c.requests) << c.status;
  }
}

// As proxies do that show the request to whoever looks for its fault.
TEST(RegistryFaults, WhatRepeatsTheCredentialsIsNotRepeated) {
  RegistryOptions options = Options();
  options.user = "ann";
  options.password = "pa55";
  const std::string basic = absl::Base64Escape("ann:pa55");
  std::string base;
  bool token_refused = false;
  ScriptedHttp server([&](const ScriptedRequest& request) {
    const std::string shown = absl::StrCat(basic, " pa55 t0ken");
    if (absl::StartsWith(request.path, "/token")) {
      if (token_refused) return ScriptedAnswer{403, {}, shown};
      return ScriptedAnswer{200, {}, "{\"token\":\"t0ken\"}"};
    }
    return ScriptedAnswer{
        401, {absl::StrCat("WWW-Authenticate: Bearer realm=\"", base, "/token\"")}, shown};
  });
  base = server.url();
  for (const bool refused : {false, true}) {
    token_refused = refused;
    RegistryClient client(server.url(), options);
    const absl::Status status = client.GetBlob("r", Sha256Digest(kData)).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr("((hidden) (hidden) "));
    EXPECT_EQ(absl::StrContains(status.message(), "t0ken"), refused) << status;
  }
}

TEST(RegistryFaults, WhatPassesIsTriedAgain) {
  std::atomic<int> calls{0};
  ScriptedHttp server([&](const ScriptedRequest&) {
    return ++calls < 3 ? ScriptedAnswer{503} : ScriptedAnswer{200, {}, kData};
  });
  RegistryClient client(server.url(), Options());
  EXPECT_EQ(client.GetBlob("r", Sha256Digest(kData)).value(), kData);
  EXPECT_EQ(calls, 3);
}

TEST(RegistryFaults, WrongBytesAreDataLoss) {
  ScriptedHttp server([](const ScriptedRequest&) { return ScriptedAnswer{200, {}, "other"}; });
  RegistryClient client(server.url(), Options());
  const absl::Status status = client.GetBlob("r", Sha256Digest(kData)).status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Sha256Digest("other")));
}

// Answers ranges, and breaks off after 15 bytes.
ScriptedAnswer CutDownload(const ScriptedRequest& request, bool ranges) {
  ScriptedAnswer answer{200, {}, kData, 15};
  const auto range = request.headers.find("range");
  if (range == request.headers.end() || !ranges) return answer;
  int64_t begin = 0;
  EXPECT_TRUE(absl::SimpleAtoi(range->second.substr(6, range->second.find('-') - 6), &begin));
  answer.status = 206;
  answer.body = answer.body.substr(static_cast<size_t>(begin));
  return answer;
}

TEST(RegistryFaults, ADownloadGoesOnWhereItBroke) {
  ScriptedHttp server([](const ScriptedRequest& r) { return CutDownload(r, true); });
  RegistryClient client(server.url(), Options());
  EXPECT_EQ(client.GetBlob("r", Sha256Digest(kData)).value(), kData);
  ASSERT_EQ(server.requests().size(), 3u);
  EXPECT_EQ(server.requests()[1].headers.at("range"), "bytes=15-");
  EXPECT_EQ(server.requests()[2].headers.at("range"), "bytes=30-");
  EXPECT_EQ(client.GetBlobRange("r", Sha256Digest(kData), 3, 20).value(),
            std::string(kData).substr(3, 20));
}

TEST(RegistryFaults, ADownloadThatAlwaysBreaksEnds) {
  ScriptedHttp server([](const ScriptedRequest& r) { return CutDownload(r, false); });
  RegistryClient client(server.url(), Options());
  const absl::Status status = client.GetBlob("r", Sha256Digest(kData)).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cut off after 15 bytes"));
}

// A registry whose uploads lose a chunk half way once.
class HalfUpload {
 public:
  ScriptedAnswer operator()(const ScriptedRequest& request) {
    if (request.method == "HEAD") return {404};
    const std::string location = "Location: /v2/r/blobs/uploads/1?state=" + absl::StrCat(++state_);
    if (request.method == "POST") return {202, {location}};
    if (request.method == "GET") {
      return {204, {location, absl::StrCat("Range: 0-", got_.size() - 1)}};
    }
    if (request.method == "PATCH") {
      EXPECT_EQ(request.headers.at("content-range"),
                absl::StrCat(got_.size(), "-", got_.size() + request.body.size() - 1));
      if (!broke_ && got_.size() == 10) {
        broke_ = true;
        got_ += request.body.substr(0, 4);
        return {503};
      }
    }
    got_ += request.body;
    if (request.method == "PATCH") return {202, {location}};
    EXPECT_TRUE(absl::StrContains(request.path, "digest=sha256%3a")) << request.path;
    return {201};
  }
  std::string got_;
  bool broke_ = false;
  int state_ = 0;
};

TEST(RegistryFaults, AnUploadGoesOnWhereItBroke) {
  HalfUpload registry;
  ScriptedHttp server([&](const ScriptedRequest& r) { return registry(r); });
  RegistryClient client(server.url(), Options());
  const auto put = client.PutBlob("r", Sha256Digest(kData), kData);
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(registry.broke_);
  EXPECT_EQ(registry.got_, kData);
}

TEST(RegistryFaults, ADigestThatTheRegistryDeniesIsDataLoss) {
  ScriptedHttp server([](const ScriptedRequest& request) -> ScriptedAnswer {
    if (request.method == "HEAD") return {404};
    if (request.method == "POST") return {202, {"Location: /v2/r/blobs/uploads/1"}};
    return {400, {}, "{\"errors\":[{\"code\":\"DIGEST_INVALID\"}]}"};
  });
  RegistryClient client(server.url(), Options());
  EXPECT_EQ(client.PutBlob("r", Sha256Digest("x"), "x").status().code(), StatusCode::kDataLoss);
}

TEST(RegistryFaults, BearerTokensAreAskedForOnceARepository) {
  std::string url;
  ScriptedHttp server([&](const ScriptedRequest& request) -> ScriptedAnswer {
    if (absl::StartsWith(request.path, "/token")) {
      EXPECT_EQ(request.path, "/token?service=reg&scope=repository%3ar%3apull");
      EXPECT_EQ(request.headers.at("authorization"), "Basic dXNlcjpwYXNz");
      return {200, {}, "{\"token\":\"abc\"}"};
    }
    const auto given = request.headers.find("authorization");
    if (given == request.headers.end()) {
      return {401,
              {absl::StrCat("WWW-Authenticate: Bearer realm=\"", url,
                            "/token\",service=\"reg\",scope=\"repository:r:pull\"")}};
    }
    EXPECT_EQ(given->second, "Bearer abc");
    return {200, {}, kData};
  });
  url = server.url();
  RegistryOptions options = Options();
  options.user = "user";
  options.password = "pass";
  RegistryClient client(url, options);
  EXPECT_EQ(client.GetBlob("r", Sha256Digest(kData)).value(), kData);
  EXPECT_EQ(client.GetBlob("r", Sha256Digest(kData)).value(), kData);
  EXPECT_EQ(server.requests().size(), 4u);
}

TEST(RegistryFaults, ATagListOfSeveralPagesIsReadWhole) {
  ScriptedHttp server([](const ScriptedRequest& request) -> ScriptedAnswer {
    if (absl::StrContains(request.path, "last=b")) return {200, {}, "{\"tags\":[\"c\"]}"};
    return {200, {"Link: </v2/r/tags/list?last=b&n=2>; rel=\"next\""}, "{\"tags\":[\"b\",\"a\"]}"};
  });
  RegistryClient client(server.url(), Options());
  EXPECT_EQ(client.ListTags("r").value(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST(RegistryFaults, ATagListThatNeverEndsIsDataLoss) {
  ScriptedHttp server([](const ScriptedRequest&) {
    return ScriptedAnswer{
        200, {"Link: </v2/r/tags/list?n=1000&last=b>; rel=\"next\""}, "{\"tags\":[\"a\",\"b\"]}"};
  });
  RegistryClient client(server.url(), Options());
  EXPECT_EQ(client.ListTags("r").status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST(RegistryFaults, AnotherHostIsNotToldTheCredentials) {
  ScriptedHttp other([](const ScriptedRequest& request) {
    if (request.method == "PATCH") return ScriptedAnswer{202};
    if (request.method == "PUT") return ScriptedAnswer{201};
    return ScriptedAnswer{401, {"WWW-Authenticate: Basic realm=\"r\""}, ""};
  });
  ScriptedHttp server([&](const ScriptedRequest& request) {
    if (request.headers.count("authorization") == 0) {
      return ScriptedAnswer{401, {"WWW-Authenticate: Basic realm=\"r\""}, ""};
    }
    if (request.method == "HEAD") return ScriptedAnswer{404};
    if (request.method == "POST") {
      return ScriptedAnswer{202,
                            {absl::StrCat("Location: ", other.url(), "/v2/r/blobs/uploads/1")}};
    }
    return ScriptedAnswer{200,
                          {absl::StrCat("Link: <", other.url(), "/v2/r/tags/list>; rel=\"next\"")},
                          "{\"tags\":[]}"};
  });
  RegistryOptions options = Options();
  options.user = "ann";
  options.password = "pa55";
  RegistryClient client(server.url(), options);
  EXPECT_TRUE(client.PutBlob("r", Sha256Digest(kData), kData).ok());
  EXPECT_EQ(client.ListTags("r").status().code(), StatusCode::kUnauthenticated);
  EXPECT_EQ(other.requests().size(), 5u);  // three chunks, the end of the upload, a page
  for (const ScriptedRequest& request : other.requests()) {
    EXPECT_EQ(request.headers.count("authorization"), 0u) << request.method;
  }
}

TEST(RegistryFaults, ATokensRealmMayHaveAQueryOfItsOwn) {
  std::string base;
  ScriptedHttp server([&](const ScriptedRequest& request) {
    if (absl::StartsWith(request.path, "/token")) {
      return ScriptedAnswer{200, {}, "{\"token\":\"t\"}"};
    }
    if (request.headers.count("authorization") > 0) return ScriptedAnswer{200, {}, kData};
    return ScriptedAnswer{
        401,
        {absl::StrCat("WWW-Authenticate: Bearer realm=\"", base, "/token?a=b\",service=\"s\"")},
        ""};
  });
  base = server.url();
  RegistryClient client(base, Options());
  EXPECT_EQ(client.GetBlob("r", Sha256Digest(kData)).value(), kData);
  EXPECT_EQ(server.requests()[1].path, "/token?a=b&service=s&scope=");
}

TEST(RegistryFaults, OneThatFallsSilentIsGivenUpAndTriedAgain) {
  std::atomic<int> calls{0};
  ScriptedHttp server([&](const ScriptedRequest&) {
    if (++calls == 1) absl::SleepFor(absl::Seconds(3));
    return ScriptedAnswer{200, {}, kData};
  });
  RegistryOptions options = Options();
  options.http.stall_timeout = absl::Seconds(1);
  options.attempts = 1;
  const absl::Status status =
      RegistryClient(server.url(), options).GetBlob("r", Sha256Digest(kData)).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(server.url()));
  options.attempts = 6;
  options.first_pause = absl::Milliseconds(500);
  EXPECT_EQ(RegistryClient(server.url(), options).GetBlob("r", Sha256Digest(kData)).value(), kData);
}

TEST(RegistryFaults, NobodyListensIsUnavailable) {
  RegistryOptions options = Options();
  RegistryClient client("http://127.0.0.1:1", options);
  EXPECT_EQ(client.HasBlob("r", Sha256Digest("x")).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace shiftadd
