#include "worker/reference/device_sum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

// Columns of a band: narrower bands skip more of the lower triangle, wider ones make better
// products (H100, 16384 tokens of 14336: 692 TFLOP/s of the triangle at 2048, 628 at 4096).
int64_t BandWidth(int64_t k) { return k > 8192 ? 2048 : 1024; }

}  // namespace

absl::Status CheckGiven(const std::vector<InputToSum>& sums, const HiddenStates& h) {
  for (const InputToSum& sum : sums) {
    if (sum.scale == TokenScale::kGiven &&
        static_cast<int64_t>(sum.weights.size()) != h.count * h.length) {
      return absl::InvalidArgumentError(absl::StrCat("sums of inputs: ", sum.weights.size(),
                                                     " weights for ", h.count, " x ", h.length,
                                                     " tokens"));
    }
  }
  return absl::OkStatus();
}

at::Tensor Weighed(const InputToSum& sum, int64_t first, int64_t length, const at::Tensor& x) {
  if (sum.scale == TokenScale::kOne) return x;
  at::Tensor s;
  if (sum.scale == TokenScale::kGiven) {
    // Pinned, so that the host need not wait for what is queued.
    const at::Tensor host = HostEmpty({x.size(0), 1}, at::kFloat, x.device());
    std::copy_n(sum.weights.data() + first * length, x.size(0), host.mutable_data_ptr<float>());
    s = MoveToDevice(host, x.device());
  } else {
    const at::Tensor inverse =
        x.to(at::kFloat).square().mean(1, /*keepdim=*/true, at::kDouble).reciprocal();
    s = at::where(inverse < 1e30, inverse, 0.0).to(at::kFloat);
  }
  at::Tensor out = at::empty(x.sizes(), x.options());
  return at::mul_out(out, x, s.sqrt());
}

void DeviceSum::Make() {
  if (!sum_.defined()) sum_ = at::zeros({k_, k_}, at::TensorOptions(device_).dtype(at::kDouble));
}

void DeviceSum::Add(const at::Tensor& x, const at::Tensor& s) {
  Make();
  sum_.add_(at::mm((x * s).t(), x));
}

void DeviceSum::AddSquare(const at::Tensor& y) {
  Make();
  const int64_t band = BandWidth(k_);
  for (; added_ < k_; added_ += band) {
    const int64_t begin = added_, size = std::min(band, k_ - begin), rest = k_ - begin;
    const at::Tensor a = y.narrow(1, begin, size).t(), b = y.narrow(1, begin, rest);
    const at::Tensor product =
        y.is_cpu() ? at::mm(a.to(at::kFloat), b.to(at::kFloat)) : at::mm(a, b, at::kFloat);
    sum_.narrow(0, begin, size).narrow(1, begin, rest).add_(product);
  }
  added_ = 0;
}

absl::StatusOr<std::vector<double>> DeviceSum::Take() {
  std::vector<double> out(static_cast<size_t>(k_ * k_), 0.0);
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    if (!sum_.defined()) return absl::OkStatus();
    const at::Tensor host = sum_.triu().cpu().contiguous();
    std::memcpy(out.data(), host.const_data_ptr<double>(), out.size() * sizeof(double));
    sum_.reset();
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<bool> DeviceSum::Finite() {
  bool finite = true;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    // Where anything overflows, a square does.
    if (sum_.defined()) finite = at::isfinite(sum_.diagonal()).all().item<bool>();
    return absl::OkStatus();
  }));
  return finite;
}

absl::StatusOr<bool> DeviceSum::Zero() {
  bool zero = true;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    if (sum_.defined()) zero = (sum_.diagonal() == 0).all().item<bool>();
    return absl::OkStatus();
  }));
  return zero;
}

at::Tensor DeviceSum::Release() {
  Make();
  return std::exchange(sum_, at::Tensor());
}

}  // namespace shiftadd::reference
