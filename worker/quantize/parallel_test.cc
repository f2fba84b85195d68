#include "worker/quantize/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <stdexcept>
#include <vector>

namespace shiftadd::quantize {
namespace {

TEST(ParallelFor, DoesEveryItemOnce) {
  for (const int threads : {0, 1, 3, 100}) {
    std::vector<std::atomic<int>> done(50);
    TaskControl control;
    EXPECT_TRUE(ParallelFor(50, threads, &control, [&](int64_t i) {
                  ++done[static_cast<size_t>(i)];
                  return absl::OkStatus();
                }).ok());
    for (const auto& times : done) EXPECT_EQ(times, 1);
    EXPECT_EQ(control.progress_count, 50u);
  }
  EXPECT_TRUE(ParallelFor(0, 4, nullptr, [](int64_t) { return absl::InternalError(""); }).ok());
}

TEST(ParallelFor, GivesTheErrorOfTheLowestItem) {
  // All four run before one of them ends.
  std::atomic<int> begun{0};
  const absl::Status status = ParallelFor(4, 4, nullptr, [&](int64_t i) -> absl::Status {
    for (++begun; begun < 4;) {
    }
    return i % 2 == 0 ? absl::OkStatus() : absl::InternalError(i == 1 ? "one" : "three");
  });
  EXPECT_EQ(status.message(), "one");
}

TEST(ParallelFor, WhatAnItemThrowsIsItsError) {
  for (const int threads : {1, 4}) {
    const absl::Status memory =
        ParallelFor(8, threads, nullptr, [](int64_t) -> absl::Status { throw std::bad_alloc(); });
    EXPECT_EQ(memory.code(), absl::StatusCode::kResourceExhausted);
    const absl::Status other = ParallelFor(8, threads, nullptr, [](int64_t) -> absl::Status {
      throw std::runtime_error("first line\nand more");
    });
    EXPECT_EQ(other, absl::InternalError("first line"));
  }
}

}  // namespace
}  // namespace shiftadd::quantize
