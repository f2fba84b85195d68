// Who may call what: the one table of every RPC and every HTTP path.
#ifndef SHIFTADD_SERVICES_ACCESS_METHOD_RULES_H_
#define SHIFTADD_SERVICES_ACCESS_METHOD_RULES_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "services/access/role.h"

namespace shiftadd::access {

struct MethodRule {
  absl::string_view method;  // "/package.Service/Method" of gRPC, or "/path" of HTTP
  Roles roles;               // whoever has one of them; an admin always may
  bool everybody = false;    // even without a certificate or token
};

const std::vector<MethodRule>& MethodRules();

// Null: there is no rule, so nobody may.
const MethodRule* FindRule(absl::string_view method);

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_METHOD_RULES_H_
