#include "services/cli/context.h"

namespace shiftadd::cli {

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnreachable;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    default:
      return kExitFailed;
  }
}

int Report(Context& context, const absl::Status& status) {
  if (!status.ok()) context.err << "shiftadd: " << status.message() << "\n";
  return ExitCode(status);
}

}  // namespace shiftadd::cli
