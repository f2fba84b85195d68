#include "worker/serve/cuda/executor.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::cuda {
namespace {

constexpr int64_t kDecodeBatch = 16;   // rows of the largest graph
constexpr int64_t kHeadRows = 64;      // rows whose logits are made at a time
constexpr int64_t kFirstPages = 4096;  // room for page addresses to begin with
// Shorter pieces of a prompt attend row by row: tiles of 16 rows would leave the device idle.
constexpr int64_t kTiledRun = 16;

// For weights decoded to fp16, for prompts: the largest matrix of an 8B model in four pieces.
constexpr uint64_t kDenseBytes = kernels::CudaWorkspace::kDefaultWeightBytes;

int64_t BucketFor(int64_t rows) {
  int64_t bucket = 1;
  while (bucket < rows) bucket *= 2;
  return bucket;
}

int64_t WidestInput(const ArchitectureSpec& spec) {
  return std::max({spec.hidden, spec.q_rows(), spec.intermediate, spec.embed_width});
}

bool IsFused(const ArchitectureSpec& spec) {
  return spec.norm == NormKind::kRms && spec.norm_place == NormPlace::kBefore &&
         spec.has_final_norm && spec.gated && spec.activation == Activation::kSilu;
}

}  // namespace

int64_t StepRows(const CudaModelOptions& options) {
  // Row by row through the decode attention otherwise, whose scratch is for kDecodeRows.
  return options.batch_invariant ? kDecodeRows : 1024;
}

AttentionShape ShapeOf(const ArchitectureSpec& spec) {
  AttentionShape shape;
  shape.heads = static_cast<int32_t>(spec.heads);
  shape.kv_heads = static_cast<int32_t>(spec.kv_heads);
  shape.head_dim = static_cast<int32_t>(spec.head_dim);
  shape.padded = PaddedHeadDim(spec.head_dim);
  return shape;
}

uint64_t BufferBytes(const ArchitectureSpec& spec, const CudaModelOptions& options) {
  const AttentionShape shape = ShapeOf(spec);
  const uint64_t floats =
      StepRows(options) * (3 * spec.hidden + shape.width() + spec.q_rows() + 2 * spec.intermediate +
                           WidestInput(spec) + spec.embed_width) +
      kHeadRows * (spec.hidden + spec.vocab);
  const uint64_t splits = uint64_t{kDecodeRows} * DecodeGroups(shape) * kDecodeSplits *
                          kDecodeHeads * (shape.padded + 2);
  // cuBLAS has 32 MiB of its own.
  const uint64_t dense = options.batch_invariant ? 0
                                                 : kDenseBytes + (uint64_t{32} << 20) +
                                                       2 * StepRows(options) * WidestInput(spec);
  return 4 * (floats + splits) + dense;
}

int64_t CachePages(const ArchitectureSpec& spec, const CudaModelOptions& options) {
  const int64_t page = ShapeOf(spec).PageHalves(spec.blocks) * static_cast<int64_t>(sizeof(__half));
  return std::max((options.cache_tokens + kPageTokens - 1) / kPageTokens,
                  options.cache_bytes / page) +
         1;
}

uint64_t DeviceWeights::bytes() const {
  uint64_t sum = final_norm.bytes() + embed_norm.bytes() + positions.size() + head.bytes() +
                 embed_proj.bytes() + head_proj.bytes();
  if (embed) sum += embed->bytes();
  for (const DeviceBlock& b : blocks) {
    sum += b.attn_norm.bytes() + b.mlp_norm.bytes() + b.attn_post_norm.bytes() +
           b.mlp_post_norm.bytes() + b.q_norm.size() + b.k_norm.size();
    sum += b.qkv.bytes() + b.o.bytes() + b.gate_up.bytes() + b.down.bytes();
  }
  return sum;
}

Executor::Executor(const ArchitectureSpec& spec, DeviceWeights weights,
                   const CudaModelOptions& options, std::string device, Stream stream)
    : spec_(spec),
      options_(options),
      device_(std::move(device)),
      shape_(ShapeOf(spec)),
      weights_(std::move(weights)),
      weight_bytes_(weights_.bytes()),
      stream_(std::move(stream)),
      pool_(std::make_shared<PagePool>(static_cast<size_t>(shape_.PageHalves(spec.blocks)) *
                                       sizeof(__half))),
      fused_(IsFused(spec)) {}

Executor::~Executor() { DropGraphs(); }

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(const ArchitectureSpec& spec,
                                                           DeviceWeights weights,
                                                           const CudaModelOptions& options,
                                                           std::string device) {
  SA_ASSIGN_OR_RETURN(Stream stream, Stream::Create());
  auto executor = std::unique_ptr<Executor>(
      new Executor(spec, std::move(weights), options, std::move(device), std::move(stream)));
  SA_RETURN_IF_ERROR(executor->Allocate());
  return executor;
}

absl::Status Executor::Allocate() {
  const int64_t rows = StepRows(options_);
  const auto floats = [](Buffer* buffer, int64_t count) {
    return ToStatus(buffer->Allocate(static_cast<size_t>(count) * sizeof(float)));
  };
  for (Buffer& hidden : hidden_) SA_RETURN_IF_ERROR(floats(&hidden, rows * spec_.hidden));
  SA_RETURN_IF_ERROR(floats(&delta_, rows * spec_.hidden));
  SA_RETURN_IF_ERROR(floats(&qkv_, rows * shape_.width()));
  SA_RETURN_IF_ERROR(floats(&attended_, rows * spec_.q_rows()));
  SA_RETURN_IF_ERROR(floats(&gate_up_, rows * 2 * spec_.intermediate));
  SA_RETURN_IF_ERROR(floats(&compact_, kHeadRows * spec_.hidden));
  SA_RETURN_IF_ERROR(floats(&logits_, kHeadRows * spec_.vocab));
  bool raw = weights_.head.has_raw();
  for (const DeviceBlock& b : weights_.blocks) {
    raw |= b.qkv.has_raw() || b.o.has_raw() || b.gate_up.has_raw() || b.down.has_raw();
  }
  // Inputs of raw matrices, and of all where norms and activations are kernels of their own.
  if (raw || !fused_) SA_RETURN_IF_ERROR(floats(&scratch_, rows * WidestInput(spec_)));
  if (spec_.embed_width > 0) {
    SA_RETURN_IF_ERROR(floats(&narrow_, std::max(rows, kHeadRows) * spec_.embed_width));
  }
  if (spec_.position == PositionKind::kAlibi) {
    const std::vector<double> slopes = AlibiSlopes(spec_.heads);
    const std::vector<float> narrow(slopes.begin(), slopes.end());
    SA_RETURN_IF_ERROR(
        ToStatus(slopes_.Upload(narrow.data(), narrow.size() * sizeof(float), stream_.get())));
    SA_RETURN_IF_ERROR(stream_.Wait());
  }
  const int64_t slots = kDecodeRows * DecodeGroups(shape_);
  const int64_t heads = slots * kDecodeSplits * kDecodeHeads;
  SA_RETURN_IF_ERROR(floats(&split_sums_, heads * shape_.padded));
  SA_RETURN_IF_ERROR(floats(&split_tops_, heads * 2));
  SA_RETURN_IF_ERROR(floats(&split_arrived_, slots));
  SA_RETURN_IF_ERROR(
      ToStatus(cudaMemsetAsync(split_arrived_.as<void>(), 0, split_arrived_.size(), stream_.get()),
               "clearing counters"));
  splits_ = {split_sums_.as<float>(), split_tops_.as<float2>(), split_arrived_.as<uint32_t>()};
  SA_RETURN_IF_ERROR(
      ToStatus(sample_parts_.Allocate(kHeadRows * kSampleParts * sizeof(SamplePart))));
  SA_RETURN_IF_ERROR(ToStatus(tokens_.Allocate(kHeadRows * sizeof(int32_t))));
  SA_RETURN_IF_ERROR(host_tokens_.Allocate(kHeadRows * sizeof(int32_t)));
  SA_RETURN_IF_ERROR(host_logits_.Allocate(kDecodeBatch * spec_.vocab * sizeof(float)));
  SA_RETURN_IF_ERROR(decode_staging_.Allocate(kDecodeBatch, kFirstPages));
  SA_RETURN_IF_ERROR(prompt_staging_.Allocate(rows, kFirstPages));
  SA_RETURN_IF_ERROR(pool_->Reserve(CachePages(spec_, options_)));
  SA_ASSIGN_OR_RETURN(spare_page_, pool_->Take());
  context_.stream = stream_.get();
  context_.scratch = scratch_.as<float>();
  context_.multiply.programmatic = true;
  if (options_.batch_invariant) {
    context_.multiply.path = kernels::CudaPath::kInteger;
  } else {
    const int64_t widest = WidestInput(spec_);
    SA_RETURN_IF_ERROR(ToStatus(kernels::CudaWorkspace::Create(
        rows, widest, std::max<uint64_t>(kDenseBytes, 32 * (widest + 127) / 128 * 128),
        &workspace_)));
    context_.multiply.workspace = workspace_.get();
  }
  return stream_.Wait();
}

std::unique_ptr<KvCache> Executor::NewCache(int64_t capacity) const {
  return std::make_unique<DeviceCache>(pool_, capacity);
}

absl::Status Executor::Forward(const std::vector<int32_t>& tokens, KvCache* cache, bool all_logits,
                               std::vector<float>* logits) {
  std::vector<BatchRow> rows;
  rows.reserve(tokens.size());
  for (const int32_t token : tokens) rows.push_back({token, cache, all_logits});
  if (!rows.empty()) rows.back().logits = true;
  return ForwardBatch(rows, logits);
}

absl::Status Executor::Check(const std::vector<BatchRow>& rows) const {
  std::unordered_map<const KvCache*, int64_t> appended;
  for (size_t i = 0; i < rows.size(); ++i) {
    const BatchRow& row = rows[i];
    if (row.token < 0 || row.token >= spec_.vocab) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", row.token, " at position ", i,
                                                     " is not in the vocabulary [0, ", spec_.vocab,
                                                     ")"));
    }
    const auto* cache = dynamic_cast<const DeviceCache*>(row.cache);
    if (cache == nullptr || cache->pool() != pool_.get()) {
      return absl::InvalidArgumentError("the cache belongs to another model");
    }
    int64_t& count = appended[row.cache];
    if (count > 0 && rows[i - 1].cache != row.cache) {
      return absl::InvalidArgumentError("the rows of a cache do not stand together");
    }
    if (spec_.position == PositionKind::kLearned && cache->length() + count + 1 > spec_.context) {
      return absl::OutOfRangeError(
          absl::StrCat("the model has positions for ", spec_.context, " tokens and no more"));
    }
    if (cache->length() + ++count > cache->capacity()) {
      return absl::OutOfRangeError(absl::StrCat("the cache is full: it holds ", cache->length(),
                                                " of ", cache->capacity(), " tokens and ", count,
                                                " more are to come"));
    }
  }
  return absl::OkStatus();
}

// Pages for all rows, and the rotations of their positions.
absl::Status Executor::Reserve(const std::vector<BatchRow>& rows) {
  int64_t longest = 0;
  for (size_t begin = 0; begin < rows.size();) {
    auto* cache = static_cast<DeviceCache*>(rows[begin].cache);
    size_t end = begin + 1;
    while (end < rows.size() && rows[end].cache == cache) ++end;
    const int64_t length = cache->length() + static_cast<int64_t>(end - begin);
    SA_RETURN_IF_ERROR(cache->Reserve(length));
    longest = std::max(longest, length);
    begin = end;
  }
  return GrowRope(longest);
}

absl::Status Executor::GrowRope(int64_t positions) {
  if (!spec_.rope() || positions <= positions_) return absl::OkStatus();
  positions = std::max<int64_t>({positions, 2 * positions_, 1024});
  Buffer made[2];  // put in place together: graphs hold the addresses of both
  for (const bool local : {false, true}) {
    if (local && spec_.rope_local_theta == 0) continue;
    const std::vector<double> frequencies = RopeInverseFrequencies(spec_, local);
    std::vector<float2> turns;
    turns.reserve(positions * frequencies.size());
    for (int64_t p = 0; p < positions; ++p) {
      for (const double frequency : frequencies) {
        const double angle = static_cast<double>(p) * frequency;
        turns.push_back({static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
      }
    }
    SA_RETURN_IF_ERROR(
        ToStatus(made[local].Upload(turns.data(), turns.size() * sizeof(float2), stream_.get())));
    SA_RETURN_IF_ERROR(stream_.Wait());
  }
  for (const bool local : {false, true}) cos_sin_[local] = std::move(made[local]);
  positions_ = positions;
  DropGraphs();  // they hold the old address
  return absl::OkStatus();
}

absl::Status Executor::Run(const std::vector<BatchRow>& rows, std::vector<float>* logits,
                           std::vector<int32_t>* tokens) {
  logits->clear();
  if (tokens != nullptr) tokens->clear();
  SA_RETURN_IF_ERROR(Check(rows));
  if (rows.empty()) return absl::OkStatus();
  std::unordered_map<DeviceCache*, int64_t> lengths;
  bool decode = static_cast<int64_t>(rows.size()) <= kDecodeBatch;
  for (const BatchRow& row : rows) {
    auto* cache = static_cast<DeviceCache*>(row.cache);
    decode &= lengths.emplace(cache, cache->length()).second && row.logits;
  }
  absl::Status status = Reserve(rows);
  if (status.ok() && decode) status = Decode(rows, logits, tokens);
  const int64_t count = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; status.ok() && !decode && begin < count; begin += step_rows()) {
    status = PromptStep(rows.data() + begin, std::min(step_rows(), count - begin), logits, tokens);
  }
  if (!status.ok()) {
    (void)stream_.Wait();
    for (const auto& [cache, length] : lengths) cache->Truncate(length);
    logits->clear();
    if (tokens != nullptr) tokens->clear();
  }
  return status;
}

absl::StatusOr<int64_t> Executor::StagePages(const std::vector<Piece>& pieces, int64_t spare,
                                             Staging* staging) {
  int64_t pages = spare;
  for (const Piece& piece : pieces) pages += static_cast<int64_t>(piece.cache->pages().size());
  SA_ASSIGN_OR_RETURN(const bool moved, staging->Grow(pages));
  if (moved) DropGraphs();
  const Staging::Arrays& host = staging->host();
  int64_t at = 0;
  for (const Piece& piece : pieces) {
    for (int64_t i = piece.begin; i < piece.end; ++i) {
      host.first_page[i] = static_cast<int32_t>(at);
      host.positions[i] = static_cast<int32_t>(piece.cache->length() + i - piece.begin);
    }
    for (const PagedCache::Page& page : piece.cache->pages()) {
      host.pages[at++] = static_cast<__half*>(page.get());
    }
  }
  if (spare > 0) host.pages[at++] = static_cast<__half*>(spare_page_.get());
  return at;
}

absl::Status Executor::Decode(const std::vector<BatchRow>& rows, std::vector<float>* logits,
                              std::vector<int32_t>* tokens) {
  const int64_t count = static_cast<int64_t>(rows.size());
  Plan plan;
  plan.rows = BucketFor(count);
  plan.staging = &decode_staging_;
  plan.decode = true;
  std::vector<Piece> pieces;
  std::vector<const BatchRow*> wanted;
  for (int64_t i = 0; i < count; ++i) {
    pieces.push_back({static_cast<DeviceCache*>(rows[i].cache), i, i + 1});
    wanted.push_back(&rows[i]);
    plan.sample |= tokens != nullptr && rows[i].sample;
  }
  SA_ASSIGN_OR_RETURN(const int64_t pages, StagePages(pieces, 1, &decode_staging_));
  const Staging::Arrays& host = decode_staging_.host();
  for (int64_t i = 0; i < plan.rows; ++i) {
    const BatchRow row = i < count ? rows[i] : BatchRow{};
    host.tokens[i] = row.token;
    host.temperature[i] = row.temperature;
    host.uniform[i] = row.uniform;
    if (i < count) continue;
    host.positions[i] = 0;
    host.first_page[i] = static_cast<int32_t>(pages - 1);
  }
  SA_RETURN_IF_ERROR(decode_staging_.Upload(pages, stream_.get()));
  SA_RETURN_IF_ERROR(LaunchDecode(plan));
  SA_RETURN_IF_ERROR(Collect(wanted.data(), count, logits, tokens));
  for (const Piece& piece : pieces) piece.cache->SetLength(piece.cache->length() + 1);
  return absl::OkStatus();
}

absl::Status Executor::Sample(const Staging& staging, int64_t first, int64_t rows) {
  SampleParams p;
  p.logits = logits_.as<float>();
  p.vocab = spec_.vocab;
  p.temperature = staging.device().temperature + first;
  p.uniform = staging.device().uniform + first;
  p.parts = sample_parts_.as<SamplePart>();
  p.tokens = tokens_.as<int32_t>();
  return ToStatus(LaunchSample(p, rows, stream_.get()), "launching the sampler");
}

absl::Status Executor::Collect(const BatchRow* const* rows, int64_t count,
                               std::vector<float>* logits, std::vector<int32_t>* tokens) {
  const int64_t vocab = spec_.vocab;
  std::vector<int64_t> whole;
  for (int64_t i = 0; i < count; ++i) {
    if (tokens == nullptr || !rows[i]->sample) whole.push_back(i);
  }
  const char kWhat[] = "copying results";
  const bool drawn = static_cast<int64_t>(whole.size()) < count;
  if (drawn) {
    SA_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(host_tokens_.as<int32_t>(), tokens_.as<int32_t>(),
                                                static_cast<size_t>(count) * sizeof(int32_t),
                                                cudaMemcpyDeviceToHost, stream_.get()),
                                kWhat));
  }
  // Through page-locked memory, kDecodeBatch rows at a time.
  for (size_t begin = 0; begin < whole.size() || begin == 0; begin += kDecodeBatch) {
    const size_t end = std::min(begin + kDecodeBatch, whole.size());
    float* to = host_logits_.as<float>();
    for (size_t i = begin; i < end; ++i, to += vocab) {
      SA_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(to, logits_.as<float>() + whole[i] * vocab,
                                                  static_cast<size_t>(vocab) * sizeof(float),
                                                  cudaMemcpyDeviceToHost, stream_.get()),
                                  kWhat));
    }
    SA_RETURN_IF_ERROR(stream_.Wait());
    logits->insert(logits->end(), host_logits_.as<float>(), to);
  }
  for (int64_t i = 0; drawn && i < count; ++i) {
    if (rows[i]->sample) tokens->push_back(host_tokens_.as<int32_t>()[i]);
  }
  return absl::OkStatus();
}

absl::Status Executor::LaunchDecode(const Plan& plan) {
  if (!options_.graphs) return Blocks(plan);
  const auto [known, first] = graphs_.try_emplace({plan.rows, plan.sample}, nullptr);
  // The first time the driver loads the kernels, which it cannot do while it records.
  if (first) return Blocks(plan);
  if (known->second == nullptr) {
    SA_ASSIGN_OR_RETURN(known->second, Capture(plan));
  }
  return ToStatus(cudaGraphLaunch(known->second, stream_.get()), "launching a graph");
}

absl::StatusOr<cudaGraphExec_t> Executor::Capture(const Plan& plan) {
  SA_RETURN_IF_ERROR(
      ToStatus(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
               "recording a graph"));
  const absl::Status recorded = Blocks(plan);
  cudaGraph_t graph = nullptr;
  const absl::Status ended =
      ToStatus(cudaStreamEndCapture(stream_.get(), &graph), "recording a graph");
  cudaGraphExec_t executable = nullptr;
  absl::Status status = recorded.ok() ? ended : recorded;
  if (status.ok()) {
    status = ToStatus(cudaGraphInstantiate(&executable, graph, 0), "making a graph");
  }
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  if (!status.ok()) return status;
  return executable;
}

void Executor::DropGraphs() {
  for (auto& [key, graph] : graphs_) {
    if (graph != nullptr) (void)cudaGraphExecDestroy(graph);
    graph = nullptr;
  }
}

absl::Status Executor::PromptStep(const BatchRow* rows, int64_t count, std::vector<float>* logits,
                                  std::vector<int32_t>* tokens) {
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < count; ++i) {
    auto* cache = static_cast<DeviceCache*>(rows[i].cache);
    if (pieces.empty() || pieces.back().cache != cache) pieces.push_back({cache, i, i});
    pieces.back().end = i + 1;
  }
  SA_ASSIGN_OR_RETURN(const int64_t pages, StagePages(pieces, 0, &prompt_staging_));
  const Staging::Arrays& host = prompt_staging_.host();
  Plan plan;
  plan.rows = count;
  plan.staging = &prompt_staging_;
  std::vector<const BatchRow*> wanted;
  for (int64_t i = 0; i < count; ++i) {
    host.tokens[i] = rows[i].token;
    if (!rows[i].logits) continue;
    host.wanted[wanted.size()] = static_cast<int32_t>(i);
    host.temperature[wanted.size()] = rows[i].temperature;
    host.uniform[wanted.size()] = rows[i].uniform;
    wanted.push_back(&rows[i]);
  }
  for (const Piece& piece : pieces) {
    if (options_.batch_invariant || piece.end - piece.begin < kTiledRun) {
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        host.decode_rows[plan.decode_rows++] = static_cast<int32_t>(i);
      }
      continue;
    }
    for (int64_t i = piece.begin; i < piece.end; i += 16) {
      host.tiles[plan.tiles++] = {static_cast<int32_t>(i),
                                  static_cast<int32_t>(std::min<int64_t>(16, piece.end - i))};
    }
  }
  SA_RETURN_IF_ERROR(prompt_staging_.Upload(pages, stream_.get()));
  SA_RETURN_IF_ERROR(Blocks(plan));
  SA_RETURN_IF_ERROR(PromptHead(wanted, logits, tokens));
  SA_RETURN_IF_ERROR(stream_.Wait());
  for (const Piece& piece : pieces)
    piece.cache->SetLength(piece.cache->length() + piece.end - piece.begin);
  return absl::OkStatus();
}

absl::Status Executor::PromptHead(const std::vector<const BatchRow*>& wanted,
                                  std::vector<float>* logits, std::vector<int32_t>* tokens) {
  const int64_t rows = static_cast<int64_t>(wanted.size());
  for (int64_t begin = 0; begin < rows; begin += kHeadRows) {
    const int64_t count = std::min(kHeadRows, rows - begin);
    SA_RETURN_IF_ERROR(
        ToStatus(LaunchGatherSum(fused_ ? hidden_[current_].as<float>() : normed_,
                                 fused_ ? delta_.as<float>() : nullptr,
                                 prompt_staging_.device().wanted + begin, compact_.as<float>(),
                                 count, spec_.hidden, stream_.get()),
                 "launching the gathering of rows"));
    GroupInput in{GroupInput::Kind::kPlain, compact_.as<float>(), spec_.hidden};
    if (fused_) {
      in.kind = GroupInput::Kind::kNorm;
      in.weight = weights_.final_norm.weight.as<float>();
      in.eps = static_cast<float>(spec_.norm_eps);
    }
    SA_RETURN_IF_ERROR(Head(in, count));
    if (tokens != nullptr) SA_RETURN_IF_ERROR(Sample(prompt_staging_, begin, count));
    SA_RETURN_IF_ERROR(Collect(wanted.data() + begin, count, logits, tokens));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::cuda
