// Small pieces of HTML and SVG, all text in them escaped.
#ifndef SHIFTADD_SERVICES_CLI_HTML_MARKUP_H_
#define SHIFTADD_SERVICES_CLI_HTML_MARKUP_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace shiftadd::cli::html {

std::string Escape(absl::string_view text);

// A figure: a picture that scrolls sideways where it is too wide, and its numbers below.
// `caption` is plain text; `picture` and `table` are markup.
std::string Figure(absl::string_view id, absl::string_view title, absl::string_view caption,
                   const std::string& picture, const std::string& table);

// Cells are plain text; columns whose header starts with '>' (not shown) are set to the right.
std::string Table(const std::vector<std::string>& headers,
                  const std::vector<std::vector<std::string>>& rows);

// A drawing of `width` x `height` units that fills its place; `label` says what it shows.
std::string Svg(int width, int height, absl::string_view label, const std::string& inside);
// `title` is what hovering shows; `style` is a class of the page.
std::string Rect(double x, double y, double width, double height, absl::string_view style,
                 absl::string_view title);
std::string Line(double x1, double y1, double x2, double y2, absl::string_view style);
// `anchor`: start, middle, end.
std::string Text(double x, double y, absl::string_view text, absl::string_view anchor = "start");
std::string Dot(double x, double y, absl::string_view style, absl::string_view title);
// Through points (x, y, x, y, …).
std::string Path(const std::vector<double>& points, absl::string_view style);
// Swatches with names, in a row of markup (not SVG): {style, name}.
std::string Legend(const std::vector<std::pair<std::string, std::string>>& entries);

// The whole page: head with its styles (light and dark), then `body`.
std::string Page(absl::string_view title, const std::string& body);

}  // namespace shiftadd::cli::html

#endif  // SHIFTADD_SERVICES_CLI_HTML_MARKUP_H_
