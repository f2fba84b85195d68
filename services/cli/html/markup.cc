#include "services/cli/html/markup.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace shiftadd::cli::html {
namespace {

// Colours: one ramp for widths (light to dark, dark to light at night), eight apart for kinds.
constexpr char kStyle[] = R"(
:root{--ink:#1b1f24;--dim:#57606a;--paper:#fff;--card:#f6f8fa;--edge:#d0d7de;
--w1:#deebf7;--w2:#bdd7ee;--w3:#85b7e0;--w4:#4a93cf;--w5:#2474b5;--w6:#135a96;--w7:#0b4377;--w8:#062d54;
--c0:#0f6cbd;--c1:#c4520a;--c2:#1a7f4b;--c3:#8b3fb8;--c4:#b32d4b;--c5:#7a6a00;--c6:#0b7a85;--c7:#5b5f66;--low:#1b1f24;--high:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9da7b1;--paper:#0d1117;--card:#161b22;--edge:#30363d;
--w1:#12283d;--w2:#17405f;--w3:#1f5c88;--w4:#2f7fb8;--w5:#559fd3;--w6:#85bde4;--w7:#b3d6ef;--w8:#dcebf7;
--c0:#58a6ff;--c1:#f0883e;--c2:#3fb950;--c3:#c78bf0;--c4:#ff7b93;--c5:#d4bf3a;--c6:#39c5cf;--c7:#9da7b1;--low:#e6edf3;--high:#0d1117}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.5rem 0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:0 0 .25rem}
p{margin:.25rem 0 .75rem;color:var(--dim);overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:1rem;margin:1rem 0}
.scroll{overflow-x:auto}svg{display:block;width:100%;min-width:34rem;height:auto}
svg text{fill:var(--ink);font:13px system-ui,sans-serif}svg :is(rect,circle):hover{stroke:var(--ink);stroke-width:2}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--edge);text-align:left;white-space:nowrap}
.wrap td{white-space:normal;overflow-wrap:anywhere;min-width:6rem}.r{text-align:right}summary{cursor:pointer;margin-top:.5rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1rem 0}
.tile{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:.75rem}
.tile b{display:block;font-size:1.35rem}.tile span{color:var(--dim);font-size:.875rem}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;font-size:.875rem;margin:.5rem 0}
.legend svg{display:inline-block;min-width:0;width:.9rem;height:.9rem;vertical-align:-.1rem;margin-right:.3rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;margin:.5rem 0}
.axis{stroke:var(--dim);stroke-width:1}.grid{stroke:var(--edge);stroke-width:1}
.w0{fill:none;stroke:var(--edge)}.w1{fill:var(--w1)}.w2{fill:var(--w2)}.w3{fill:var(--w3)}.w4{fill:var(--w4)}
.w5{fill:var(--w5)}.w6{fill:var(--w6)}.w7{fill:var(--w7)}.w8{fill:var(--w8)}
svg text.on{fill:var(--low)}svg text.off{fill:var(--high)}
.c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}.c5{fill:var(--c5)}.c6{fill:var(--c6)}.c7{fill:var(--c7)}
.l0,.l1,.l2,.l3,.l4,.l5,.l6,.l7{fill:none;stroke-width:2}
.dash{stroke-dasharray:5 4}.l0{stroke:var(--c0)}.l1{stroke:var(--c1)}.l2{stroke:var(--c2)}.l3{stroke:var(--c3)}.l4{stroke:var(--c4)}.l5{stroke:var(--c5)}.l6{stroke:var(--c6)}.l7{stroke:var(--c7)}
)";

}  // namespace

std::string Escape(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string Figure(absl::string_view id, absl::string_view title, absl::string_view caption,
                   const std::string& picture, const std::string& table) {
  return absl::StrCat("<section id=\"", Escape(id), "\"><h2>", Escape(title), "</h2><p>",
                      Escape(caption), "</p><div class=\"scroll\">", picture,
                      "</div><details><summary>The numbers</summary><div class=\"scroll\">", table,
                      "</div></details></section>\n");
}

std::string Table(const std::vector<std::string>& headers,
                  const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<table><thead><tr>";
  std::vector<bool> right;
  for (const std::string& header : headers) {
    right.push_back(!header.empty() && header[0] == '>');
    absl::StrAppend(&out, "<th", right.back() ? " class=\"r\"" : "", ">",
                    Escape(right.back() ? header.substr(1) : header), "</th>");
  }
  out += "</tr></thead><tbody>";
  for (const std::vector<std::string>& row : rows) {
    out += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppend(&out, "<td", right[i] ? " class=\"r\"" : "", ">", Escape(row[i]), "</td>");
    }
    out += "</tr>";
  }
  return out + "</tbody></table>";
}

std::string Svg(int width, int height, absl::string_view label, const std::string& inside) {
  return absl::StrCat("<svg role=\"img\" aria-label=\"", Escape(label), "\" viewBox=\"0 0 ", width,
                      " ", height, "\">", inside, "</svg>");
}

std::string Rect(double x, double y, double width, double height, absl::string_view style,
                 absl::string_view title) {
  return absl::StrFormat(
      "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" class=\"%s\"><title>%s</title>"
      "</rect>",
      x, y, width, height, std::string(style), Escape(title));
}

std::string Line(double x1, double y1, double x2, double y2, absl::string_view style) {
  return absl::StrFormat("<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" class=\"%s\"/>", x1,
                         y1, x2, y2, std::string(style));
}

std::string Text(double x, double y, absl::string_view text, absl::string_view anchor) {
  return absl::StrFormat("<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"%s\">%s</text>", x, y,
                         std::string(anchor), Escape(text));
}

std::string Dot(double x, double y, absl::string_view style, absl::string_view title) {
  return absl::StrFormat(
      "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"4\" class=\"%s\"><title>%s</title></circle>", x, y,
      std::string(style), Escape(title));
}

std::string Path(const std::vector<double>& points, absl::string_view style) {
  std::string d;
  for (size_t i = 0; i + 1 < points.size(); i += 2) {
    absl::StrAppendFormat(&d, "%s%.2f %.2f", i == 0 ? "M" : "L", points[i], points[i + 1]);
  }
  return absl::StrCat("<path d=\"", d, "\" class=\"", std::string(style), "\"/>");
}

std::string Legend(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string out = "<div class=\"legend\">";
  for (const auto& [style, name] : entries) {
    absl::StrAppend(&out,
                    "<span><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect width=\"10\" ",
                    "height=\"10\" class=\"", style, "\"/></svg>", Escape(name), "</span>");
  }
  return out + "</div>";
}

std::string Page(absl::string_view title, const std::string& body) {
  return absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<meta name=\"color-scheme\" content=\"light dark\"><title>",
      Escape(title), "</title><style>", kStyle, "</style></head><body>\n", body,
      "</body></html>\n");
}

}  // namespace shiftadd::cli::html
