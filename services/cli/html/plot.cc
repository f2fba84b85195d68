#include "services/cli/html/plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/html/markup.h"
#include "services/cli/units.h"

namespace shiftadd::cli::html {
namespace {

constexpr double kLeft = 78, kRight = 16, kTop = 24, kBottom = 42;
constexpr int kTicks = 5;

}  // namespace

Plot::Plot(double x_min, double x_max, double y_min, double y_max, bool log_y)
    : x_min_(x_min),
      x_max_(x_max > x_min ? x_max : x_min + 1),
      y_min_(y_min),
      y_max_(y_max > y_min ? y_max
             : log_y       ? y_min * 10
                           : y_min + 1),
      log_y_(log_y) {}

double Plot::X(double x) const {
  return kLeft + (x - x_min_) / (x_max_ - x_min_) * (kWidth - kLeft - kRight);
}

double Plot::Unit(double y) const {
  if (!log_y_) return (y - y_min_) / (y_max_ - y_min_);
  return std::log(std::max(y, y_min_) / y_min_) / std::log(y_max_ / y_min_);
}

double Plot::Y(double y) const { return kHeight - kBottom - Unit(y) * (kHeight - kTop - kBottom); }

std::string Plot::Axes(const std::string& x_name, const std::string& y_name,
                       Numbers numbers) const {
  std::string out = Text(kLeft, 14, y_name);
  for (int i = 0; i < kTicks; ++i) {
    const double share = static_cast<double>(i) / (kTicks - 1);
    const double y =
        log_y_ ? y_min_ * std::pow(y_max_ / y_min_, share) : y_min_ + share * (y_max_ - y_min_);
    absl::StrAppend(&out, Line(kLeft, Y(y), kWidth - kRight, Y(y), i == 0 ? "axis" : "grid"),
                    Text(kLeft - 6, Y(y) + 4, FormatShort(y), "end"));
  }
  const bool whole = numbers == Numbers::kWhole;
  const double step =
      whole ? std::max(1.0, std::ceil((x_max_ - x_min_) / 8)) : (x_max_ - x_min_) / 4;
  for (double x = x_min_; numbers != Numbers::kNone && x <= x_max_ + step * 1e-6; x += step) {
    absl::StrAppend(&out,
                    Text(X(x), kHeight - kBottom + 16,
                         whole ? absl::StrCat(std::llround(x)) : FormatFixed(x, 2), "middle"));
  }
  absl::StrAppend(&out, Text((kLeft + kWidth - kRight) / 2, kHeight - 6, x_name, "middle"));
  return out;
}

}  // namespace shiftadd::cli::html
