// Plain text tables: columns two spaces apart, no lines.
#ifndef SHIFTADD_SERVICES_CLI_TABLE_H_
#define SHIFTADD_SERVICES_CLI_TABLE_H_

#include <string>
#include <vector>

namespace shiftadd::cli {

// Not thread-safe.
class Table {
 public:
  // A header that starts with '>' (not shown) makes its column right-aligned.
  explicit Table(std::vector<std::string> headers);
  // As many cells as headers.
  void Add(std::vector<std::string> cells);
  // Ends every line with a newline; no trailing spaces. Widths count UTF-8 characters.
  std::string ToString() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

// Characters of a UTF-8 string (code points; none of ours is wide).
size_t Utf8Length(const std::string& text);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_TABLE_H_
