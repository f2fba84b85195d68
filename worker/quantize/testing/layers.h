// Small layers with correlated inputs, and a reader of layer blobs, for the tests of the quantizer.
#ifndef SHIFTADD_WORKER_QUANTIZE_TESTING_LAYERS_H_
#define SHIFTADD_WORKER_QUANTIZE_TESTING_LAYERS_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/packed_matrix.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd::quantize::testing {

inline std::vector<float> GaussianWeights(int64_t n, int64_t k, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> w(n * k);
  for (float& x : w) x = normal(engine);
  return w;
}

// H of inputs that share a few strong directions and differ in size, as activations do.
inline HessianMatrix CorrelatedHessian(int64_t k, uint32_t seed) {
  constexpr int64_t kTokens = 512, kDirections = 8;
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> mix(kDirections * k), size(k);
  for (double& x : mix) x = normal(engine);
  for (double& x : size) x = std::exp(0.7 * normal(engine));
  HessianMatrix h;
  h.k = k;
  h.tokens = kTokens;
  h.h.assign(k * k, 0.0);
  std::vector<double> x(k), z(kDirections);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (double& value : z) value = normal(engine);
    for (int64_t i = 0; i < k; ++i) {
      x[i] = normal(engine);
      for (int64_t d = 0; d < kDirections; ++d) x[i] += mix[d * k + i] * z[d];
      x[i] *= size[i];
    }
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) h.h[i * k + j] += x[i] * x[j] / kTokens;
    }
  }
  return h;
}

inline QuantRecipe Recipe(QuantMethod method) {
  QuantRecipe recipe;
  recipe.method = method;
  if (method != QuantMethod::kShiftAdd) recipe.rotation = QuantRotation::kNone;
  if (method == QuantMethod::kLat || method == QuantMethod::kAcc) recipe.rounds = 50;
  if (method == QuantMethod::kOptq) recipe.order = QuantOrder::kGar;
  recipe.hessian = method == QuantMethod::kShiftAdd ? QuantHessian::kGuided : QuantHessian::kPlain;
  return recipe;
}

inline absl::StatusOr<std::vector<Candidate>> Quantize(const std::vector<float>& w, int64_t n,
                                                       int64_t k, const HessianMatrix& h,
                                                       const QuantRecipe& recipe,
                                                       const std::vector<int>& bits,
                                                       int threads = 2) {
  auto prepared = PreparedHessian::Create(h, recipe);
  if (!prepared.ok()) return prepared.status();
  return QuantizeLayer("blocks.0.attn.q", w, n, k, {*prepared}, recipe, bits, threads, nullptr);
}

// A layer blob, parsed on the test's own terms; throws if it is not what package_format.h says.
class LayerBlob {
 public:
  LayerBlob(const std::string& blob, uint64_t seed) {
    uint64_t size;
    std::memcpy(&size, blob.data(), 8);
    const nlohmann::json header = nlohmann::json::parse(blob.substr(8, size));
    meta_ = header.at("__metadata__");
    const auto number = [&](const char* key) {
      return std::stoll(meta_.at(key).get<std::string>());
    };
    const auto load = [&](const char* name, auto* out) {
      const auto offsets = header.at(name).at("data_offsets");
      const size_t begin = offsets[0], end = offsets[1];
      out->resize((end - begin) / sizeof((*out)[0]));
      std::memcpy(out->data(), blob.data() + 8 + size + begin, end - begin);
      return out->data();
    };
    const std::string encoding = meta_.at("encoding");
    if (encoding == "raw") {
      LoadRaw(header, blob.data() + 8 + size);
      return;
    }
    m_.n = number("rows");
    m_.k = number("cols");
    m_.group = number("group");
    m_.q = static_cast<int>(number("q"));
    m_.planes = load("planes", &planes_);
    if (encoding == "bcq/shift") {
      m_.encoding = kernels::Encoding::kBcqShift;
      m_.scale = load("scale", &scale_);
      m_.exponents = load("exponents", &exponents_);
      m_.table = kernels::DefaultExponentTable(m_.q);
    } else if (encoding == "bcq/free") {
      m_.encoding = kernels::Encoding::kBcqFree;
      m_.alpha = load("alpha", &alpha_);
    } else if (encoding == "bcq/block8") {
      m_.encoding = kernels::Encoding::kBcqBlock8;
      m_.alpha = load("alpha", &alpha_);
      m_.block_rows = number("block_rows");
    } else {
      throw std::runtime_error(encoding);
    }
    if (header.contains("zeta")) m_.zeta = load("zeta", &zeta_);
    if (meta_.at("rotation") == "wht128") {
      m_.rotation = kernels::Rotation::kWht128;
      signs_ = RotationSigns(seed, m_.k);
      m_.signs = signs_.data();
    }
    if (const std::string wrong = kernels::Validate(m_); !wrong.empty())
      throw std::runtime_error(wrong);
  }
  LayerBlob(const LayerBlob&) = delete;
  LayerBlob& operator=(const LayerBlob&) = delete;

  const kernels::PackedMatrix& matrix() const { return m_; }
  const nlohmann::json& metadata() const { return meta_; }
  std::vector<float> Weights() const {
    if (!raw_.empty()) return raw_;
    std::vector<float> w(m_.n * m_.k);
    kernels::DequantizeUnrotated(m_, 0, m_.n, w.data());
    return w;
  }

 private:
  void LoadRaw(const nlohmann::json& header, const char* data) {
    m_.n = std::stoll(meta_.at("rows").get<std::string>());
    m_.k = std::stoll(meta_.at("cols").get<std::string>());
    const nlohmann::json& weight = header.at("weight");
    if (weight.at("dtype") != "F16") throw std::runtime_error("weight is no F16");
    std::vector<uint16_t> halves(m_.n * m_.k);
    std::memcpy(halves.data(), data + weight.at("data_offsets")[0].get<size_t>(),
                halves.size() * 2);
    for (const uint16_t h : halves) raw_.push_back(kernels::HalfToFloat(h));
  }

  std::vector<float> raw_;
  nlohmann::json meta_;
  kernels::PackedMatrix m_;
  std::vector<uint32_t> planes_, signs_;
  std::vector<uint16_t> scale_, alpha_, zeta_;
  std::vector<uint8_t> exponents_;
};

// tr(D H D^T), float64.
inline double QuadraticError(const std::vector<float>& a, const std::vector<float>& b, int64_t n,
                             const HessianMatrix& h) {
  double sum = 0.0;
  std::vector<double> d(h.k);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t i = 0; i < h.k; ++i) d[i] = static_cast<double>(a[r * h.k + i]) - b[r * h.k + i];
    for (int64_t i = 0; i < h.k; ++i) {
      double y = 0.0;
      for (int64_t j = 0; j < h.k; ++j) y += h.h[i * h.k + j] * d[j];
      sum += d[i] * y;
    }
  }
  return sum;
}

}  // namespace shiftadd::quantize::testing

#endif  // SHIFTADD_WORKER_QUANTIZE_TESTING_LAYERS_H_
