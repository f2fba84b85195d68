// What a caller may be.
#ifndef SHIFTADD_SERVICES_ACCESS_ROLE_H_
#define SHIFTADD_SERVICES_ACCESS_ROLE_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace shiftadd::access {

enum class Role : uint32_t {
  kViewer = 1,        // looks: Get, List, Watch, metrics, reflection
  kUser = 2,          // is a viewer too; submits, cancels, publishes, tags, writes texts
  kClient = 4,        // generates, scores, tokenizes
  kWorker = 8,        // leases tasks, reads and writes blobs
  kCoordinator = 16,  // publishes and pins
  kServer = 32,       // resolves, follows tags, reads blobs
  kAdmin = 64,        // everything, others' jobs included
};

// Every role, least first.
const std::vector<Role>& AllRoles();
// "viewer", "user", …
absl::string_view RoleName(Role role);
std::optional<Role> FindRole(absl::string_view name);
// "viewer, user, client, worker, coordinator, server, admin", for messages.
std::string RoleNames();

// A set of roles.
class Roles {
 public:
  constexpr Roles() = default;
  constexpr Roles(std::initializer_list<Role> roles) {  // NOLINT: a set is written as one
    for (const Role role : roles) bits_ |= static_cast<uint32_t>(role);
  }
  constexpr void Add(Role role) { bits_ |= static_cast<uint32_t>(role); }
  constexpr bool Has(Role role) const { return (bits_ & static_cast<uint32_t>(role)) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr bool Meets(Roles other) const { return (bits_ & other.bits_) != 0; }
  constexpr bool operator==(const Roles& other) const { return bits_ == other.bits_; }
  // With what these imply: an admin is everything, a user a viewer.
  Roles Implied() const;
  // "user, client"; "none" if empty.
  std::string ToString() const;

 private:
  uint32_t bits_ = 0;
};

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_ROLE_H_
