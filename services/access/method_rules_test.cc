// The table against what the services really have.
#include "services/access/method_rules.h"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "shiftadd/v1/generate.pb.h"
#include "shiftadd/v1/job.pb.h"
#include "shiftadd/v1/package.pb.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd::access {
namespace {

using google::protobuf::FileDescriptor;

void AddMethods(const FileDescriptor& file, std::set<std::string>* methods) {
  for (int s = 0; s < file.service_count(); ++s) {
    for (int m = 0; m < file.service(s)->method_count(); ++m) {
      methods->insert(
          absl::StrCat("/", file.service(s)->full_name(), "/", file.service(s)->method(m)->name()));
    }
  }
}

std::set<std::string> OurMethods() {
  std::set<std::string> methods;
  for (const FileDescriptor* file :
       {v1::Job::descriptor()->file(), v1::Task::descriptor()->file(),
        v1::Package::descriptor()->file(), v1::ModelInfo::descriptor()->file()}) {
    AddMethods(*file, &methods);
  }
  return methods;
}

TEST(MethodRulesTest, EveryMethodHasOneRuleAndEveryRuleAMethod) {
  const std::set<std::string> methods = OurMethods();
  EXPECT_GE(methods.size(), 36u);
  for (const std::string& method : methods) {
    EXPECT_NE(FindRule(method), nullptr) << method << " has no rule in method_rules.cc";
  }
  std::set<std::string> seen;
  for (const MethodRule& rule : MethodRules()) {
    const std::string method(rule.method);
    EXPECT_TRUE(seen.insert(method).second) << method << " has two rules";
    EXPECT_NE(rule.everybody, !rule.roles.empty()) << method;
    if (absl::StartsWith(method, "/shiftadd.")) {
      EXPECT_EQ(methods.count(method), 1u) << method;
    }
  }
}

// Nothing of ours is open to who is unknown.
TEST(MethodRulesTest, OnlyHealthIsEverybodys) {
  for (const MethodRule& rule : MethodRules()) {
    if (!rule.everybody) continue;
    EXPECT_TRUE(absl::StartsWith(rule.method, "/grpc.health.") || rule.method == "/health" ||
                rule.method == "/ready")
        << rule.method;
  }
}

}  // namespace
}  // namespace shiftadd::access
