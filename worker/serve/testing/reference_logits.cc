// The architecture by its definition, in double, one token and one head at a time.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd::testing {
namespace {

using Vector = std::vector<double>;

class Reference {
 public:
  explicit Reference(const TinyPackage& package)
      : spec_(package.spec),
        weights_(package.weights),
        keys_(spec_.blocks),
        values_(spec_.blocks) {}

  Vector Logits(int32_t token) {
    const auto& embed = weights_.at("embed");
    Vector h(embed.begin() + token * spec_.hidden, embed.begin() + (token + 1) * spec_.hidden);
    for (int64_t b = 0; b < spec_.blocks; ++b) {
      const std::string block = absl::StrCat("blocks.", b, ".");
      AddTo(&h, Linear(block + "attn.o", Attention(b, Norm(block + "attn_norm", h))));
      const Vector x = Norm(block + "mlp_norm", h);
      Vector gate = Linear(block + "mlp.gate", x);
      const Vector up = Linear(block + "mlp.up", x);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      AddTo(&h, Linear(block + "mlp.down", gate));
    }
    ++position_;
    return Linear(spec_.tied_embeddings ? "embed" : "head", Norm("final_norm", h));
  }

 private:
  static void AddTo(Vector* x, const Vector& y) {
    for (size_t i = 0; i < x->size(); ++i) (*x)[i] += y[i];
  }

  Vector Linear(const std::string& name, const Vector& x) const {
    const auto& w = weights_.at(name);
    const auto bias = weights_.find(name + ".bias");
    Vector y(w.size() / x.size());
    for (size_t n = 0; n < y.size(); ++n) {
      y[n] = bias == weights_.end() ? 0 : bias->second[n];
      for (size_t k = 0; k < x.size(); ++k) y[n] += x[k] * w[n * x.size() + k];
    }
    return y;
  }

  Vector Norm(const std::string& name, const Vector& x) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + spec_.norm_eps);
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * weights_.at(name)[i];
    return y;
  }

  void Rope(Vector* x) const {
    const std::vector<double> frequencies = RopeInverseFrequencies(spec_);
    const size_t half = frequencies.size();
    for (size_t head = 0; head < x->size(); head += 2 * half) {
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position_) * frequencies[i];
        double& a = (*x)[head + i];
        double& b = (*x)[head + half + i];
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = rotated;
      }
    }
  }

  Vector Attention(int64_t b, const Vector& x) {
    const std::string block = absl::StrCat("blocks.", b, ".attn.");
    Vector q = Linear(block + "q", x), k = Linear(block + "k", x);
    Rope(&q);
    Rope(&k);
    keys_[b].push_back(k);
    values_[b].push_back(Linear(block + "v", x));
    Vector out(q.size());
    const int64_t d = spec_.head_dim;
    for (int64_t h = 0; h < spec_.heads; ++h) {
      const int64_t kv = h / (spec_.heads / spec_.kv_heads) * d;
      Vector scores;
      for (const Vector& key : keys_[b]) {
        double dot = 0;
        for (int64_t i = 0; i < d; ++i) dot += q[h * d + i] * key[kv + i];
        scores.push_back(dot / std::sqrt(static_cast<double>(d)));
      }
      const double top = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s - top);
      for (size_t t = 0; t < scores.size(); ++t) {
        for (int64_t i = 0; i < d; ++i) out[h * d + i] += scores[t] / sum * values_[b][t][kv + i];
      }
    }
    return out;
  }

  const ArchitectureSpec& spec_;
  const std::map<std::string, std::vector<float>>& weights_;
  std::vector<std::vector<Vector>> keys_, values_;  // by block and position
  int64_t position_ = 0;
};

}  // namespace

std::vector<double> ReferenceLogits(const TinyPackage& package,
                                    const std::vector<int32_t>& tokens) {
  Reference reference(package);
  std::vector<double> logits;
  for (const int32_t token : tokens) {
    const Vector row = reference.Logits(token);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

}  // namespace shiftadd::testing
