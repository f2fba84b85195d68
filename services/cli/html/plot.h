// Axes: from numbers to places in a drawing.
#ifndef SHIFTADD_SERVICES_CLI_HTML_PLOT_H_
#define SHIFTADD_SERVICES_CLI_HTML_PLOT_H_

#include <string>

namespace shiftadd::cli::html {

// A plot of 680 x 300 units with room for labels. A logarithmic y axis takes positive numbers only.
class Plot {
 public:
  static constexpr int kWidth = 680, kHeight = 300;
  Plot(double x_min, double x_max, double y_min, double y_max, bool log_y);

  double X(double x) const;
  double Y(double y) const;
  double bottom() const { return kHeight - 42.0; }
  enum class Numbers { kNone, kWhole, kReal };
  // Lines, numbers and what they mean; `numbers` are those of x.
  std::string Axes(const std::string& x_name, const std::string& y_name, Numbers numbers) const;

 private:
  double Unit(double y) const;
  const double x_min_, x_max_, y_min_, y_max_;
  const bool log_y_;
};

}  // namespace shiftadd::cli::html

#endif  // SHIFTADD_SERVICES_CLI_HTML_PLOT_H_
