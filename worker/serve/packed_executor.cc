#include "worker/serve/packed_executor.h"

#include <algorithm>
#include <cmath>
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

absl::Status PackedExecutor::Check(const std::vector<BatchRow>& rows) {
  runs_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    const BatchRow& row = rows[i];
    const int64_t at = static_cast<int64_t>(i);
    if (row.token < 0 || row.token >= spec_.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", row.token, " at position ", i,
                                                     " is not in the vocabulary [0, ", spec_.vocab,
                                                     ")"));
    }
    if (runs_.empty() || runs_.back().cache != row.cache) {
      auto* cache = dynamic_cast<PagedKvCache*>(row.cache);
      if (cache == nullptr || !cache->Fits(spec_)) {
        return absl::InvalidArgumentError("the cache belongs to another model");
      }
      // Sequences are few.
      for (const Run& run : runs_) {
        if (run.cache == cache) {
          return absl::InvalidArgumentError("the rows of a cache do not stand together");
        }
      }
      runs_.push_back({cache, at, at});
    }
    Run& run = runs_.back();
    run.end = at + 1;
    if (run.cache->length() + run.end - run.begin > run.cache->capacity()) {
      return absl::OutOfRangeError(absl::StrCat("the cache is full: it holds ", run.cache->length(),
                                                " of ", run.cache->capacity(), " tokens and ",
                                                run.end - run.begin, " more are to come"));
    }
  }
  return absl::OkStatus();
}

absl::Status PackedExecutor::ForwardBatch(const std::vector<BatchRow>& rows,
                                          std::vector<float>* logits) {
  if (absl::Status status = Check(rows); !status.ok()) {
    logits->clear();
    return status;
  }
  const int64_t wanted =
      std::count_if(rows.begin(), rows.end(), [](const BatchRow& row) { return row.logits; });
  logits->resize(static_cast<size_t>(wanted * spec_.vocab));  // kept from call to call: no zeroing
  float* out = logits->data();
  const int64_t count = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < count; begin += kStepRows) {
    Step(rows.data() + begin, std::min(kStepRows, count - begin), &out);
  }
  return absl::OkStatus();
}

void PackedExecutor::PlanStep(const BatchRow* rows, int64_t count) {
  runs_.clear();
  tiles_.clear();
  wanted_.clear();
  run_of_row_.resize(count);
  position_.resize(count);
  token_.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    auto* cache = static_cast<PagedKvCache*>(rows[i].cache);
    if (runs_.empty() || runs_.back().cache != cache) runs_.push_back({cache, i, i});
    runs_.back().end = i + 1;
    run_of_row_[i] = static_cast<int32_t>(runs_.size()) - 1;
    position_[i] = cache->length() + (i - runs_.back().begin);
    token_[i] = rows[i].token;
    if (rows[i].logits) wanted_.push_back(i);
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
  for (std::vector<float>& scores : scores_) {
    Grow(&scores, kTileRows * ((longest_ + kPageTokens - 1) / kPageTokens * kPageTokens));
  }
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

void PackedExecutor::PlanLinear(int64_t block, const LinearGroup& group, const float* x, float* y,
                                int64_t rows) {
  group.Reserve(rows, &scratch_);
  loops_.push_back(group.PrepareLoop(rows));
  work_.push_back({Op::kPrepare, block, &group, x, y, rows});
  loops_.push_back(group.MultiplyLoop(rows, pool_.threads()));
  work_.push_back({Op::kMultiply, block, &group, x, y, rows});
}

void PackedExecutor::PlanLoops(float* logits) {
  loops_.clear();
  work_.clear();
  const int64_t rows = static_cast<int64_t>(token_.size());
  const int64_t tiles = static_cast<int64_t>(tiles_.size());
  // A few keys are done before another thread is awake.
  const int64_t grain =
      rows * longest_ < 256 ? tiles : std::max<int64_t>(1, tiles / (pool_.threads() * 8));
  for (int64_t b = 0; b < spec_.blocks; ++b) {
    const ExecutorBlock& block = weights_.blocks[b];
    PlanLinear(b, block.qkv, normed_.data(), qkv_.data(), rows);
    loops_.push_back({rows, 4});
    work_.push_back({Op::kRotate, b});
    loops_.push_back({tiles, grain});
    work_.push_back({Op::kAttend, b});
    PlanLinear(b, block.o, attended_.data(), delta_.data(), rows);
    PlanLinear(b, block.gate_up, normed_.data(), gate_up_.data(), rows);
    PlanLinear(b, block.down, activated_.data(), delta_.data(), rows);
  }
  const int64_t wanted = static_cast<int64_t>(wanted_.size());
  if (wanted > 0) PlanLinear(spec_.blocks, weights_.head, normed_.data(), logits, wanted);
}

void PackedExecutor::Step(const BatchRow* rows, int64_t count, float** logits) {
  PlanStep(rows, count);
  Grow(&hidden_, count * spec_.hidden);
  Grow(&normed_, count * spec_.hidden);
  Grow(&qkv_, count * (spec_.q_rows() + 2 * spec_.kv_rows()));
  Grow(&attended_, count * spec_.q_rows());
  Grow(&gate_up_, count * 2 * spec_.intermediate);
  Grow(&activated_, count * spec_.intermediate);
  Grow(&delta_, count * spec_.hidden);
  PlanLoops(*logits);
  pool_.Run(loops_, [this](int64_t loop, int64_t begin, int64_t end, int thread) {
    RunLoop(work_[loop], begin, end, thread);
  });
  for (const Run& run : runs_) run.cache->SetLength(run.cache->length() + run.end - run.begin);
  *logits += static_cast<int64_t>(wanted_.size()) * spec_.vocab;
}

void PackedExecutor::RunLoop(const Work& work, int64_t begin, int64_t end, int thread) {
  switch (work.op) {
    case Op::kPrepare:
      work.group->Prepare(
          begin, end, [&](int64_t i) { Produce(work, i); }, work.x, work.rows, isa_, &scratch_);
      return;
    case Op::kMultiply:
      work.group->Multiply(begin, end, work.x, work.rows, work.y, ops_, scratch_);
      return;
    case Op::kRotate:
      for (int64_t i = begin; i < end; ++i) RotateAndStore(work.block, i);
      return;
    case Op::kAttend:
      for (int64_t t = begin; t < end; ++t) {
        AttendTile(work.block, tiles_[t], scores_[thread].data());
      }
      return;
  }
}

void PackedExecutor::Produce(const Work& work, int64_t i) {
  const int64_t n = spec_.hidden;
  // The head takes the rows that are wanted only.
  const bool head = work.group == &weights_.head;
  const int64_t row = head ? wanted_[i] : i;
  float* hidden = hidden_.data() + row * n;
  const float* delta = delta_.data() + row * n;
  const auto norm = [&](const std::vector<float>& weight) {
    ops_.rms_norm(hidden, weight.data(), spec_.norm_eps, n, normed_.data() + i * n);
  };
  if (head) {
    ops_.add(hidden, delta, n);
    return norm(weights_.final_norm);
  }
  const ExecutorBlock& block = weights_.blocks[work.block];
  if (work.group == &block.qkv) {
    if (work.block == 0) {
      (weights_.embed ? *weights_.embed : weights_.head.linear(0)).GatherRow(token_[i], hidden);
    } else {
      ops_.add(hidden, delta, n);  // the MLP of the block before, in the same pass
    }
    norm(block.attn_norm);
  } else if (work.group == &block.gate_up) {
    ops_.add(hidden, delta, n);
    norm(block.mlp_norm);
  } else if (work.group == &block.down) {
    const int64_t inner = spec_.intermediate;
    const float* gate = gate_up_.data() + i * 2 * inner;
    ops_.silu_mul(gate, gate + inner, inner, activated_.data() + i * inner);
  }  // what `o` reads is there
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

}  // namespace shiftadd
