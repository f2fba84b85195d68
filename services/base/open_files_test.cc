#include "services/base/open_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>

namespace shiftadd {
namespace {

TEST(RaiseOpenFileLimit, TakesWhatTheHardLimitAllowsAndNeverLowers) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  for (const rlim_t start : {std::min<rlim_t>(256, before.rlim_max), before.rlim_max}) {
    rlimit limit = {start, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    RaiseOpenFileLimit();
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    EXPECT_EQ(limit.rlim_cur, std::max(start, std::min<rlim_t>(before.rlim_max, 65536)));
    EXPECT_EQ(limit.rlim_max, before.rlim_max);
  }
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace shiftadd
