#include "worker/serve/cuda/staging.h"

#include <algorithm>
#include <utility>

#include "services/base/status_macros.h"

namespace shiftadd::cuda {
namespace {

constexpr int64_t kWords = 10;  // a row; tiles and doubles count twice, rows are even

int64_t PagesAt(int64_t rows) { return (rows * kWords * 4 + 15) / 16 * 16; }

}  // namespace

Staging::Arrays Staging::ArraysAt(char* base) const {
  auto* words = reinterpret_cast<int32_t*>(base);
  Arrays out;
  out.tokens = words;
  out.positions = words + rows_;
  out.first_page = words + 2 * rows_;
  out.wanted = words + 3 * rows_;
  out.decode_rows = words + 4 * rows_;
  out.tiles = reinterpret_cast<AttentionTile*>(words + 5 * rows_);
  out.uniform = reinterpret_cast<double*>(words + 7 * rows_);
  out.temperature = reinterpret_cast<float*>(words + 9 * rows_);
  out.pages = reinterpret_cast<__half**>(base + PagesAt(rows_));
  return out;
}

absl::Status Staging::Allocate(int64_t rows, int64_t pages) {
  rows_ = rows;
  return Grow(pages).status();
}

absl::StatusOr<bool> Staging::Grow(int64_t pages) {
  if (pages <= pages_) return false;
  pages = std::max(pages, 2 * pages_);
  const size_t bytes = static_cast<size_t>(PagesAt(rows_) + pages * 8);
  PinnedBuffer pinned;
  Buffer buffer;
  SA_RETURN_IF_ERROR(pinned.Allocate(bytes));
  SA_RETURN_IF_ERROR(ToStatus(buffer.Allocate(bytes)));
  pinned_ = std::move(pinned);
  buffer_ = std::move(buffer);
  pages_ = pages;
  host_ = ArraysAt(pinned_.as<char>());
  device_ = ArraysAt(buffer_.as<char>());
  return true;
}

absl::Status Staging::Upload(int64_t pages, cudaStream_t stream) const {
  return ToStatus(cudaMemcpyAsync(buffer_.as<char>(), pinned_.as<char>(),
                                  static_cast<size_t>(PagesAt(rows_) + pages * 8),
                                  cudaMemcpyHostToDevice, stream),
                  "copying a step's rows");
}

}  // namespace shiftadd::cuda
