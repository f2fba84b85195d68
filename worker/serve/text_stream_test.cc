#include "worker/serve/text_stream.h"

#include <gtest/gtest.h>

namespace shiftadd {
namespace {

TEST(TextStream, HoldsBackPossibleStops) {
  TextStream stream({"STOP", "TEN"});
  EXPECT_EQ(stream.Push("a S"), "a ");
  EXPECT_EQ(stream.Push("TO"), "");
  EXPECT_EQ(stream.Push("x"), "STOx");
  EXPECT_EQ(stream.Push("ST"), "");
  EXPECT_EQ(stream.Push("EN"), "S");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.Push("more"), "");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TextStream, TheEarliestStopWins) {
  TextStream stream({"bb", "a"});
  EXPECT_EQ(stream.Push("xxabb"), "xx");
  EXPECT_TRUE(stream.stopped());
}

TEST(TextStream, WhatWasHeldComesAtTheEnd) {
  TextStream stream({"STOP"});
  EXPECT_EQ(stream.Push("STO"), "");
  EXPECT_EQ(stream.Finish(), "STO");
  EXPECT_FALSE(stream.stopped());
}

TEST(TextStream, HoldsBackHalfCharacters) {
  const std::string text = "é漢😀";
  TextStream stream({});
  std::string got;
  for (const char c : text) {
    const std::string piece = stream.Push(std::string(1, c));
    EXPECT_EQ(ToValidUtf8(piece), piece);
    EXPECT_TRUE(piece.empty() || piece.size() > 1);
    got += piece;
  }
  EXPECT_EQ(got, text);
  EXPECT_EQ(stream.Push("\xf0\x9f"), "");
  EXPECT_EQ(stream.Finish(), "\xef\xbf\xbd");  // one for one broken character
}

TEST(TextStream, StopsThatAreMultibyteAndSplit) {
  TextStream stream({"漢"});
  EXPECT_EQ(stream.Push("a\xe6"), "a");
  EXPECT_EQ(stream.Push("\xbc\xa2z"), "");
  EXPECT_TRUE(stream.stopped());
}

TEST(TextStream, InvalidBytesBecomeReplacements) {
  TextStream stream({});
  EXPECT_EQ(stream.Push("a\x80z"), "a\xef\xbf\xbdz");
  EXPECT_EQ(ToValidUtf8("\xc0\x80"), "\xef\xbf\xbd\xef\xbf\xbd");  // overlong
  EXPECT_EQ(ToValidUtf8("\xed\xa0\x80").size(), 9u);               // surrogate
  EXPECT_EQ(ToValidUtf8("\xf4\x90\x80\x80").size(), 12u);          // beyond U+10FFFF
  EXPECT_EQ(ToValidUtf8("\xf0\x9f\x98z"), "\xef\xbf\xbdz");        // a start, then another
  EXPECT_EQ(ToValidUtf8("\xe6\xe6\xbc"), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(ToValidUtf8("\xe2\x28\xa1"), "\xef\xbf\xbd(\xef\xbf\xbd");
  EXPECT_EQ(ToValidUtf8("ok \xf0\x9f\x98\x80"), "ok \xf0\x9f\x98\x80");
}

}  // namespace
}  // namespace shiftadd
