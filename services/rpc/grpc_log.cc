#include "services/rpc/grpc_log.h"

#include <grpc/support/log.h>

#include <mutex>

#include "absl/strings/string_view.h"
#include "services/base/logging.h"

namespace shiftadd::rpc {
namespace {

spdlog::level::level_enum LevelOf(gpr_log_severity severity) {
  switch (severity) {
    case GPR_LOG_SEVERITY_DEBUG:
      return spdlog::level::debug;
    case GPR_LOG_SEVERITY_INFO:
      return spdlog::level::info;
    case GPR_LOG_SEVERITY_ERROR:
      return spdlog::level::warn;  // of a connection: what fails for good is told by who called
  }
  return spdlog::level::warn;
}

void Log(gpr_log_func_args* args) {
  absl::string_view file = args->file;
  if (const size_t slash = file.rfind('/'); slash != absl::string_view::npos) {
    file.remove_prefix(slash + 1);
  }
  spdlog::log(LevelOf(args->severity), "gRPC: {}:{}: {}", std::string(file), args->line,
              args->message);
}

}  // namespace

void LogGrpcThroughOurs() {
  static std::once_flag once;
  std::call_once(once, [] { gpr_set_log_function(Log); });
}

}  // namespace shiftadd::rpc
