#include "services/cli/quality_format.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

std::string Change(double from, double to) {
  if (!(from > 0) || !std::isfinite(to)) return "";
  return absl::StrFormat("%+.1f %%", (to / from - 1) * 100);
}

std::string WithError(double value, double standard_error, int digits) {
  std::string text = FormatFixed(value, digits);
  if (standard_error > 0) absl::StrAppend(&text, " +- ", FormatFixed(standard_error, digits));
  return text;
}

}  // namespace

std::string FormatQualityLine(const v1::Quality& q) {
  return absl::StrFormat("KL %s +- %s nats, perplexity %s -> %s (%s), %s planes, %s stored bits",
                         FormatFixed(q.kl(), 4), FormatFixed(q.kl_standard_error(), 4),
                         FormatFixed(q.perplexity_full(), 2),
                         FormatFixed(q.perplexity_quantized(), 2),
                         Change(q.perplexity_full(), q.perplexity_quantized()),
                         FormatFixed(q.planes(), 3), FormatFixed(q.stored_bits(), 3));
}

std::string FormatQuality(const v1::Quality& q) {
  Table table({"", ">KL to full (nats)", ">perplexity", ">change"});
  table.Add({"full precision", "0",
             WithError(q.perplexity_full(), q.perplexity_full_standard_error(), 3), ""});
  table.Add({"published", WithError(q.kl(), q.kl_standard_error(), 4),
             WithError(q.perplexity_quantized(), q.perplexity_quantized_standard_error(), 3),
             Change(q.perplexity_full(), q.perplexity_quantized())});
  if (q.perplexity_unrefined() > 0) {
    table.Add({"before refining", WithError(q.kl_unrefined(), q.kl_unrefined_standard_error(), 4),
               WithError(q.perplexity_unrefined(), q.perplexity_unrefined_standard_error(), 3),
               Change(q.perplexity_full(), q.perplexity_unrefined())});
  }
  if (q.uniform_bits() > 0) {
    table.Add({absl::StrCat("uniform ", q.uniform_bits(), " bits"),
               WithError(q.kl_uniform(), q.kl_uniform_standard_error(), 4),
               WithError(q.perplexity_uniform(), q.perplexity_uniform_standard_error(), 3),
               Change(q.perplexity_full(), q.perplexity_uniform())});
  }
  std::string text = table.ToString();
  absl::StrAppend(
      &text, "measured on ", q.windows(), " held-out windows of ", q.window_length(),
      " tokens; published: ", q.published_mixed() ? "the mixed allocation" : "the uniform width",
      q.uniform_bits() == 0 ? " (no uniform width fits the budget)" : "", "\n");
  absl::StrAppend(&text, "the server's logits differ from the reference's by at most ",
                  FormatShort(q.server_max_logit_error()), " of their range\n");
  return text;
}

}  // namespace shiftadd::cli
