#include "worker/serve/packed_executor.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// Bounds the buffers; a longer prompt goes through in several steps.
constexpr int64_t kStepRows = 128;
// Rows of a step that are worth a program of their own: some milliseconds.
constexpr int64_t kProgramRows = 16;

void Grow(std::vector<float>* v, int64_t size) {
  if (static_cast<int64_t>(v->size()) < size) v->resize(static_cast<size_t>(size));
}

int Threads(const PackedModelOptions& options) {
  return options.threads > 0 ? options.threads : UsableThreads();
}

uint64_t Bytes(const ExecutorWeights& weights) {
  const auto norm = [](const ExecutorNorm& n) {
    return (n.weight.size() + n.bias.size()) * sizeof(float);
  };
  uint64_t sum = norm(weights.final_norm) + norm(weights.embed_norm) + weights.head.bytes();
  sum += weights.positions.size() * sizeof(float);
  sum += weights.embed_proj.bytes() + weights.head_proj.bytes();
  if (weights.embed) sum += weights.embed->bytes();
  for (const ExecutorBlock& b : weights.blocks) {
    sum += norm(b.attn_norm) + norm(b.mlp_norm) + norm(b.attn_post_norm) + norm(b.mlp_post_norm);
    sum += (b.q_norm.size() + b.k_norm.size()) * sizeof(float);
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
      half_cache_(options.half_cache),
      ops_(VectorOpsFor(options.isa)),
      pool_(Threads(options),
            options.crowding ? *options.crowding : DefaultCrowding(Threads(options))),
      weight_bytes_(Bytes(weights_)),
      scores_(static_cast<size_t>(pool_.slots())),
      halves_(static_cast<size_t>(pool_.slots()),
              std::vector<uint16_t>(static_cast<size_t>(2 * spec.head_dim))),
      scratch_(pool_.slots()) {
  if (spec.rope()) {
    angles_[0].inverse_frequencies = RopeInverseFrequencies(spec, false);
    if (!spec.local_blocks.empty()) {
      angles_[1].inverse_frequencies = RopeInverseFrequencies(spec, true);
    }
  }
  if (spec.position == PositionKind::kAlibi) {
    const std::vector<double> slopes = AlibiSlopes(spec.heads);
    slopes_.assign(slopes.begin(), slopes.end());
  }
}

std::unique_ptr<KvCache> PackedExecutor::NewCache(int64_t capacity) const {
  return std::make_unique<PagedKvCache>(spec_, capacity, half_cache_, pages_);
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
      if (cache == nullptr || !cache->Fits(spec_, half_cache_)) {
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
    if (spec_.position == PositionKind::kLearned &&
        run.cache->length() + run.end - run.begin > spec_.context) {
      return absl::OutOfRangeError(
          absl::StrCat("the model has positions for ", spec_.context, " tokens and no more"));
    }
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
  absl::Status status = Check(rows);
  if (status.ok()) status = MakeRoom();
  if (!status.ok()) {
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

absl::Status PackedExecutor::MakeRoom() {
  for (const Run& run : runs_) {
    if (run.cache->MakeRoom(run.cache->length() + run.end - run.begin)) continue;
    return absl::ResourceExhaustedError("there is no memory for the cache of these tokens");
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
  alone_ = share <= kTileRows && static_cast<int64_t>(runs_.size()) == count;
  for (size_t r = 0; r < runs_.size(); ++r) {
    const Run& run = runs_[r];
    const int64_t length = run.cache->length() + run.end - run.begin;
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
  positions = (positions + 255) / 256 * 256;
  for (Angles& angles : angles_) {
    const int64_t half = static_cast<int64_t>(angles.inverse_frequencies.size());
    const int64_t known = half == 0 ? positions : static_cast<int64_t>(angles.cos.size()) / half;
    if (positions <= known) continue;
    // The cosines tell how far both reach: last, should memory end between the two.
    angles.sin.resize(positions * half);
    angles.cos.resize(positions * half);
    for (int64_t p = known; p < positions; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * angles.inverse_frequencies[i];
        angles.cos[p * half + i] = static_cast<float>(std::cos(angle));
        angles.sin[p * half + i] = static_cast<float>(std::sin(angle));
      }
    }
  }
}

void PackedExecutor::Norm(const ExecutorNorm& norm, const float* x, float* out) const {
  if (norm.bias.empty()) {
    ops_.rms_norm(x, norm.weight.data(), spec_.norm_eps, spec_.hidden, out);
  } else {
    ops_.layer_norm(x, norm.weight.data(), norm.bias.data(), spec_.norm_eps, spec_.hidden, out);
  }
}

void PackedExecutor::Join(const ExecutorNorm& norm, const ExecutorNorm& post, int64_t i) {
  float* hidden = hidden_.data() + i * spec_.hidden;
  float* delta = delta_.data() + i * spec_.hidden;
  if (spec_.norm_place == NormPlace::kAround) Norm(post, delta, delta);
  ops_.add(hidden, delta, spec_.hidden);
  if (spec_.norm_place == NormPlace::kAfter) Norm(norm, hidden, hidden);
}

void PackedExecutor::Input(const ExecutorNorm& norm, int64_t i) {
  const float* hidden = hidden_.data() + i * spec_.hidden;
  float* normed = normed_.data() + i * spec_.hidden;
  if (spec_.norm_place == NormPlace::kAfter) {
    std::copy_n(hidden, spec_.hidden, normed);
  } else {
    Norm(norm, hidden, normed);
  }
}

void PackedExecutor::PlanLinear(int64_t block, const LinearGroup& group, const float* x, float* y,
                                int64_t rows) {
  group.Reserve(rows, &scratch_);
  loops_.push_back(group.PrepareLoop(rows));
  work_.push_back({Op::kPrepare, block, &group, x, y, rows});
  loops_.push_back(group.MultiplyLoop(rows, pool_.threads(), pool_.crowded()));
  work_.push_back({Op::kMultiply, block, &group, x, y, rows});
}

void PackedExecutor::PlanLoops(float* logits) {
  loops_.clear();
  work_.clear();
  scratch_.Clear();
  const int64_t rows = static_cast<int64_t>(token_.size());
  const int64_t tiles = static_cast<int64_t>(tiles_.size());
  // A few keys are done before another thread is awake. On crowded cores a chunk that is long
  // loses its core half-way.
  const int64_t share = pool_.crowded() ? 1 : tiles / (pool_.threads() * 8);
  const int64_t grain = rows * longest_ < 256 ? tiles : std::max<int64_t>(1, share);
  if (spec_.embed_width > 0) {
    PlanLinear(0, weights_.embed_proj, narrow_.data(), hidden_.data(), rows);
  }
  for (int64_t b = 0; b < spec_.blocks; ++b) {
    const ExecutorBlock& block = weights_.blocks[b];
    PlanLinear(b, block.qkv, normed_.data(), qkv_.data(), rows);
    if (!alone_) {
      loops_.push_back({rows, 4});
      work_.push_back({Op::kRotate, b});
    }
    loops_.push_back({tiles, grain});
    work_.push_back({Op::kAttend, b});
    PlanLinear(b, block.o, attended_.data(), delta_.data(), rows);
    PlanLinear(b, block.gate_up, normed_.data(), gate_up_.data(), rows);
    PlanLinear(b, block.down, activated_.data(), delta_.data(), rows);
  }
  const int64_t wanted = static_cast<int64_t>(wanted_.size());
  if (wanted == 0) return;
  const float* read = normed_.data();
  if (spec_.embed_width > 0) {
    PlanLinear(spec_.blocks, weights_.head_proj, read, narrow_.data(), wanted);
    read = narrow_.data();
  }
  PlanLinear(spec_.blocks, weights_.head, read, logits, wanted);
}

void PackedExecutor::GrowBuffers(int64_t rows) {
  Grow(&hidden_, rows * spec_.hidden);
  Grow(&normed_, rows * spec_.hidden);
  Grow(&qkv_, rows * (spec_.q_rows() + 2 * spec_.kv_rows()));
  Grow(&attended_, rows * spec_.q_rows());
  Grow(&gate_up_, rows * 2 * spec_.intermediate);
  Grow(&activated_, rows * spec_.intermediate);
  Grow(&delta_, rows * spec_.hidden);
  if (spec_.embed_width > 0) Grow(&narrow_, rows * spec_.embed_width);
}

void PackedExecutor::Step(const BatchRow* rows, int64_t count, float** logits) {
  PlanStep(rows, count);
  GrowBuffers(count);
  PlanLoops(*logits);
  // A long step is several programs, as the pool looks for neighbours between programs. Where it
  // has found them it does not look soon, and each program's end waits for this thread.
  const int64_t parts = pool_.crowded() ? 1 : count / kProgramRows;
  const size_t programs = static_cast<size_t>(std::max<int64_t>(1, parts));
  const size_t loops = (loops_.size() + programs - 1) / programs;
  for (size_t first = 0; first < loops_.size(); first += loops) {
    pool_.Run(absl::MakeConstSpan(loops_).subspan(first, loops),
              [&](int64_t loop, int64_t begin, int64_t end, int thread) {
                RunLoop(work_[first + loop], begin, end, thread);
              });
  }
  for (const Run& run : runs_) run.cache->SetLength(run.cache->length() + run.end - run.begin);
  const int64_t numbers = static_cast<int64_t>(wanted_.size()) * spec_.vocab;
  if (spec_.logit_cap > 0) {
    ops_.soft_cap(*logits, numbers, static_cast<float>(spec_.logit_cap));
  }
  *logits += numbers;
}

void PackedExecutor::ForEach(int64_t items, absl::FunctionRef<void(int64_t)> f) {
  if (items == 1) return f(0);  // not worth waking anybody
  const Loop loop{items, 1};
  pool_.Run({&loop, 1}, [f](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

void PackedExecutor::RunProducts(int64_t rows) {
  GrowBuffers(rows);
  logits_of_products_.resize(static_cast<size_t>(rows * spec_.vocab));
  loops_.clear();
  work_.clear();
  scratch_.Clear();
  const auto add = [&](const LinearGroup& group, const float* x, std::vector<float>* y) {
    group.Reserve(rows, &scratch_);
    loops_.push_back(group.MultiplyLoop(rows, pool_.threads(), pool_.crowded()));
    work_.push_back({Op::kMultiply, 0, &group, x, y->data(), rows});
  };
  for (const ExecutorBlock& block : weights_.blocks) {
    add(block.qkv, normed_.data(), &qkv_);
    add(block.o, attended_.data(), &delta_);
    add(block.gate_up, normed_.data(), &gate_up_);
    add(block.down, activated_.data(), &delta_);
  }
  add(weights_.head, normed_.data(), &logits_of_products_);
  pool_.Run(loops_, [this](int64_t loop, int64_t begin, int64_t end, int thread) {
    RunLoop(work_[loop], begin, end, thread);
  });
}

void PackedExecutor::RunLoop(const Work& work, int64_t begin, int64_t end, int thread) {
  switch (work.op) {
    case Op::kPrepare:
      work.group->Prepare(
          begin, end, [&](int64_t i) { Produce(work, i); }, work.x, work.rows, isa_, thread,
          &scratch_);
      return;
    case Op::kMultiply:
      work.group->Multiply(begin, end, work.x, work.rows, work.y, ops_, scratch_);
      return;
    case Op::kRotate:
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t h = 0; h < spec_.kv_heads; ++h) {
          const int64_t share = spec_.heads / spec_.kv_heads;
          RotateAndStore(work.block, i, h * share, share, h, thread);
        }
      }
      return;
    case Op::kAttend:
      for (int64_t t = begin; t < end; ++t) {
        if (t + 1 < end) PrefetchTile(work.block, tiles_[t + 1]);
        AttendTile(work.block, tiles_[t], thread);
      }
      return;
  }
}

// The token's embedding, as embed_proj reads it or as it is.
void PackedExecutor::Gather(int64_t i, float* out) const {
  (weights_.embed ? *weights_.embed : weights_.head.linear(0)).GatherRow(token_[i], out);
  const float scale = static_cast<float>(spec_.embed_scale);
  if (scale == 1.0f) return;
  for (int64_t c = 0; c < spec_.embed_dim(); ++c) out[c] *= scale;
}

// Row i as the first block reads it.
void PackedExecutor::Embed(int64_t i) {
  const int64_t n = spec_.hidden;
  float* hidden = hidden_.data() + i * n;
  if (spec_.embed_width == 0) Gather(i, hidden);
  if (!weights_.positions.empty()) {
    ops_.add(hidden, weights_.positions.data() + (position_[i] + spec_.position_offset) * n, n);
  }
  if (spec_.embed_norm) Norm(weights_.embed_norm, hidden, hidden);
}

void PackedExecutor::Produce(const Work& work, int64_t i) {
  if (work.group == &weights_.embed_proj) return Gather(i, narrow_.data() + i * spec_.embed_width);
  const bool projected = spec_.embed_width > 0;
  if (work.block == spec_.blocks) {
    // Behind a projection the head reads what is there.
    if (!projected || work.group == &weights_.head_proj) ProduceForHead(i);
    return;
  }
  const ExecutorBlock& block = weights_.blocks[work.block];
  if (work.group == &block.qkv) {
    if (work.block == 0) {
      Embed(i);
    } else {
      // The MLP of the block before, in the same pass.
      const ExecutorBlock& before = weights_.blocks[work.block - 1];
      Join(before.mlp_norm, before.mlp_post_norm, i);
    }
    Input(block.attn_norm, i);
  } else if (work.group == &block.gate_up) {
    Join(block.attn_norm, block.attn_post_norm, i);
    Input(block.mlp_norm, i);
  } else if (work.group == &block.down) {
    Activate(gate_up_.data() + i * block.gate_up.rows(),
             activated_.data() + i * spec_.intermediate);
  }  // what `o` reads is there
}

// The head takes the rows that are wanted only: row i of them.
void PackedExecutor::ProduceForHead(int64_t i) {
  const int64_t n = spec_.hidden;
  const ExecutorBlock& last = weights_.blocks.back();
  Join(last.mlp_norm, last.mlp_post_norm, wanted_[i]);
  const float* hidden = hidden_.data() + wanted_[i] * n;
  if (spec_.has_final_norm) {
    Norm(weights_.final_norm, hidden, normed_.data() + i * n);
  } else {
    std::copy_n(hidden, n, normed_.data() + i * n);
  }
}

void PackedExecutor::Activate(const float* gate_up, float* out) const {
  const int64_t n = spec_.intermediate;
  const float* up = spec_.gated ? gate_up + n : nullptr;
  switch (spec_.activation) {
    case Activation::kSilu:
      return ops_.silu_mul(gate_up, up, n, out);
    case Activation::kGeluTanh:
      return ops_.gelu_mul(gate_up, up, n, out);
    case Activation::kRelu:
      return ops_.relu_mul(gate_up, up, n, out);
  }
}

void PackedExecutor::RotateAndStore(int64_t b, int64_t row, int64_t first, int64_t count,
                                    int64_t kv_head, int thread) {
  const Angles& angles = angles_[spec_.IsLocal(b)];
  const int64_t half = static_cast<int64_t>(angles.inverse_frequencies.size());
  const ExecutorBlock& block = weights_.blocks[b];
  float* q = qkv_.data() + row * (spec_.q_rows() + 2 * spec_.kv_rows());
  const auto rotate = [&](float* head, const std::vector<float>& norm) {
    if (!norm.empty()) ops_.rms_norm(head, norm.data(), spec_.norm_eps, spec_.head_dim, head);
    if (half == 0) return;
    ops_.rope(head, angles.cos.data() + position_[row] * half,
              angles.sin.data() + position_[row] * half, half);
  };
  for (int64_t h = first; h < first + count; ++h) rotate(q + h * spec_.head_dim, block.q_norm);
  float* k = q + spec_.q_rows() + kv_head * spec_.head_dim;
  rotate(k, block.k_norm);
  PagedKvCache* const cache = runs_[run_of_row_[row]].cache;
  const float* const v = k + spec_.kv_rows();
  if (!half_cache_) return cache->Store(b, kv_head, position_[row], k, v);
  uint16_t* const halves = halves_[thread].data();
  ops_.to_halves(k, spec_.head_dim, halves);
  ops_.to_halves(v, spec_.head_dim, halves + spec_.head_dim);
  cache->Store(b, kv_head, position_[row], halves, halves + spec_.head_dim);
}

void PackedExecutor::PrefetchTile(int64_t b, const Tile& tile) const {
  constexpr int64_t kLine = 64;  // bytes
  const int64_t element = half_cache_ ? sizeof(uint16_t) : sizeof(float);
  const Run& run = runs_[tile.run];
  const int64_t length = position_[run.end - 1] + 1;
  // The processor finds later pages by itself.
  for (int64_t page = 0; page < 2 && page * kPageTokens < length; ++page) {
    const int64_t tokens = std::min(kPageTokens, length - page * kPageTokens);
    const auto* keys = static_cast<const char*>(run.cache->Keys(b, tile.kv_head)[page]);
    for (int64_t d = 0; d < spec_.head_dim; ++d, keys += kPageTokens * element) {
      for (int64_t i = 0; i < tokens * element; i += kLine) __builtin_prefetch(keys + i);
    }
    const auto* values = static_cast<const char*>(run.cache->Values(b, tile.kv_head)[page]);
    for (int64_t i = 0; i < tokens * run.cache->value_stride() * element; i += kLine) {
      __builtin_prefetch(values + i);
    }
  }
}

void PackedExecutor::AttendTile(int64_t b, const Tile& tile, int thread) {
  const Run& run = runs_[tile.run];
  const int64_t share = spec_.heads / spec_.kv_heads;
  if (alone_) RotateAndStore(b, run.begin, tile.kv_head * share, share, tile.kv_head, thread);
  const int64_t width = spec_.q_rows() + 2 * spec_.kv_rows();
  const int64_t window = spec_.WindowOf(b);
  AttentionTile work;
  work.rows = tile.count;
  work.scale = static_cast<float>(spec_.score_scale());
  work.cap = static_cast<float>(spec_.attention_cap);
  for (int r = 0; r < tile.count; ++r) {
    const int64_t row = run.begin + (tile.first + r) / share;
    const int64_t head = tile.kv_head * share + (tile.first + r) % share;
    work.query[r] = qkv_.data() + row * width + head * spec_.head_dim;
    work.out[r] = attended_.data() + row * spec_.q_rows() + head * spec_.head_dim;
    work.length[r] = position_[row] + 1;
    if (window > 0) work.first[r] = std::max<int64_t>(0, work.length[r] - window);
    if (!slopes_.empty()) work.slope[r] = slopes_[head];
  }
  work.keys = run.cache->Keys(b, tile.kv_head);
  work.values = run.cache->Values(b, tile.kv_head);
  work.head_dim = spec_.head_dim;
  work.value_stride = run.cache->value_stride();
  work.halves = half_cache_;
  work.scratch = scores_[thread].data();
  work.score_stride = (longest_ + kPageTokens - 1) / kPageTokens * kPageTokens;
  ops_.attend(work);
}

}  // namespace shiftadd
