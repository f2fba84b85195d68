#include "services/store/postgres_url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "services/store/job_store.h"
#include "services/store/postgres_server.h"

namespace shiftadd::sql {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kSecret[] = "pl4nted";

TEST(PostgresUrlTest, ShowsNoPassword) {
  for (const char* text :
       {"postgres://ann:pl4nted@host:5432/jobs", "postgresql://ann@host/jobs?password=pl4nted",
        "postgres://ann:pl%34nted@a:1,b:2/jobs?sslmode=disable",
        "postgres://host/jobs?sslpassword=pl4nted"}) {
    const auto url = PostgresUrl::Parse(text);
    ASSERT_TRUE(url.ok()) << text;
    EXPECT_THAT(url->shown(), Not(HasSubstr(kSecret))) << text;
    EXPECT_THAT(url->shown(), HasSubstr("/jobs"));
    EXPECT_THAT(url->Redact("failed for pl4nted on \"pl4nted\"\n"), Not(HasSubstr(kSecret)))
        << text;
  }
}

TEST(PostgresUrlTest, WhatIsNoUrlIsNotQuoted) {
  for (const char* text :
       {"pl4nted", "postgres://ann:pl4nted@host:port:x/d?nonsense", "postgres://%zz:pl4nted@h/d",
        "postgres://h/d?pl4nted=1", "mysql://ann:pl4nted@host/d"}) {
    const auto url = PostgresUrl::Parse(text);
    EXPECT_EQ(url.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(url.status().message()), Not(HasSubstr(kSecret))) << text;
  }
}

// What a real server says of a wrong password, and of nobody at the address.
TEST(PostgresUrlTest, ErrorsOfConnectionsQuoteNoPassword) {
  const std::string right = PostgresServer::Shared().NewDatabase();
  std::string wrong = right;
  const size_t at = wrong.find('@');
  const size_t colon = wrong.rfind(':', at);
  wrong.replace(colon + 1, at - colon - 1, kSecret);
  for (const std::string& url :
       {wrong, absl::StrCat("postgres://ann:", kSecret, "@127.0.0.1:1/jobs?connect_timeout=2"),
        absl::StrCat("postgres:///jobs?host=/nowhere&user=ann&password=", kSecret)}) {
    const auto store = OpenPostgresJobStore(url);
    ASSERT_FALSE(store.ok());
    EXPECT_THAT(store.status().ToString(), Not(HasSubstr(kSecret)));
    EXPECT_THAT(store.status().ToString(), HasSubstr("postgres://"));
  }
}

}  // namespace
}  // namespace shiftadd::sql
