#include "worker/serve/json_fields.h"

#include "absl/strings/str_cat.h"
#include "services/base/json_depth.h"
#include "worker/serve/text_stream.h"

namespace shiftadd {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxReason = 120;

// Keeps no document, only where and why there is none.
class FaultFinder : public nlohmann::detail::json_sax_acceptor<nlohmann::json> {
 public:
  bool parse_error(size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& e) {
    fault_ = absl::StrCat(": byte ", position, ": ", Reason(e.what()));
    return false;
  }
  const std::string& fault() const { return fault_; }

 private:
  // Of "[json.exception.…] parse error at …: REASON; last read: …". What was read may be long.
  static std::string Reason(absl::string_view what) {
    what = what.substr(0, what.find("; last read: "));
    for (const absl::string_view before : {"] ", "parse error at ", ": "}) {
      const size_t at = what.find(before);
      if (at == absl::string_view::npos) break;
      what.remove_prefix(at + before.size());
    }
    return ToValidUtf8(what.substr(0, kMaxReason));
  }

  std::string fault_;
};

}  // namespace

absl::Status FieldError(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
}

std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > 80) text = ToValidUtf8(absl::string_view(text).substr(0, 77)) + "...";
  return text;
}

const nlohmann::json* JsonFields::Find(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

absl::Status JsonFields::Read(const char* name, bool* out) const {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) {
    return FieldError(name, absl::StrCat("must be true or false, not ", Shown(*value)));
  }
  *out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status JsonFields::Read(const char* name, std::string* out) const {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_string()) {
    return FieldError(name, absl::StrCat("must be a string, not ", Shown(*value)));
  }
  *out = value->get<std::string>();
  return absl::OkStatus();
}

absl::Status JsonFields::Read(const char* name, int64_t low, int64_t high, int64_t* out) const {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    return FieldError(
        name, absl::StrCat("must be an integer from ", low, " to ", high, ", not ", Shown(*value)));
  }
  *out = value->get<int64_t>();
  return absl::OkStatus();
}

absl::Status JsonFields::Read(const char* name, double low, double high, double* out) const {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
    return FieldError(
        name, absl::StrCat("must be a number from ", low, " to ", high, ", not ", Shown(*value)));
  }
  *out = value->get<double>();
  return absl::OkStatus();
}

absl::Status ParseJson(absl::string_view text, nlohmann::json* out) {
  if (text.empty()) return absl::InvalidArgumentError("the body is empty; it must be JSON");
  if (JsonDepth(text) > kMaxDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body nests deeper than ", kMaxDepth, " levels"));
  }
  *out = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!out->is_discarded()) return absl::OkStatus();
  if (ToValidUtf8(text) != text) {
    return absl::InvalidArgumentError("the body is not valid UTF-8");
  }
  FaultFinder finder;
  nlohmann::json::sax_parse(text.begin(), text.end(), &finder);
  return absl::InvalidArgumentError(absl::StrCat("the body is not valid JSON", finder.fault()));
}

}  // namespace shiftadd
