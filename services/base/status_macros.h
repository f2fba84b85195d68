// Early returns for absl::Status and absl::StatusOr.
#ifndef SHIFTADD_SERVICES_BASE_STATUS_MACROS_H_
#define SHIFTADD_SERVICES_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace shiftadd {

// The same code, with `context` and ": " before the message. OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace shiftadd

// SA_RETURN_IF_ERROR(expr): returns expr's status from the enclosing function unless it is OK.
#define SA_RETURN_IF_ERROR(expr)                              \
  do {                                                        \
    if (absl::Status sa_status_ = (expr); !sa_status_.ok()) { \
      return sa_status_;                                      \
    }                                                         \
  } while (false)

#define SA_CONCAT_INNER_(a, b) a##b
#define SA_CONCAT_(a, b) SA_CONCAT_INNER_(a, b)
#define SA_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return tmp.status();             \
  lhs = *std::move(tmp)

// SA_ASSIGN_OR_RETURN(lhs, expr): assigns the value of a StatusOr, or returns its status.
#define SA_ASSIGN_OR_RETURN(lhs, expr) \
  SA_ASSIGN_OR_RETURN_IMPL_(SA_CONCAT_(sa_or_, __LINE__), lhs, expr)

#endif  // SHIFTADD_SERVICES_BASE_STATUS_MACROS_H_
