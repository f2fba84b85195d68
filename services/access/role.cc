#include "services/access/role.h"

#include "absl/strings/str_cat.h"

namespace shiftadd::access {

const std::vector<Role>& AllRoles() {
  static const auto& roles =
      *new std::vector<Role>{Role::kViewer,      Role::kUser,   Role::kClient, Role::kWorker,
                             Role::kCoordinator, Role::kServer, Role::kAdmin};
  return roles;
}

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kViewer:
      return "viewer";
    case Role::kUser:
      return "user";
    case Role::kClient:
      return "client";
    case Role::kWorker:
      return "worker";
    case Role::kCoordinator:
      return "coordinator";
    case Role::kServer:
      return "server";
    case Role::kAdmin:
      return "admin";
  }
  return "";
}

std::optional<Role> FindRole(absl::string_view name) {
  for (const Role role : AllRoles()) {
    if (RoleName(role) == name) return role;
  }
  return std::nullopt;
}

std::string RoleNames() {
  Roles all;
  for (const Role role : AllRoles()) all.Add(role);
  return all.ToString();
}

Roles Roles::Implied() const {
  Roles roles = *this;
  if (Has(Role::kAdmin)) {
    for (const Role role : AllRoles()) roles.Add(role);
  }
  if (Has(Role::kUser)) roles.Add(Role::kViewer);
  return roles;
}

std::string Roles::ToString() const {
  std::string names;
  for (const Role role : AllRoles()) {
    if (Has(role)) absl::StrAppend(&names, names.empty() ? "" : ", ", RoleName(role));
  }
  return names.empty() ? "none" : names;
}

}  // namespace shiftadd::access
