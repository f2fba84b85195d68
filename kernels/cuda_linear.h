// y = x W^T with a packed W on NVIDIA GPUs of compute capability 8.0 to 9.0.
//
// Plain C++: callers need no CUDA header. A stream is a cudaStream_t or, as null, the default
// stream; "device" pointers are memory of the current device. Nothing here synchronizes, allocates
// or copies except the Create functions and those that say so, so that everything else can be
// captured in a graph. Every failure is a CudaStatus, found before a launch wherever it can be: no
// call leaves a CUDA error behind.
//
// Activations are the CPU kernels' (cpu_linear.h): the same digits, scales and sums, bit for bit.
// Products of digits and planes are exact integers (binary tensor cores: AND and popcount); the
// float operations after them run in one fixed order: two runs with the same m give the same bits.
// They are not the CPU's bits, and a row of y may differ in its last bits between values of m.
#ifndef SHIFTADD_KERNELS_CUDA_LINEAR_H_
#define SHIFTADD_KERNELS_CUDA_LINEAR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cpu_linear.h"
#include "kernels/cuda_types.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::kernels {

// Whether the current device can run these kernels.
CudaStatus CudaAvailable();
// What this build has code for and which of it was ever run, one line.
const char* CudaBuildInfo();

// Device buffers for the quantized activations of up to `max_m` tokens; reusable. The Prepare
// functions fill them, one kernel each. Not thread-safe; work on one object belongs on one stream.
class CudaActivations {
 public:
  // `group` and `signs` (host, [ceil(k/32)], or null without rotation) as in the matrices that will
  // be multiplied. Copies `signs`, and returns when that is done.
  static CudaStatus Create(int64_t max_m, int64_t k, int64_t group, Precision precision,
                           const uint32_t* signs, std::unique_ptr<CudaActivations>* out);
  virtual ~CudaActivations() = default;

  // x: device [m, k], row stride ldx >= k.
  virtual CudaStatus Prepare(const float* x, int64_t ldx, int64_t m, CudaStream stream) = 0;
  // RMSNorm first: x / sqrt(mean(x^2) + eps) * weight; weight: device [k].
  virtual CudaStatus PrepareRmsNorm(const float* x, int64_t ldx, const float* weight, float eps,
                                    int64_t m, CudaStream stream) = 0;
  // The same of x + add, which also goes to `sum`: both device [m, k], row stride ldx; `sum`
  // overlaps neither x nor add.
  virtual CudaStatus PrepareAddRmsNorm(const float* x, const float* add, float* sum, int64_t ldx,
                                       const float* weight, float eps, int64_t m,
                                       CudaStream stream) = 0;
  // silu(gate) * up first (SwiGLU); gate, up: device [m, k], row stride ld.
  virtual CudaStatus PrepareSiluMul(const float* gate, const float* up, int64_t ld, int64_t m,
                                    CudaStream stream) = 0;
  // What the last Prepare gave, in the CPU kernels' form. Synchronizes.
  virtual CudaStatus ToHost(CudaStream stream, Activations* out) const = 0;

  virtual int64_t m() const = 0;  // of the last Prepare; 0 before
  virtual int64_t k() const = 0;
  virtual int64_t group() const = 0;
  virtual Precision precision() const = 0;
};

// A matrix on the device. Immutable after construction; thread-safe.
//
// bcq/shift and bcq/free with 2, 3 or 4 planes and groups that are a multiple of 64 (or whole rows)
// run on the tensor cores, int8/group too; everything else takes a plain kernel.
class CudaLinear {
 public:
  // Repacks `m` (host memory) on the device. Synchronizes; the view may go away.
  static CudaStatus Create(const PackedMatrix& m, CudaStream stream,
                           std::unique_ptr<CudaLinear>* out);
  virtual ~CudaLinear() = default;

  // The weights of `count` rows in unrotated space: out (device) [count, k], row stride ld >= k.
  // rows: device; a row outside the matrix gives NaN.
  virtual CudaStatus GatherRows(const int32_t* rows, int64_t count, float* out, int64_t ld,
                                CudaStream stream) const = 0;

  virtual int64_t n() const = 0;
  virtual int64_t k() const = 0;
  virtual int64_t group() const = 0;
  virtual Rotation rotation() const = 0;
  virtual uint64_t bytes() const = 0;  // on the device
};

// One matrix of a product: y (device) [m, n], row stride ldy >= n.
struct CudaProduct {
  const CudaLinear* w = nullptr;
  float* y = nullptr;
  int64_t ldy = 0;
};

inline constexpr int kMaxCudaProducts = 4;

// Which kernels multiply.
enum class CudaPath {
  kAuto,
  kBinary,   // b1 tensor cores, planes as stored; up to 4 digits * tokens
  kInteger,  // int8 tensor cores on decoded planes
  kHalf,     // fp16 tensor cores on planes decoded to fp16; what kAuto takes off 9.0
  kPrompt,   // kInteger for more than 32 digits * tokens, activations in shared memory
  kDense,    // weights and activations to fp16 in a CudaWorkspace, then cuBLAS
  kPlain,    // no tensor cores; what matrices take that the others do not
};

// What kDense needs: device memory, and cuBLAS, which is opened at run time (SHIFTADD_CUBLAS names
// the library; libcublas.so.13 or .12 without). Work on one object belongs on one stream.
//
// Everything is allocated by Create: activations as fp16 (2 max_m max_k bytes), `weight_bytes` for
// the fp16 weights of as many rows as fit (a matrix is decoded and multiplied in pieces), and 32
// MiB for cuBLAS.
class CudaWorkspace {
 public:
  static constexpr uint64_t kDefaultWeightBytes = uint64_t{64} << 20;
  // For up to `max_m` tokens of up to `max_k` inputs. `weight_bytes`: at least 32 max_k bytes, each
  // rounded up to 128 inputs. Without cuBLAS the object is made but dense() is false, and nothing
  // is allocated.
  static CudaStatus Create(int64_t max_m, int64_t max_k, uint64_t weight_bytes,
                           std::unique_ptr<CudaWorkspace>* out);
  virtual ~CudaWorkspace() = default;

  virtual bool dense() const = 0;          // whether kDense can be taken with it
  virtual std::string cublas() const = 0;  // its version, or why there is none
  virtual uint64_t bytes() const = 0;      // on the device
};

struct CudaMultiplyOptions {
  // Programmatic dependent launch: weights are read while the kernel before on the stream ends.
  bool programmatic = false;
  // kAuto takes the fastest as measured on an H100; on devices that are not of compute capability
  // 9.0, kHalf in place of kBinary and kInteger. kHalf rounds a weight to fp16 once (2^-11 of each
  // term of a sum), kDense a weight and an activation; the others are exact but for float sums.
  CudaPath path = CudaPath::kAuto;
  // Lets kAuto take kDense for many tokens, where it has dense(). It must fit the product then.
  CudaWorkspace* workspace = nullptr;
  // For measurements; 0: chosen. Warps of a thread block, and thread blocks that share the tiles of
  // 16 rows, where a kernel can (-1: as many as run at the same time; enough: a tile each).
  int warps = 0;
  int blocks = 0;
};

// y_i = x W_i^T for `count` <= kMaxCudaProducts matrices of one input, in one launch if all of them
// run on the same kind of tensor core.
CudaStatus CudaMultiply(const CudaActivations& x, const CudaProduct* products, int count,
                        CudaStream stream, const CudaMultiplyOptions& options = {});

// The path that CudaMultiply takes for `w` with so many tokens of x; never kAuto.
CudaPath CudaPathFor(const CudaActivations& x, int64_t m, const CudaLinear& w,
                     const CudaMultiplyOptions& options = {});

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_CUDA_LINEAR_H_
