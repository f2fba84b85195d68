#include "services/base/memory_room.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

namespace fs = std::filesystem;

class MemoryRoomTest : public ::testing::Test {
 protected:
  void SetUp() override { root_ = fs::temp_directory_path() / absl::StrCat("room_", getpid()); }
  void TearDown() override { fs::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  fs::path root_;
};

TEST_F(MemoryRoomTest, TheSmallestOfMachineAndGroups) {
  EXPECT_EQ(MemoryRoom(root_.string()), std::numeric_limits<int64_t>::max());
  Write("proc/meminfo", "MemTotal: 4000 kB\nMemAvailable:    3000 kB\n");
  EXPECT_EQ(MemoryRoom(root_.string()), 3000 * 1024);
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("sys/fs/cgroup/a/b/memory.max", "max\n");
  Write("sys/fs/cgroup/a/b/memory.current", "100\n");
  EXPECT_EQ(MemoryRoom(root_.string()), 3000 * 1024);
  // The group around it has a limit; its clean pages can go.
  Write("sys/fs/cgroup/a/memory.max", "1000\n");
  Write("sys/fs/cgroup/a/memory.current", "700\n");
  Write("sys/fs/cgroup/a/memory.stat", "anon 500\ninactive_file 200\n");
  EXPECT_EQ(MemoryRoom(root_.string()), 500);
}

TEST_F(MemoryRoomTest, TheLimitIsTheSmallestOne) {
  EXPECT_EQ(MemoryLimit(root_.string()), std::numeric_limits<int64_t>::max());
  Write("proc/meminfo", "MemTotal: 4000 kB\nMemAvailable:    3000 kB\n");
  EXPECT_EQ(MemoryLimit(root_.string()), 4000 * 1024);
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_EQ(MemoryLimit(root_.string()), 4000 * 1024);
  Write("sys/fs/cgroup/a/memory.max", "2000000\n");
  EXPECT_EQ(MemoryLimit(root_.string()), 2000000);
  // As a container sees its own group.
  Write("sys/fs/cgroup/memory.max", "1000000\n");
  EXPECT_EQ(MemoryLimit(root_.string()), 1000000);
  // A group beside ours is none of ours.
  Write("sys/fs/cgroup/c/memory.max", "1\n");
  EXPECT_EQ(MemoryLimit(root_.string()), 1000000);
}

TEST_F(MemoryRoomTest, TheLimitOfTheFirstVersion) {
  Write("proc/meminfo", "MemTotal: 4000 kB\n");
  // What no limit is called there: more than any machine has.
  Write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/x/y\n0::/\n");
  Write("sys/fs/cgroup/memory/x/y/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(MemoryLimit(root_.string()), 4000 * 1024);
  Write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "500\n");
  EXPECT_EQ(MemoryLimit(root_.string()), 500);
}

TEST_F(MemoryRoomTest, FirstVersionOfControlGroups) {
  Write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n");
  Write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "500\n");
  Write("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "600\n");
  EXPECT_EQ(MemoryRoom(root_.string()), 0);
}

int64_t Resident() {
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * getpagesize();
}

TEST(ReturnFreeMemory, GivesBackWhatMallocKeeps) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "another malloc";
#endif
  // Pieces that malloc takes from its heap, and something above them that stays.
  constexpr size_t kPiece = 64 << 10;
  std::vector<std::unique_ptr<std::string>> pieces;
  for (int i = 0; i < 1000; ++i) pieces.push_back(std::make_unique<std::string>(kPiece, 'x'));
  const auto above = std::make_unique<std::string>(kPiece, 'y');
  pieces.clear();
  const int64_t kept = Resident();
  ReturnFreeMemory();
  EXPECT_LT(Resident(), kept - 500 * static_cast<int64_t>(kPiece));
}

TEST_F(MemoryRoomTest, ThisMachineSaysSomething) {
  EXPECT_GT(MemoryRoom(), 0);
  EXPECT_GT(MemoryLimit(), 0);
  EXPECT_LT(MemoryLimit(), std::numeric_limits<int64_t>::max());
}

}  // namespace
}  // namespace shiftadd
