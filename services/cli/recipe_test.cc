#include "services/cli/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shiftadd::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Recipe, YamlAndJsonAgree) {
  const auto yaml = ParseRecipe(R"(
method: shiftadd
rotation: wht128
group_size: 64
candidate_bits: [2, 4]
damping: 0.02
overrides:
  - {glob: "blocks.0.*", bits: 4}
  - {glob: "blocks.1.*", skip: true}
)",
                                "r.yaml");
  ASSERT_TRUE(yaml.ok()) << yaml.status();
  EXPECT_EQ(yaml->method(), v1::METHOD_SHIFTADD);
  EXPECT_EQ(yaml->rotation(), v1::ROTATION_WHT128);
  EXPECT_EQ(yaml->candidate_bits(1), 4u);
  EXPECT_DOUBLE_EQ(yaml->damping(), 0.02);
  EXPECT_FALSE(yaml->has_rounds());
  EXPECT_TRUE(yaml->overrides(1).skip());
  const auto json = ParseRecipe(
      R"({"method": "shiftadd", "rotation": "wht128", "group_size": 64, "candidate_bits": [2, 4], "damping": 0.02,
          "overrides": [{"glob": "blocks.0.*", "bits": 4}, {"glob": "blocks.1.*", "skip": true}]})",
      "r.json");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->SerializeAsString(), yaml->SerializeAsString());
  EXPECT_TRUE(ParseRecipe("", "r.yaml").ok()) << "all defaults";
}

TEST(Recipe, EverySwitchHasAShortName) {
  const auto recipe = ParseRecipe(R"(
method: shiftadd
scales: free
offset: true
rotation: none
hessian: guided
chunks: 4
order: gar
group_size: row
sweeps: 0
propagate: quantized
effort: fast
additive_terms: 0
)",
                                  "r.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->scales(), v1::SCALE_KIND_FREE);
  EXPECT_TRUE(recipe->offset());
  EXPECT_EQ(recipe->rotation(), v1::ROTATION_NONE);
  EXPECT_EQ(recipe->hessian(), v1::HESSIAN_GUIDED);
  EXPECT_EQ(recipe->chunks(), 4u);
  EXPECT_EQ(recipe->order(), v1::COLUMN_ORDER_GAR);
  EXPECT_TRUE(recipe->whole_row());
  EXPECT_EQ(recipe->group_size(), 0u);
  EXPECT_TRUE(recipe->has_sweeps()) << "0 is said, not left out";
  EXPECT_EQ(recipe->propagate(), v1::PROPAGATE_QUANTIZED);
  EXPECT_EQ(recipe->effort(), v1::EFFORT_FAST);
  EXPECT_TRUE(recipe->has_additive_terms());
  const auto acc = ParseRecipe("{\"method\": \"acc\", \"rotation\": \"butterfly\"}", "r.json");
  ASSERT_TRUE(acc.ok()) << acc.status();
  EXPECT_EQ(acc->rotation(), v1::ROTATION_BUTTERFLY);
}

TEST(Recipe, AWholeRowIsSaidOneWay) {
  const auto message = [](const std::string& text) {
    return std::string(ParseRecipe(text, "r.yaml").status().message());
  };
  EXPECT_THAT(message("group_size: row\nwhole_row: false"), HasSubstr("recipe.whole_row: found"));
  EXPECT_THAT(message("group_size: column"), HasSubstr("found \"column\""));
  EXPECT_EQ(message("group_size: row\nwhole_row: true"), "");
}

TEST(Recipe, NamesEveryFaultAtOnce) {
  const auto status = ParseRecipe(R"(
metod: rtn
method: best
group_size: -1
candidate_bits: 3
damping: much
overrides:
  - {glob: x, bits: 2, skip: true}
  - {glub: x}
)",
                                  "r.yaml")
                          .status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  const std::string message(status.message());
  for (const char* part :
       {"r.yaml: ", "recipe.metod: unknown field; there are: method",
        "recipe.method: expected one of: shiftadd, lat, rtn, acc, optq, found \"best\"",
        "recipe.group_size: expected a whole number from 0",
        "recipe.candidate_bits: expected a list, found 3",
        "recipe.damping: expected a number, found \"much\"",
        "recipe.overrides[0].skip: only one of its kind",
        "recipe.overrides[1].glub: unknown field"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(Recipe, WrongTypesAndWrongValuesAreNamedTogether) {
  const auto message = [](const std::string& text) {
    return std::string(ParseRecipe(text, "r.yaml").status().message());
  };
  const std::string all = message(R"(
method: rtn
rotation: wht128
group_size: 48
sweeps: many
sweps: 2
candidate_bits: [2, 9]
overrides:
  - {glob: "a", bits: 12}
  - {glob: "b", bits: "two"}
)");
  for (const char* part :
       {"recipe.sweeps: expected a whole number from 0 to 4294967295, found \"many\"",
        "recipe.sweps: unknown field",
        "recipe.overrides[1].bits: expected a whole number from 0 to 4294967295, found \"two\"",
        "recipe.rotation: found wht128, expected none with method rtn",
        "recipe.group_size: found 48, expected 32, 64, 128 or 256",
        "recipe.candidate_bits: found [2, 9], expected distinct widths of 1 to 8",
        "recipe.overrides[0].bits: found 12, expected 1 to 8"}) {
    EXPECT_THAT(all, HasSubstr(part));
  }
  // A field that could not be read has no value to be judged.
  EXPECT_THAT(all, Not(HasSubstr("neither bits nor skip")));
  EXPECT_THAT(message("candidate_bits: [4, x, 2]"), Not(HasSubstr("found [4, 2]")));
  // Without a method nothing is said of what depends on it.
  const std::string unknown = message("method: best\nrotation: wht128\ncandidate_bits: [0]");
  EXPECT_THAT(unknown, AllOf(HasSubstr("found \"best\""), HasSubstr("found [0]")));
  EXPECT_THAT(unknown, AllOf(Not(HasSubstr("rotation")), Not(HasSubstr("found -1"))));
  // Values alone are the coordinator's to judge.
  EXPECT_TRUE(ParseRecipe("candidate_bits: [9]", "r.yaml").ok());
}

TEST(Recipe, RefusesWhatIsNoRecipe) {
  const auto message = [](const std::string& text, const char* name) {
    const auto status = ParseRecipe(text, name).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    return std::string(status.message());
  };
  EXPECT_THAT(message("{\"method\": ", "r.json"), HasSubstr("not JSON"));
  EXPECT_THAT(message("a: [1", "r.yaml"), HasSubstr("not YAML"));
  EXPECT_THAT(message("- 1", "r.yaml"), HasSubstr("expected fields and values"));
  EXPECT_THAT(message("seed: 1\nseed: 2", "r.yaml"), HasSubstr("given twice"));
  EXPECT_THAT(message("{\"seed\": 1, \"seed\": 2}", "r.json"), HasSubstr("given twice"));
  EXPECT_THAT(message("{\"overrides\": [{\"glob\": 1}, {\"glob\": \"*\", \"glob\": 1}]}", "r.json"),
              HasSubstr("'glob' is given twice"));
  const std::string deep = std::string(300'000, '[') + std::string(300'000, ']');
  EXPECT_THAT(message(deep, "r.json"), HasSubstr("nested deeper than 16 levels"));
  EXPECT_THAT(message("{\"seed\": " + deep + ", \"sede\": 1}", "r.json"),
              AllOf(HasSubstr("nested deeper than 16 levels"), HasSubstr("recipe.sede: unknown")));
  EXPECT_THAT(message("seed: 1\n---\nseed: 2", "r.yaml"), HasSubstr("expected one document"));
  EXPECT_THAT(message(", : [0,", "r.yaml"), HasSubstr("expected one document"));
  EXPECT_THAT(message("seed: \"1\"", "r.yaml"), HasSubstr("found \"1\""));
  EXPECT_THAT(message("seed: &a [*a]", "r.yaml"), HasSubstr("recipe"));
  EXPECT_THAT(message("seed: 18446744073709551616", "r.yaml"),
              HasSubstr("expected a whole number"));
}

// Nothing in a recipe is opened, fetched or run: what looks like it is an unknown field or a value
// of the wrong kind, and the name of a file is a pattern that matches no layer.
TEST(Recipe, NamesNoFilesUrlsOrCode) {
  for (const char* text : {"include: /etc/passwd", "hook: http://127.0.0.1/x",
                           "method: !!python/object/apply:os.system ['id']",
                           "seed: !include /etc/passwd", "script: |\n  rm -rf /\n",
                           "method: /etc/passwd", "overrides:\n- file: /etc/passwd\n  bits: 2",
                           "overrides: file:///etc/passwd", "<<: {method: rtn, run: id}"}) {
    const auto recipe = ParseRecipe(text, "r.yaml");
    EXPECT_TRUE(absl::IsInvalidArgument(recipe.status())) << text;
    EXPECT_THAT(std::string(recipe.status().message()), HasSubstr("recipe")) << text;
    EXPECT_EQ(recipe.status().message().find("root:"), absl::string_view::npos) << text;
  }
}

TEST(Recipe, FilesThatAreNotThere) {
  EXPECT_TRUE(absl::IsNotFound(LoadRecipe("/nowhere/r.yaml").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(LoadRecipe("/").status()));
}

}  // namespace
}  // namespace shiftadd::cli
