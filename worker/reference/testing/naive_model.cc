#include "worker/reference/testing/naive_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "absl/strings/str_cat.h"

namespace shiftadd::testing {
namespace {

using Rows = std::vector<std::vector<double>>;  // [tokens][width]

std::vector<double> Get(const WeightProvider& w, const std::string& name) {
  const std::vector<float> values = w.Read(name).value();
  return {values.begin(), values.end()};
}

Rows Project(const WeightProvider& w, const std::string& name, const Rows& x,
             const NaiveHook& hook) {
  const std::vector<double> m = Get(w, name);
  const size_t in = x[0].size(), out = m.size() / in;
  const std::vector<double> bias =
      w.Has(name + ".bias") ? Get(w, name + ".bias") : std::vector<double>(out, 0.0);
  Rows y(x.size(), bias);
  for (size_t t = 0; t < x.size(); ++t) {
    for (size_t n = 0; n < out; ++n) {
      for (size_t k = 0; k < in; ++k) y[t][n] += m[n * in + k] * x[t][k];
    }
  }
  if (hook) hook(name, &y);
  return y;
}

Rows Norm(const WeightProvider& w, const std::string& name, const Rows& x) {
  const std::vector<double> gain = Get(w, name);
  Rows y = x;
  for (std::vector<double>& row : y) {
    double square = 0;
    for (double v : row) square += v * v;
    const double rms = std::sqrt(square / static_cast<double>(row.size()) + w.spec().norm_eps);
    for (size_t i = 0; i < row.size(); ++i) row[i] *= gain[i] / rms;
  }
  return y;
}

// Wavelengths as LLaMA-3 scales them, or divided evenly, or as they are.
double Frequency(const ArchitectureSpec& s, int64_t i) {
  const double f =
      std::pow(s.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(s.head_dim));
  if (s.rope_scaling == RopeScaling::kLinear) return f / s.rope_factor;
  if (s.rope_scaling == RopeScaling::kNone) return f;
  const double wavelength = 2 * std::numbers::pi / f,
               context = static_cast<double>(s.rope_original_context);
  if (wavelength > context / s.rope_low_freq_factor) return f / s.rope_factor;
  if (wavelength < context / s.rope_high_freq_factor) return f;
  const double smooth = (context / wavelength - s.rope_low_freq_factor) /
                        (s.rope_high_freq_factor - s.rope_low_freq_factor);
  return (1 - smooth) * f / s.rope_factor + smooth * f;
}

void Rope(const ArchitectureSpec& s, int64_t heads, Rows* x) {
  const int64_t half = s.head_dim / 2;
  for (size_t t = 0; t < x->size(); ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        double& a = (*x)[t][h * s.head_dim + i];
        double& b = (*x)[t][h * s.head_dim + half + i];
        const double angle = static_cast<double>(t) * Frequency(s, i);
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = rotated;
      }
    }
  }
}

Rows Attend(const ArchitectureSpec& s, const Rows& q, const Rows& k, const Rows& v) {
  Rows out(q.size(), std::vector<double>(s.q_rows(), 0.0));
  for (size_t t = 0; t < q.size(); ++t) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t kv = h * s.kv_heads / s.heads;
      std::vector<double> p(t + 1, 0.0);
      for (size_t u = 0; u <= t; ++u) {
        for (int64_t i = 0; i < s.head_dim; ++i)
          p[u] += q[t][h * s.head_dim + i] * k[u][kv * s.head_dim + i];
        p[u] /= std::sqrt(static_cast<double>(s.head_dim));
      }
      p = NaiveLogSoftmax(p.data(), static_cast<int64_t>(p.size()));
      for (size_t u = 0; u <= t; ++u) {
        for (int64_t i = 0; i < s.head_dim; ++i) {
          out[t][h * s.head_dim + i] += std::exp(p[u]) * v[u][kv * s.head_dim + i];
        }
      }
    }
  }
  return out;
}

void Add(const Rows& x, Rows* h) {
  for (size_t t = 0; t < x.size(); ++t) {
    for (size_t i = 0; i < x[t].size(); ++i) (*h)[t][i] += x[t][i];
  }
}

void Block(const WeightProvider& w, int64_t block, Rows* h, const NaiveHook& hook) {
  const std::string prefix = absl::StrCat("blocks.", block, ".");
  const auto project = [&](const char* name, const Rows& input) {
    return Project(w, prefix + name, input, hook);
  };
  Rows x = Norm(w, prefix + "attn_norm", *h);
  Rows q = project("attn.q", x), k = project("attn.k", x);
  Rope(w.spec(), w.spec().heads, &q);
  Rope(w.spec(), w.spec().kv_heads, &k);
  Add(project("attn.o", Attend(w.spec(), q, k, project("attn.v", x))), h);
  x = Norm(w, prefix + "mlp_norm", *h);
  Rows gate = project("mlp.gate", x);
  const Rows up = project("mlp.up", x);
  for (size_t t = 0; t < gate.size(); ++t) {
    for (size_t i = 0; i < gate[t].size(); ++i)
      gate[t][i] *= up[t][i] / (1 + std::exp(-gate[t][i]));
  }
  Add(project("mlp.down", gate), h);
  if (hook) hook(absl::StrCat("blocks.", block), h);
}

}  // namespace

std::vector<double> NaiveLogSoftmax(const double* logits, int64_t n) {
  const double max = *std::max_element(logits, logits + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(logits[i] - max);
  std::vector<double> out(logits, logits + n);
  for (double& v : out) v -= max + std::log(sum);
  return out;
}

std::vector<double> NaiveLogits(const WeightProvider& w, const std::vector<int32_t>& tokens,
                                const NaiveHook& hook) {
  const std::vector<double> embed = Get(w, "embed");
  const int64_t hidden = w.spec().hidden;
  Rows h;
  for (int32_t token : tokens)
    h.emplace_back(embed.begin() + token * hidden, embed.begin() + (token + 1) * hidden);
  for (int64_t block = 0; block < w.spec().blocks; ++block) Block(w, block, &h, hook);
  std::vector<double> logits;
  for (const std::vector<double>& row :
       Project(w, w.spec().tied_embeddings ? "embed" : "head", Norm(w, "final_norm", h), hook)) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

double NaiveLoss(const WeightProvider& w, const std::vector<int32_t>& tokens,
                 const NaiveHook& hook) {
  const std::vector<double> logits = NaiveLogits(w, tokens, hook);
  const int64_t vocab = w.spec().vocab;
  double loss = 0;
  for (size_t t = 0; t + 1 < tokens.size(); ++t)
    loss -= NaiveLogSoftmax(logits.data() + t * vocab, vocab)[tokens[t + 1]];
  return loss;
}

}  // namespace shiftadd::testing
