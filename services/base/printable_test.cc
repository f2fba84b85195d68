#include "services/base/printable.h"

#include <gtest/gtest.h>

namespace shiftadd {
namespace {

TEST(Printable, ControlCharactersAreSeenAndEscaped) {
  for (const char* plain :
       {"", "a \"quoted\" C:\\path", "Grüße, 世界 🙂", "\xff\xc2 no UTF-8\xc2"}) {
    EXPECT_FALSE(HasControls(plain)) << plain;
    EXPECT_EQ(EscapeControls(plain), plain);
  }
  const struct {
    const char *text, *escaped;
  } cases[] = {{"two\nlines\r", "two\\nlines\\x0d"},
               {"a\tb", "a\\tb"},
               {"\x1b[31mred", "\\x1b[31mred"},
               {"\x7f", "\\x7f"},
               {"\xc2\x9b 31m", "\\x9b 31m"},  // U+009B does what ESC [ does
               {"\xc2\x80", "\\x80"}};
  for (const auto& c : cases) {
    EXPECT_TRUE(HasControls(c.text)) << c.escaped;
    EXPECT_EQ(EscapeControls(c.text), c.escaped);
  }
  EXPECT_EQ(EscapeControls(absl::string_view("\0", 1)), "\\x00");
  EXPECT_FALSE(HasControls("\xc2\xa0"));  // a space that does not break
}

TEST(Printable, NoCharacterIsCut) {
  EXPECT_EQ(Shortened("Grüße", 7), "Grüße");
  EXPECT_EQ(Shortened("Grüße", 4), "Grü…");
  EXPECT_EQ(Shortened("Grüße", 3), "Gr…");
  EXPECT_EQ(Shortened("🙂", 3), "…");
  EXPECT_EQ(Shortened("ab", 0), "…");
}

}  // namespace
}  // namespace shiftadd
