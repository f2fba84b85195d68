// Microseconds of products and of the preparation of activations on one GPU.
//
//   cuda_linear_benchmark [table|half|groups|prompt|prepare|sweep|small|pieces|profile]…
//   (default: the first five; small: sweep's first shape)
//
// Every figure is the median of replays of a graph of launches between CUDA events, over the
// launches. Weights are rotated over more than 300 MB, so that no launch finds its own in L2.
// "floor" is the best of several kernels that only read as many bytes, measured in the same run,
// the same way; a percentage is of that. "pdl": with programmatic dependent launch.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/benchmarks/read_floor.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/test_device.h"
#include "kernels/cuda_linear.h"
#include "kernels/test_matrix.h"

namespace shiftadd::kernels {
namespace {

using cuda::Check;
using cuda::DeviceVector;
using cuda::Graph;

constexpr double kRotatedBytes = 320e6;
constexpr int64_t kMaxTokens = 1024;
constexpr int64_t kMaxInputs = 28672;

struct Shape {
  int64_t n, k;
};
constexpr Shape kShapes[] = {{4096, 4096}, {14336, 4096}, {4096, 14336},
                             {8192, 8192}, {28672, 8192}, {8192, 28672}};

int Copies(double bytes) { return std::max(2, static_cast<int>(kRotatedBytes / bytes) + 1); }

// Median microseconds of launch(i, stream), i = 0 … `copies` - 1 round and round.
template <typename F>
double Time(int copies, F launch) {
  const int launches = (std::max(copies, 40) + copies - 1) / copies * copies;
  Graph graph([&](cudaStream_t stream) {
    for (int i = 0; i < launches; ++i) launch(i % copies, stream);
  });
  cudaEvent_t begin = nullptr, end = nullptr;
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    Check(cudaEventRecord(begin, graph.stream()));
    graph.Launch();
    Check(cudaEventRecord(end, graph.stream()));
    Check(cudaEventSynchronize(end));
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(1e3 * ms / launches);  // two to warm up
  }
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

std::vector<uint32_t> Signs(int64_t k) {
  return std::vector<uint32_t>(static_cast<size_t>((k + 31) / 32), 0x5a17c3u);
}

// A packed matrix of random bits; its scales are small and not zero.
class RandomMatrix {
 public:
  RandomMatrix(Encoding encoding, int q, Shape shape, int64_t group) {
    view.encoding = encoding;
    view.q = encoding == Encoding::kInt8Group ? 0 : q;
    view.n = shape.n, view.k = shape.k, view.group = group;
    view.rotation = Rotation::kWht128;
    signs_ = Signs(shape.k);
    view.signs = signs_.data();
    const size_t groups = shape.n * view.groups();
    Fill(&planes_, static_cast<size_t>(q) * shape.n * view.plane_words(), ~0u);
    view.planes = planes_.data();
    if (encoding == Encoding::kBcqFree) {
      Fill(&alpha_, groups * q, 0x3ff, 0x2000);
      Fill(&zeta_, groups, 0x3ff, 0xa000);
      view.alpha = alpha_.data();
      view.zeta = zeta_.data();
    } else {
      view.table = DefaultExponentTable(q);
      Fill(&scale_, groups, 0x3ff, 0x2000);
      Fill(&exponents_, shape.n * ((view.groups() + 1) / 2), 0x11);  // sets 0 and 1
      view.scale = scale_.data();
      view.exponents = exponents_.data();
    }
  }
  RandomMatrix(const RandomMatrix&) = delete;
  RandomMatrix& operator=(const RandomMatrix&) = delete;

  PackedMatrix view;

 private:
  template <typename T>
  void Fill(std::vector<T>* v, size_t size, uint32_t mask, uint32_t base = 0) {
    v->resize(size);
    for (T& x : *v) {
      state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
      x = static_cast<T>((static_cast<uint32_t>(state_ >> 20) & mask) | base);
    }
  }

  uint64_t state_ = 0x9e3779b97f4a7c15u;
  std::vector<uint32_t> signs_;
  std::vector<uint32_t> planes_;
  std::vector<uint16_t> alpha_, zeta_, scale_;
  std::vector<uint8_t> exponents_;
};

class Bench {
 public:
  Bench()
      : memory_(size_t{700} << 20),
        sink_(1),
        y_(kMaxTokens * kMaxInputs),
        x_(MakeInput()),
        scalars_(std::vector<float>{1, 0}) {
    memory_.FillBytes(0x3c);
    if (const CudaStatus s = cuda::Cublas::Open(&cublas_); !s.ok()) {
      std::printf("%s\n", s.message.c_str());
    }
    MakeWorkspace(CudaWorkspace::kDefaultWeightBytes);
  }

  void MakeWorkspace(uint64_t weight_bytes) {
    workspace_.reset();
    Check(CudaWorkspace::Create(kMaxTokens, kMaxInputs, weight_bytes, &workspace_));
  }
  CudaWorkspace* workspace() { return workspace_.get(); }

  // The best time to read so many bytes.
  double Floor(uint64_t bytes) {
    double& best = floors_[bytes];
    if (best > 0) return best;
    const int64_t stride = static_cast<int64_t>((bytes + 255) / 256 * 256);
    const int copies = std::min<int>(Copies(static_cast<double>(bytes)),
                                     static_cast<int>(memory_.size() / stride));
    best = 1e9;
    for (int variant = 0; variant < kReadVariants; ++variant) {
      best =
          std::min(best, Time(copies, [&](int i, cudaStream_t stream) {
                     Check(LaunchRead(variant, memory_.data() + i * stride,
                                      static_cast<int64_t>(bytes) / 16 * 16, sink_.data(), stream));
                   }));
    }
    return best;
  }

  void Load(Encoding encoding, int q, Shape shape, int64_t group = 128) {
    shape_ = shape;
    group_ = group;
    linears_.clear();
    const RandomMatrix m(encoding, q, shape, group);
    const int copies = Copies(static_cast<double>(StoredBytes(m.view)));
    for (int i = 0; i < copies; ++i) {
      linears_.emplace_back();
      Check(CudaLinear::Create(m.view, nullptr, &linears_.back()));
    }
  }
  // Blocks and a few hundred bytes.
  uint64_t bytes() const { return linears_[0]->bytes() / 1024 * 1024; }

  double Product(int64_t m, Precision precision, const CudaMultiplyOptions& options) {
    const CudaActivations& a = Activate(m, precision);
    return Time(static_cast<int>(linears_.size()), [&](int i, cudaStream_t stream) {
      const CudaProduct product = {linears_[i].get(), y_.data(), shape_.n};
      Check(CudaMultiply(a, &product, 1, stream, options));
    });
  }

  void Once(int64_t m, Precision precision) {
    const CudaProduct product = {linears_[0].get(), y_.data(), shape_.n};
    Check(CudaMultiply(Activate(m, precision), &product, 1, nullptr));
    Check(cudaDeviceSynchronize());
  }

  // Activations and the product after them, both with programmatic launches.
  double Chain(int64_t m, Precision precision) {
    CudaActivations& a = Activate(m, precision);
    CudaMultiplyOptions options;
    options.programmatic = true;
    return Time(static_cast<int>(linears_.size()), [&](int i, cudaStream_t stream) {
      Check(a.PrepareRmsNorm(x_.data(), shape_.k, x_.data(), 1e-5f, m, stream));
      const CudaProduct product = {linears_[i].get(), y_.data(), shape_.n};
      Check(CudaMultiply(a, &product, 1, stream, options));
    });
  }

  double Preparation(int64_t k, int64_t m, Precision precision, int source) {
    shape_.k = k;
    group_ = 128;
    CudaActivations& a = Activate(m, precision);
    return Time(1, [&](int, cudaStream_t stream) {
      if (source == 0) Check(a.Prepare(x_.data(), k, m, stream));
      if (source == 1) Check(a.PrepareRmsNorm(x_.data(), k, x_.data(), 1e-5f, m, stream));
      if (source == 2) Check(a.PrepareSiluMul(x_.data(), x_.data() + k, k, m, stream));
    });
  }

  double CublasProduct(Shape shape, int64_t m, bool half_output = true) {
    if (cublas_ == nullptr) return 0;
    const size_t bytes = static_cast<size_t>(shape.n * shape.k) * 2;
    const int copies =
        std::min<int>(Copies(static_cast<double>(bytes)), static_cast<int>(memory_.size() / bytes));
    return Time(std::max(copies, 1), [&](int i, cudaStream_t stream) {
      cuda::HalfProduct p;
      p.x = x_.data();
      p.w = memory_.data() + i * bytes;
      p.y = y_.data();
      p.m = m;
      p.n = p.ldy = shape.n;
      p.k = p.ldx = p.ldw = shape.k;
      p.factor = scalars_.data();
      p.zero = scalars_.data() + 1;
      p.half_output = half_output;
      Check(cublas_->Multiply(p, stream));
    });
  }

 private:
  static std::vector<float> MakeInput() {
    std::vector<float> x = TestActivations(1 << 20, 3);
    const size_t size = kMaxTokens * kMaxInputs + kMaxInputs;
    while (x.size() < size) x.insert(x.end(), x.begin(), x.begin() + (1 << 20));
    return x;
  }

  CudaActivations& Activate(int64_t m, Precision precision) {
    auto& a = activations_[{shape_.k, group_, precision}];
    if (a == nullptr) {
      const std::vector<uint32_t> signs = Signs(shape_.k);
      Check(CudaActivations::Create(kMaxTokens, shape_.k, group_, precision, signs.data(), &a));
    }
    Check(a->Prepare(x_.data(), shape_.k, m, nullptr));
    Check(cudaDeviceSynchronize());
    return *a;
  }

  Shape shape_ = {};
  int64_t group_ = 128;
  DeviceVector<uint8_t> memory_;
  DeviceVector<uint32_t> sink_;
  DeviceVector<float> y_, x_, scalars_;
  std::unique_ptr<cuda::Cublas> cublas_;
  std::unique_ptr<CudaWorkspace> workspace_;
  std::map<uint64_t, double> floors_;
  std::vector<std::unique_ptr<CudaLinear>> linears_;
  std::map<std::tuple<int64_t, int64_t, Precision>, std::unique_ptr<CudaActivations>> activations_;
};

constexpr Precision kPrecisions[] = {Precision::kA8, Precision::kA16};
const char* Name(Precision p) { return p == Precision::kA8 ? "A8" : "A16"; }
const char* Name(Encoding e) { return e == Encoding::kBcqShift ? "shift" : "free+zeta"; }

std::string Cell(double us, double floor) {
  char text[64];
  std::snprintf(text, sizeof(text), "%8.2f (%3.0f%%)", us, 100 * floor / us);
  return text;
}

void PrintHead(const char* title) {
  std::printf("\n%-28s", title);
  for (const Shape& s : kShapes) {
    char name[32];
    std::snprintf(name, sizeof(name), "%ldx%ld", static_cast<long>(s.n), static_cast<long>(s.k));
    std::printf(" %15s", name);
  }
  std::printf("\n");
}

void Table(Bench* bench) {
  PrintHead("us (share of the floor)");
  for (const int64_t m : {1, 2, 4, 8, 16, 32}) {
    std::printf("cuBLAS fp16 M=%-14ld", static_cast<long>(m));
    for (const Shape& s : kShapes) std::printf(" %8.2f       ", bench->CublasProduct(s, m));
    std::printf("\n");
  }
  for (const Encoding encoding : {Encoding::kBcqShift, Encoding::kBcqFree}) {
    for (const int q : {2, 3, 4}) {
      std::map<std::string, std::string> rows;
      std::vector<std::string> order;
      const auto add = [&](const std::string& row, const std::string& cell) {
        if (rows.find(row) == rows.end()) order.push_back(row);
        rows[row] += " " + cell;
      };
      for (const Shape& s : kShapes) {
        bench->Load(encoding, q, s);
        const double floor = bench->Floor(bench->bytes());
        char text[64];
        std::snprintf(text, sizeof(text), "%8.2f %4.0fMB", floor,
                      static_cast<double>(bench->bytes()) / 1e6);
        add("floor", text);
        for (const Precision precision : kPrecisions) {
          for (const int64_t m : {1, 2, 4, 8, 16, 32}) {
            const std::string row = std::string(Name(precision)) + " M=" + std::to_string(m);
            add(row, Cell(bench->Product(m, precision, {}), floor));
            if (m == 1 || m == 8) {
              CudaMultiplyOptions options;
              options.programmatic = true;
              add(row + " pdl", Cell(bench->Product(m, precision, options), floor));
            }
          }
        }
      }
      for (const std::string& row : order) {
        const std::string label = "q" + std::to_string(q) + " " + Name(encoding) + " " + row;
        std::printf("%-28s%s\n", label.c_str(), rows[row].c_str());
      }
      std::fflush(stdout);
    }
  }
}

void Prompt(Bench* bench, Shape shape) {
  constexpr int64_t kTokens[] = {32, 64, 128, 256, 512, 1024};
  char title[32];
  std::snprintf(title, sizeof(title), "us, %ldx%ld, A8", static_cast<long>(shape.n),
                static_cast<long>(shape.k));
  std::printf("\n%-28s", title);
  for (const int64_t m : kTokens) std::printf(" %8s%-5ld", "M=", static_cast<long>(m));
  for (const bool half_output : {true, false}) {
    std::printf("\n%-28s", half_output ? "cuBLAS fp16" : "cuBLAS fp16, y in fp32");
    for (const int64_t m : kTokens) {
      std::printf(" %13.2f", bench->CublasProduct(shape, m, half_output));
    }
  }
  std::printf("\n");
  for (const Encoding encoding : {Encoding::kBcqShift, Encoding::kBcqFree}) {
    for (const int q : {2, 3, 4}) {
      bench->Load(encoding, q, shape);
      for (const auto& [path, name] :
           {std::pair{CudaPath::kAuto, ""}, std::pair{CudaPath::kInteger, "integer"},
            std::pair{CudaPath::kPrompt, "prompt"}, std::pair{CudaPath::kDense, "dense"}}) {
        std::printf("q%d %-9s %-14s ", q, Name(encoding), name);
        for (const int64_t m : kTokens) {
          if (path == CudaPath::kInteger && m > 256) continue;  // far behind by then
          CudaMultiplyOptions options;
          options.path = path;
          options.workspace = bench->workspace();
          std::printf(" %13.2f", bench->Product(m, Precision::kA8, options));
        }
        std::printf("\n");
      }
      std::fflush(stdout);
    }
  }
}

// Groups of 64.
void Groups(Bench* bench) {
  PrintHead("us (share), groups of 64, A8");
  for (const Encoding encoding : {Encoding::kBcqShift, Encoding::kBcqFree}) {
    for (const int q : {2, 3, 4}) {
      std::map<int64_t, std::string> rows;  // 0: the floor
      for (const Shape& s : kShapes) {
        bench->Load(encoding, q, s, 64);
        const double floor = bench->Floor(bench->bytes());
        rows[0] += " " + Cell(floor, floor);
        for (const int64_t m : {1, 8, 16}) {
          rows[m] += " " + Cell(bench->Product(m, Precision::kA8, {}), floor);
        }
      }
      for (const auto& [m, row] : rows) {
        const std::string name = m == 0 ? "floor" : "M=" + std::to_string(m);
        std::printf("q%d %-9s %-15s%s\n", q, Name(encoding), name.c_str(), row.c_str());
      }
      std::fflush(stdout);
    }
  }
}

// The paths on the int8 and on the fp16 tensor cores, side by side.
void Half(Bench* bench) {
  PrintHead("us, A8: int8 | fp16");
  for (const Encoding encoding : {Encoding::kBcqShift, Encoding::kBcqFree}) {
    for (const int q : {2, 3, 4}) {
      std::map<int64_t, std::string> rows;
      for (const Shape& s : kShapes) {
        bench->Load(encoding, q, s);
        for (const int64_t m : {1, 4, 8, 16, 32}) {
          CudaMultiplyOptions options;
          options.path = CudaPath::kInteger;
          const double integer = bench->Product(m, Precision::kA8, options);
          options.path = CudaPath::kHalf;
          char cell[64];
          std::snprintf(cell, sizeof(cell), " %7.2f|%7.2f", integer,
                        bench->Product(m, Precision::kA8, options));
          rows[m] += cell;
        }
      }
      for (const auto& [m, row] : rows) {
        std::printf("q%d %-9s M=%-13ld%s\n", q, Name(encoding), static_cast<long>(m), row.c_str());
      }
      std::fflush(stdout);
    }
  }
}

// What the size of the pieces does to dense products.
void Pieces(Bench* bench) {
  for (const Shape& shape : {kShapes[1], kShapes[3]}) {
    bench->Load(Encoding::kBcqShift, 3, shape);
    for (const int64_t m : {128, 256, 512, 1024}) {
      std::printf("%ldx%ld q3 shift M=%ld cuBLAS %.2f", static_cast<long>(shape.n),
                  static_cast<long>(shape.k), static_cast<long>(m), bench->CublasProduct(shape, m));
      for (const int mib : {12, 16, 24, 33, 48, 64, 96, 128, 256}) {
        bench->MakeWorkspace(static_cast<uint64_t>(mib) << 20);
        CudaMultiplyOptions options;
        options.path = CudaPath::kDense;
        options.workspace = bench->workspace();
        std::printf(" %dMiB %.2f", mib, bench->Product(m, Precision::kA8, options));
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  bench->MakeWorkspace(CudaWorkspace::kDefaultWeightBytes);
}

void Prepare(Bench* bench) {
  std::printf("\nus of the preparation alone   %8s %8s %8s %8s\n", "4096", "8192", "14336",
              "28672");
  constexpr const char* kSources[] = {"plain", "RMSNorm", "SiLU*up"};
  for (const Precision precision : kPrecisions) {
    for (int source = 0; source < 3; ++source) {
      for (const int64_t m : {1, 2, 4, 8, 16, 32}) {
        std::printf("%-8s %-3s M=%-14ld ", kSources[source], Name(precision), static_cast<long>(m));
        for (const int64_t k : {4096, 8192, 14336, 28672}) {
          std::printf(" %8.2f", bench->Preparation(k, m, precision, source));
        }
        std::printf("\n");
      }
    }
  }
  std::printf("\nRMSNorm, rotation, digits, then the product, both pdl; q3 shift\n");
  PrintHead("us");
  for (const Precision precision : kPrecisions) {
    std::printf("%-3s M=1                      ", Name(precision));
    for (const Shape& s : kShapes) {
      bench->Load(Encoding::kBcqShift, 3, s);
      std::printf(" %8.2f       ", bench->Chain(1, precision));
    }
    std::printf("\n");
  }
}

// Launch configurations: paths, warps, and thread blocks of a tile each or (+) that share the
// tiles, for the first `shapes` of kShapes.
void Sweep(Bench* bench, size_t shapes) {
  for (const Encoding encoding : {Encoding::kBcqShift, Encoding::kBcqFree}) {
    for (const int q : {2, 3, 4}) {
      for (size_t i = 0; i < shapes; ++i) {
        const Shape& s = kShapes[i];
        bench->Load(encoding, q, s);
        const double floor = bench->Floor(bench->bytes());
        for (const auto& [precision, m] :
             {std::pair{Precision::kA8, 1}, std::pair{Precision::kA8, 2},
              std::pair{Precision::kA8, 4}, std::pair{Precision::kA8, 8},
              std::pair{Precision::kA8, 16}, std::pair{Precision::kA16, 1},
              std::pair{Precision::kA16, 2}}) {
          const int columns = precision == Precision::kA8 ? m : 2 * m;
          std::printf("%ldx%ld q%d %s %s M=%d floor %.2f:", static_cast<long>(s.n),
                      static_cast<long>(s.k), q, Name(encoding), Name(precision), m, floor);
          for (const auto& [path, name] :
               {std::pair{CudaPath::kBinary, "binary"}, std::pair{CudaPath::kInteger, "integer"}}) {
            if (path == CudaPath::kBinary ? columns > 4 : columns == 1) continue;
            std::printf(" %s", name);
            for (const int warps : {2, 4, 8, 16}) {
              if (path != CudaPath::kBinary && warps > 8) continue;
              CudaMultiplyOptions options;
              options.path = path;
              options.warps = warps;
              options.blocks = 1 << 20;
              std::printf(" %dw %.2f", warps, bench->Product(m, precision, options));
              if (m == 1) {
                options.programmatic = true;
                std::printf(" pdl %.2f", bench->Product(m, precision, options));
                options.programmatic = false;
              }
              if (s.n / 16 * warps < 132 * 16) continue;  // all run at the same time
              options.blocks = -1;
              std::printf(" + %.2f", bench->Product(m, precision, options));
            }
          }
          std::printf("\n");
        }
        std::fflush(stdout);
      }
    }
  }
}

// A few launches for a profiler, 28672x8192, A8.
void Profile(Bench* bench) {
  for (const Encoding encoding : {Encoding::kBcqShift, Encoding::kBcqFree}) {
    for (const int q : {2, 4}) {
      bench->Load(encoding, q, kShapes[4]);
      for (const int64_t m : {1, 2, 4, 8, 16, 32}) bench->Once(m, Precision::kA8);
    }
  }
}

void PrintDevice() {
  const CudaStatus status = CudaAvailable();
  if (!status.ok()) throw std::runtime_error(status.message);
  int runtime = 0, driver = 0;
  Check(cudaRuntimeGetVersion(&runtime));
  Check(cudaDriverGetVersion(&driver));
  char date[64];
  const time_t now = time(nullptr);
  strftime(date, sizeof(date), "%Y-%m-%d %H:%M UTC", gmtime(&now));
  std::printf("%s\n%s; CUDA runtime %d, driver's CUDA %d\n", date, CudaBuildInfo(), runtime,
              driver);
  std::fflush(stdout);
  if (std::system("nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,"
                  "power.limit,temperature.gpu --format=csv") != 0) {
    std::printf("nvidia-smi is not here: clocks and driver unknown\n");
  }
}

int Main(int argc, char** argv) {
  PrintDevice();
  Bench bench;
  std::vector<std::string> parts(argv + 1, argv + argc);
  if (parts.empty()) parts = {"table", "half", "groups", "prompt", "prepare"};
  for (const std::string& part : parts) {
    if (part == "table") {
      Table(&bench);
    } else if (part == "prompt") {
      Prompt(&bench, kShapes[1]);
      Prompt(&bench, kShapes[3]);
    } else if (part == "groups") {
      Groups(&bench);
    } else if (part == "half") {
      Half(&bench);
    } else if (part == "pieces") {
      Pieces(&bench);
    } else if (part == "prepare") {
      Prepare(&bench);
    } else if (part == "sweep") {
      Sweep(&bench, std::size(kShapes));
    } else if (part == "small") {
      Sweep(&bench, 1);
    } else if (part == "profile") {
      Profile(&bench);
    } else {
      std::fprintf(stderr,
                   "unknown part %s, expected table, half, groups, prompt, prepare, sweep, small, "
                   "pieces or profile\n",
                   part.c_str());
      return 2;
    }
  }
  std::printf("\nafter the run: ");
  std::fflush(stdout);
  return std::system(
             "nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw "
             "--format=csv,noheader") == 0
             ? 0
             : 1;
}

}  // namespace
}  // namespace shiftadd::kernels

int main(int argc, char** argv) {
  try {
    return shiftadd::kernels::Main(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
