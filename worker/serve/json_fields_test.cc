#include "worker/serve/json_fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shiftadd {
namespace {

using ::testing::HasSubstr;

std::string FaultOf(const std::string& text) {
  nlohmann::json parsed;
  return std::string(ParseJson(text, &parsed).message());
}

TEST(ParseJson, SaysWhatIsWrongWithABody) {
  EXPECT_EQ(FaultOf(R"({"a": "[[[", "b": [1, {"c": null}]})"), "");
  EXPECT_THAT(FaultOf(""), HasSubstr("is empty"));
  EXPECT_THAT(FaultOf("{\"a\": 1"), HasSubstr("not valid JSON: byte 8"));
  EXPECT_EQ(FaultOf(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_THAT(FaultOf(std::string(65, '[') + std::string(65, ']')), HasSubstr("nests deeper"));
  // Half a character, as long as what would be shown in its place and shorter.
  for (const char* half : {"\xf0\x9f\x98", "\xe2\x82", "\xff"}) {
    EXPECT_THAT(FaultOf(std::string("{\"a\": \"") + half + "\"}"), HasSubstr("not valid UTF-8"));
  }
}

}  // namespace
}  // namespace shiftadd
