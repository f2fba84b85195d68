// y = x W^T with a packed W of two planes, held to the same product in float64; where the CUDA
// kernels were installed, whether they can be used here.
#include <kernels/cpu_linear.h>
#include <kernels/packing.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#ifdef WITH_CUDA
#include <kernels/cuda_linear.h>
#endif

namespace sk = shiftadd::kernels;

int main() {
  constexpr int64_t kRows = 20, kCols = 200, kGroup = 128, kGroups = 2;
  constexpr int kPlanes = 2;
  std::vector<uint8_t> codes(kRows * kCols), sets(kRows * kGroups);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>((i * 7 + i / 5) % 4);
  for (size_t i = 0; i < sets.size(); ++i) sets[i] = static_cast<uint8_t>(i % 3);
  sk::PackedMatrix m;
  m.n = kRows;
  m.k = kCols;
  m.group = kGroup;
  m.q = kPlanes;
  m.table = sk::DefaultExponentTable(kPlanes);
  std::vector<uint32_t> planes(kPlanes * kRows * m.plane_words());
  std::vector<uint8_t> exponents(kRows);
  std::vector<uint16_t> scale(kRows * kGroups, 0x3800);  // 0.5
  sk::PackPlanes(codes.data(), kRows, kCols, kPlanes, planes.data());
  sk::PackExponents(sets.data(), kRows, kGroups, exponents.data());
  m.planes = planes.data();
  m.scale = scale.data();
  m.exponents = exponents.data();

  std::string error = sk::Validate(m);
  const sk::Isa isa = sk::DetectIsa();
  const auto linear = error.empty() ? sk::CpuLinear::Create(m, isa, &error) : nullptr;
  if (linear == nullptr) {
    std::fprintf(stderr, "the matrix is refused: %s\n", error.c_str());
    return 1;
  }
  std::vector<float> x(kCols), y(kRows);
  for (int64_t k = 0; k < kCols; ++k)
    x[k] = static_cast<float>(std::sin(0.1 * static_cast<double>(k)));
  sk::Activations a;
  sk::PrepareActivations(x.data(), kCols, 1, kCols, kGroup, nullptr, sk::Precision::kA16, isa, &a);
  linear->Multiply(a, 0, kRows, y.data(), kRows);

  std::vector<double> w(kRows * kCols);
  sk::DequantizeRows(m, 0, kRows, w.data());
  double worst = 0, largest = 0;
  for (int64_t n = 0; n < kRows; ++n) {
    double sum = 0;
    for (int64_t k = 0; k < kCols; ++k) sum += w[n * kCols + k] * static_cast<double>(x[k]);
    worst = std::max(worst, std::abs(sum - static_cast<double>(y[n])));
    largest = std::max(largest, std::abs(sum));
  }
  std::printf("%s: largest error %.2e of %.2f\n", sk::IsaName(isa), worst, largest);
#ifdef WITH_CUDA
  const sk::CudaStatus status = sk::CudaAvailable();
  std::printf("CUDA: %s; %s\n", sk::CudaBuildInfo(),
              status.ok() ? "can be used here" : status.message.c_str());
#endif
  return worst < 1e-3 * largest ? 0 : 1;
}
