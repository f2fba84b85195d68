#include "services/blob/checks.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/base/digest.h"

namespace shiftadd::blob {

using nlohmann::json;

absl::Status ValidateJob(const std::string& job) {
  const bool good = !job.empty() && job.size() <= 128 && job[0] != '.' &&
                    std::all_of(job.begin(), job.end(), [](unsigned char c) {
                      return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
                    });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "job: expected 1 to 128 of [A-Za-z0-9._-], the first no dot, found \"", job, "\""));
}

absl::Status CheckDescriptor(const json& d) {
  const bool complete = d.is_object() && d.contains("mediaType") && d["mediaType"].is_string() &&
                        d.contains("digest") && d["digest"].is_string() && d.contains("size") &&
                        d["size"].is_number_integer() && d["size"] >= 0;
  if (!complete) {
    return absl::InvalidArgumentError(absl::StrCat(
        "descriptor: expected an object with mediaType, digest and size, found ", d.dump()));
  }
  return ValidateDigest(d["digest"].get<std::string>());
}

}  // namespace shiftadd::blob
