// What a step must know of its rows, filled on the host and copied to the device in one piece.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_STAGING_H_
#define SHIFTADD_WORKER_SERVE_CUDA_STAGING_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/serve/cuda/attention.h"
#include "worker/serve/cuda/device.h"
#include "worker/serve/cuda/step.h"

namespace shiftadd::cuda {

class Staging {
 public:
  // Arrays of one side, host or device.
  struct Arrays {
    int32_t* tokens;       // [rows]
    int32_t* positions;    // [rows]
    int32_t* first_page;   // [rows]
    int32_t* wanted;       // [rows]: rows whose logits are wanted
    int32_t* decode_rows;  // [rows]: rows that attend alone
    AttentionTile* tiles;  // [rows]
    double* uniform;       // [rows]: of the rows whose logits are wanted, as is …
    float* temperature;    // [rows]
    __half** pages;        // page tables, one after the other
  };

  absl::Status Allocate(int64_t rows, int64_t pages);  // once
  // Makes room for `pages`; true if the arrays have moved.
  absl::StatusOr<bool> Grow(int64_t pages);

  const Arrays& host() const { return host_; }
  const Arrays& device() const { return device_; }
  PagedRows rows() const { return {device_.positions, device_.first_page, device_.pages}; }
  // Copies everything up to `pages` page addresses. The stream must have used the last copy.
  absl::Status Upload(int64_t pages, cudaStream_t stream) const;

 private:
  Arrays ArraysAt(char* base) const;

  int64_t rows_ = 0, pages_ = 0;
  PinnedBuffer pinned_;
  Buffer buffer_;
  Arrays host_ = {}, device_ = {};
};

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_STAGING_H_
