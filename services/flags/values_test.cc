#include "services/flags/values.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

namespace shiftadd {
namespace {

class ValuesTest : public ::testing::Test {
 protected:
  void TearDown() override {
    unsetenv("VALUES_TEST_KEYS");
    unsetenv("VALUES_TEST_GUARD");
  }

  // What is wrong with the command line; "": nothing.
  std::string Parse(std::vector<const char*> arguments) {
    CLI::App app("test");
    app.set_config("--config", "", "A file");
    app.add_option("--keys", keys_, "")->envname("VALUES_TEST_KEYS");
    app.add_option("--origins", origins_, "")->delimiter(',');
    MayBeEmpty(app.add_option("--text", text_, ""));
    NoEmptyVariable(app.add_option("--guard", guard_, "")->envname("VALUES_TEST_GUARD"));
    app.add_flag("--flag", flag_, "");
    CLI::App* run = app.add_subcommand("run", "");
    run->add_option("target", target_, "")->required();
    run->add_option("--seconds", seconds_, "")->check(CLI::Range(0.5, 60.0));
    run->add_option("--rate", rate_, "");
    arguments.insert(arguments.begin(), "test");
    try {
      app.parse(static_cast<int>(arguments.size()), arguments.data());
      CheckValues(&app);
    } catch (const CLI::ParseError& e) {
      return e.what();
    }
    return "";
  }

  std::string keys_, guard_, text_ = "unset", target_;
  std::vector<std::string> origins_;
  bool flag_ = false;
  double seconds_ = 1;
  std::optional<double> rate_;
};

TEST_F(ValuesTest, WhatIsGivenAndEmptyIsAMistake) {
  const std::string leave_out = "; leave the option out if none is meant";
  EXPECT_EQ(Parse({"--keys", ""}), "--keys: expected a value, found \"\"" + leave_out);
  EXPECT_EQ(Parse({"--origins", "a", "--origins", ""}),
            "--origins: expected a value, found \"\"" + leave_out);
  EXPECT_EQ(Parse({"run", ""}), "target: expected a value, found \"\"");
  EXPECT_NE(Parse({"--keys="}), "");
  EXPECT_EQ(Parse({"--keys", "k", "--flag", "--origins", "a,b", "run", "t"}), "");
  EXPECT_EQ(Parse({"--text", ""}), "");
  EXPECT_EQ(text_, "");
}

TEST_F(ValuesTest, AFileMayNotSayNothingAVariableMay) {
  const std::string file = ::testing::TempDir() + "values_test.toml";
  std::ofstream(file) << "keys = \"\"\n";
  EXPECT_NE(Parse({"--config", file.c_str()}).find("--keys: expected a value"), std::string::npos);
  setenv("VALUES_TEST_KEYS", "", 1);
  EXPECT_EQ(Parse({}), "");
  EXPECT_NE(Parse({"--config", ""}).find("--config"), std::string::npos);
}

TEST_F(ValuesTest, AVariableThatKeepsSomebodyOutMayNotBeEmpty) {
  setenv("VALUES_TEST_GUARD", "", 1);
  EXPECT_EQ(Parse({}), "VALUES_TEST_GUARD: is set to nothing; unset it if none is meant");
  EXPECT_EQ(Parse({"--guard", "g"}), "") << "the command line says it";
  setenv("VALUES_TEST_GUARD", "v", 1);
  EXPECT_EQ(Parse({}), "");
  EXPECT_EQ(guard_, "v");
}

TEST_F(ValuesTest, ANumberIsOne) {
  for (const char* bad : {"nan", "NaN", "-nan", "inf"}) {
    EXPECT_EQ(Parse({"run", "t", "--rate", bad}),
              std::string("--rate: expected a number, found ") + bad);
  }
  EXPECT_EQ(Parse({"run", "t", "--seconds", "nan"}), "--seconds: expected a number, found nan");
  EXPECT_EQ(Parse({"run", "t", "--seconds", "2.5", "--rate", "1e3"}), "");
  EXPECT_EQ(Parse({"run", "nan"}), "") << "it is text";
}

}  // namespace
}  // namespace shiftadd
