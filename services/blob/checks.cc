#include "services/blob/checks.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/json_depth.h"
#include "services/base/status_macros.h"

namespace shiftadd::blob {

using nlohmann::json;

namespace {

// Copying and printing a document recurse.
constexpr int kMaxDepth = 64;
constexpr size_t kMaxShown = 80;

}  // namespace

absl::Status ValidateJob(const std::string& job) {
  const bool good = !job.empty() && job.size() <= 128 && job[0] != '.' &&
                    std::all_of(job.begin(), job.end(), [](unsigned char c) {
                      return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
                    });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "job: expected 1 to 128 of [A-Za-z0-9._-], the first no dot, found \"", job, "\""));
}

json ParseJson(const std::string& text) {
  if (JsonDepth(text) > kMaxDepth) return json(json::value_t::discarded);
  return json::parse(text, nullptr, false);
}

absl::Status CheckDescriptor(const json& d, const std::string& where) {
  const auto fault = [&](const char* field, const char* expected, const json& found) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, field, ": expected ", expected, ", found ",
                     found.is_null() ? "nothing" : found.dump().substr(0, kMaxShown)));
  };
  if (!d.is_object()) return fault("", "an object with mediaType, digest and size", d);
  const auto field = [&](const char* name) { return d.value(name, json()); };
  const json type = field("mediaType"), digest = field("digest"), size = field("size");
  if (!type.is_string()) return fault(".mediaType", "a string", type);
  if (!digest.is_string()) return fault(".digest", "a string", digest);
  SA_RETURN_IF_ERROR(Annotate(ValidateDigest(digest.get<std::string>()), where + ".digest"));
  if (!size.is_number_integer() || size < 0) return fault(".size", "a number of bytes", size);
  const json artifact = field("artifactType"), annotations = field("annotations");
  if (d.contains("artifactType") && !artifact.is_string()) {
    return fault(".artifactType", "a string", artifact);
  }
  if (d.contains("annotations") && !annotations.is_object()) {
    return fault(".annotations", "an object", annotations);
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::blob
