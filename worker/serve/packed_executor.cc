#include "worker/serve/packed_executor.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// Bounds the buffers; a longer prompt goes through in several steps.
constexpr int64_t kStepRows = 128;

void Grow(std::vector<float>* v, int64_t size) {
  if (static_cast<int64_t>(v->size()) < size) v->resize(static_cast<size_t>(size));
}

uint64_t Bytes(const ExecutorWeights& weights) {
  uint64_t sum = weights.final_norm.size() * sizeof(float) + weights.head.bytes();
  if (weights.embed) sum += weights.embed->bytes();
  for (const ExecutorBlock& b : weights.blocks) {
    sum += (b.attn_norm.size() + b.mlp_norm.size()) * sizeof(float);
    sum += b.qkv.bytes() + b.o.bytes() + b.gate_up.bytes() + b.down.bytes();
  }
  return sum;
}

}  // namespace

PackedExecutor::PackedExecutor(const ArchitectureSpec& spec, ExecutorWeights weights,
                               const PackedModelOptions& options)
    : spec_(spec),
      weights_(std::move(weights)),
      isa_(options.isa),
      ops_(VectorOpsFor(options.isa)),
      pool_(options.threads > 0 ? options.threads : UsableThreads()),
      weight_bytes_(Bytes(weights_)),
      inverse_frequencies_(RopeInverseFrequencies(spec)),
      scores_(static_cast<size_t>(pool_.threads())) {}

std::unique_ptr<KvCache> PackedExecutor::NewCache(int64_t capacity) const {
  return std::make_unique<PagedKvCache>(spec_, capacity, pages_);
}

absl::Status PackedExecutor::Forward(const std::vector<int32_t>& tokens, KvCache* cache,
                                     bool all_logits, std::vector<float>* logits) {
  std::vector<BatchRow> rows;
  rows.reserve(tokens.size());
  for (const int32_t token : tokens) rows.push_back({token, cache, all_logits});
  if (!rows.empty()) rows.back().logits = true;
  return ForwardBatch(rows, logits);
}

absl::Status PackedExecutor::Check(const std::vector<BatchRow>& rows) const {
  std::unordered_map<const KvCache*, int64_t> appended;
  for (size_t i = 0; i < rows.size(); ++i) {
    const BatchRow& row = rows[i];
    if (row.token < 0 || row.token >= spec_.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", row.token, " at position ", i,
                                                     " is not in the vocabulary [0, ", spec_.vocab,
                                                     ")"));
    }
    const auto* cache = dynamic_cast<const PagedKvCache*>(row.cache);
    if (cache == nullptr || !cache->Fits(spec_)) {
      return absl::InvalidArgumentError("the cache belongs to another model");
    }
    int64_t& count = appended[row.cache];
    if (count > 0 && rows[i - 1].cache != row.cache) {
      return absl::InvalidArgumentError("the rows of a cache do not stand together");
    }
    if (cache->length() + ++count > cache->capacity()) {
      return absl::OutOfRangeError(absl::StrCat("the cache is full: it holds ", cache->length(),
                                                " of ", cache->capacity(), " tokens and ", count,
                                                " more are to come"));
    }
  }
  return absl::OkStatus();
}

absl::Status PackedExecutor::ForwardBatch(const std::vector<BatchRow>& rows,
                                          std::vector<float>* logits) {
  logits->clear();
  if (absl::Status status = Check(rows); !status.ok()) return status;
  const int64_t count = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < count; begin += kStepRows) {
    Step(rows.data() + begin, std::min(kStepRows, count - begin), logits);
  }
  return absl::OkStatus();
}

void PackedExecutor::PlanStep(const BatchRow* rows, int64_t count) {
  rows_ = count;
  runs_.clear();
  tiles_.clear();
  run_of_row_.resize(count);
  position_.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    auto* cache = static_cast<PagedKvCache*>(rows[i].cache);
    if (runs_.empty() || runs_.back().cache != cache) runs_.push_back({cache, i, i});
    runs_.back().end = i + 1;
    run_of_row_[i] = static_cast<int32_t>(runs_.size()) - 1;
    position_[i] = cache->length() + (i - runs_.back().begin);
  }
  longest_ = 0;
  const int64_t share = spec_.heads / spec_.kv_heads;
  for (size_t r = 0; r < runs_.size(); ++r) {
    const Run& run = runs_[r];
    const int64_t length = run.cache->length() + run.end - run.begin;
    run.cache->Reserve(length);
    longest_ = std::max(longest_, length);
    const int64_t queries = (run.end - run.begin) * share;
    for (int64_t h = 0; h < spec_.kv_heads; ++h) {
      for (int64_t q = 0; q < queries; q += kTileRows) {
        const int n = static_cast<int>(std::min<int64_t>(kTileRows, queries - q));
        tiles_.push_back({static_cast<int>(r), h, q, n});
      }
    }
  }
  GrowRope(longest_);
}

void PackedExecutor::GrowRope(int64_t positions) {
  const int64_t half = static_cast<int64_t>(inverse_frequencies_.size());
  const int64_t known = half == 0 ? positions : static_cast<int64_t>(cos_.size()) / half;
  if (positions <= known) return;
  positions = (positions + 255) / 256 * 256;
  cos_.resize(positions * half);
  sin_.resize(positions * half);
  for (int64_t p = known; p < positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * inverse_frequencies_[i];
      cos_[p * half + i] = static_cast<float>(std::cos(angle));
      sin_[p * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void PackedExecutor::Step(const BatchRow* rows, int64_t count, std::vector<float>* logits) {
  PlanStep(rows, count);
  Grow(&hidden_, count * spec_.hidden);
  Grow(&normed_, count * spec_.hidden);
  Grow(&qkv_, count * (spec_.q_rows() + 2 * spec_.kv_rows()));
  Grow(&attended_, count * spec_.q_rows());
  Grow(&gate_up_, count * 2 * spec_.intermediate);
  Grow(&activated_, count * spec_.intermediate);
  Grow(&delta_, count * spec_.hidden);
  const Linear& embed = weights_.embed ? *weights_.embed : weights_.head.linear(0);
  for (int64_t i = 0; i < count; ++i) {
    embed.GatherRow(rows[i].token, hidden_.data() + i * spec_.hidden);
  }
  for (int64_t b = 0; b < spec_.blocks; ++b) Block(b);
  for (const Run& run : runs_) run.cache->SetLength(run.cache->length() + run.end - run.begin);
  Head(rows, count, logits);
}

// Rotates q and k of one token and puts k and v into its cache.
void PackedExecutor::RotateAndStore(int64_t b, int64_t row) {
  const int64_t half = static_cast<int64_t>(inverse_frequencies_.size());
  const float* cos = cos_.data() + position_[row] * half;
  const float* sin = sin_.data() + position_[row] * half;
  float* q = qkv_.data() + row * (spec_.q_rows() + 2 * spec_.kv_rows());
  for (int64_t h = 0; h < spec_.heads + spec_.kv_heads; ++h) {  // k follows q
    ops_.rope(q + h * spec_.head_dim, cos, sin, half);
  }
  const float* k = q + spec_.q_rows();
  runs_[run_of_row_[row]].cache->Store(b, position_[row], k, k + spec_.kv_rows());
}

void PackedExecutor::AttendTile(int64_t b, const Tile& tile, float* scratch) {
  const Run& run = runs_[tile.run];
  const int64_t share = spec_.heads / spec_.kv_heads;
  const int64_t width = spec_.q_rows() + 2 * spec_.kv_rows();
  AttentionTile work;
  work.rows = tile.count;
  for (int r = 0; r < tile.count; ++r) {
    const int64_t row = run.begin + (tile.first + r) / share;
    const int64_t head = tile.kv_head * share + (tile.first + r) % share;
    work.query[r] = qkv_.data() + row * width + head * spec_.head_dim;
    work.out[r] = attended_.data() + row * spec_.q_rows() + head * spec_.head_dim;
    work.length[r] = position_[row] + 1;
  }
  work.keys = run.cache->Keys(b, tile.kv_head);
  work.values = run.cache->Values(b, tile.kv_head);
  work.head_dim = spec_.head_dim;
  work.value_stride = run.cache->value_stride();
  work.scratch = scratch;
  work.score_stride = (longest_ + kPageTokens - 1) / kPageTokens * kPageTokens;
  ops_.attend(work);
}

void PackedExecutor::Attention(int64_t b) {
  pool_.For(rows_, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) RotateAndStore(b, i);
  });
  const int64_t padded = (longest_ + kPageTokens - 1) / kPageTokens * kPageTokens;
  const int64_t tiles = static_cast<int64_t>(tiles_.size());
  // A few keys are done before another thread is awake.
  const int64_t grain =
      rows_ * longest_ < 256 ? tiles : std::max<int64_t>(1, tiles / (pool_.threads() * 8));
  pool_.For(tiles, grain, [&](int64_t begin, int64_t end, int thread) {
    std::vector<float>& scores = scores_[thread];
    Grow(&scores, kTileRows * padded);
    for (int64_t t = begin; t < end; ++t) AttendTile(b, tiles_[t], scores.data());
  });
}

void PackedExecutor::Block(int64_t b) {
  const ExecutorBlock& block = weights_.blocks[b];
  const int64_t n = spec_.hidden;
  const auto row = [](std::vector<float>& v, int64_t i, int64_t width) {
    return v.data() + i * width;
  };
  const auto run = [&](const LinearGroup& group, const std::function<void(int64_t)>& produce,
                       const std::vector<float>& x, std::vector<float>* y) {
    group.Run(produce, x.data(), rows_, y->data(), ops_, isa_, &pool_, &scratch_);
  };
  run(
      block.qkv,
      [&](int64_t i) {
        // The MLP of the block before is added here, in the same pass.
        if (b > 0) ops_.add(row(hidden_, i, n), row(delta_, i, n), n);
        ops_.rms_norm(row(hidden_, i, n), block.attn_norm.data(), spec_.norm_eps, n,
                      row(normed_, i, n));
      },
      normed_, &qkv_);
  Attention(b);
  run(
      block.o, [](int64_t) {}, attended_, &delta_);
  run(
      block.gate_up,
      [&](int64_t i) {
        ops_.add(row(hidden_, i, n), row(delta_, i, n), n);
        ops_.rms_norm(row(hidden_, i, n), block.mlp_norm.data(), spec_.norm_eps, n,
                      row(normed_, i, n));
      },
      normed_, &gate_up_);
  const int64_t inner = spec_.intermediate;
  run(
      block.down,
      [&](int64_t i) {
        const float* gate = row(gate_up_, i, 2 * inner);
        ops_.silu_mul(gate, gate + inner, inner, row(activated_, i, inner));
      },
      activated_, &delta_);
}

void PackedExecutor::Head(const BatchRow* rows, int64_t count, std::vector<float>* logits) {
  std::vector<int64_t> wanted;
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i].logits) wanted.push_back(i);
  }
  if (wanted.empty()) return;
  const int64_t n = spec_.hidden;
  const size_t old = logits->size();
  logits->resize(old + wanted.size() * static_cast<size_t>(spec_.vocab));
  weights_.head.Run(
      [&](int64_t w) {
        float* x = hidden_.data() + wanted[w] * n;
        ops_.add(x, delta_.data() + wanted[w] * n, n);
        ops_.rms_norm(x, weights_.final_norm.data(), spec_.norm_eps, n, normed_.data() + w * n);
      },
      normed_.data(), static_cast<int64_t>(wanted.size()), logits->data() + old, ops_, isa_, &pool_,
      &scratch_);
}

}  // namespace shiftadd
