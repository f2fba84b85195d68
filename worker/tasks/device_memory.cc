#include "worker/tasks/device_memory.h"

#include <algorithm>
#include <map>

#include "worker/reference/microbatch.h"

namespace shiftadd {
namespace {

constexpr uint64_t kHalf = 2, kFloat = 4, kDouble = 8;
constexpr uint64_t kMicrobatchTokens = 8192;         // half_model.cc
constexpr uint64_t kHeadTokens = 2048;               // half_guide.cc: logits that exist together
constexpr uint64_t kScoreTokens = 512;               // device_model.h: likewise
constexpr uint64_t kDoubleTokens = 64;               // device_model.cc: likewise, in fp64
constexpr uint64_t kScoreQueries = 1024;             // torch_block.cc: whose scores exist together
constexpr uint64_t kRefitBytes = uint64_t{1} << 30;  // cuda_quantize.h
// Square fp64 matrices that live together while one is mirrored, rotated, factored and inverted
// (device_hessian.cc), the solver's own copy among them.
constexpr uint64_t kFactorCopies = 4;
// Tasks of which something may be on the host: one at work and two that are being stored
// (lease_loop.cc).
constexpr uint64_t kTasks = 3;

class Shapes {
 public:
  Shapes(const ArchitectureSpec& spec, const v1::Recipe& recipe)
      : spec_(spec), recipe_(recipe), layers_(BlockLayers(spec, 0)) {}

  uint64_t BlockNumbers() const {
    uint64_t sum = 0;
    for (const LinearLayer& layer : layers_) sum += Numbers(layer);
    return sum;
  }
  uint64_t EndsNumbers() const {
    return static_cast<uint64_t>(spec_.vocab) * spec_.embed_dim() * (spec_.tied_embeddings ? 1 : 2);
  }
  // The next block, read ahead; dequantized to fp32 unless its file has it plain.
  uint64_t StagedBytes() const { return BlockNumbers() * kFloat; }
  // Candidates of a block's layers that are being packed and stored, each twice; and ENDS's blobs
  // in the same way.
  uint64_t StoringBytes() const {
    uint64_t bits = 0;
    for (const uint32_t width : recipe_.candidate_bits()) bits += width + 1;
    return kTasks * 2 * BlockNumbers() * bits / 8 + 2 * EndsNumbers() * kHalf;
  }
  uint64_t Chunks() const { return Guided() ? std::max<uint64_t>(1, recipe_.chunks()) : 1; }
  bool Guided() const { return recipe_.hessian() == v1::HESSIAN_GUIDED; }

  // The fp64 sums of layers [from, …): of each, or where they are not guided of each input once.
  uint64_t SumBytes(size_t from) const {
    uint64_t numbers = 0;
    std::map<BlockInput, bool> seen;
    for (size_t i = from; i < layers_.size(); ++i) {
      if (!Guided() && seen[layers_[i].input]) continue;
      seen[layers_[i].input] = true;
      numbers += Chunks() * Square(layers_[i]);
    }
    return numbers * kDouble;
  }

  // A layer's factor while it is made, and what its fits hold then: with those of other layers that
  // wait, the most of all layers.
  uint64_t QuantizeBytes() const {
    uint64_t most = 0;
    const uint64_t widths = std::max(1, recipe_.candidate_bits_size());
    for (size_t i = 0; i < layers_.size(); ++i) {
      const uint64_t square = Square(layers_[i]), numbers = Numbers(layers_[i]);
      const uint64_t made = (Chunks() - 1) * square * 2 * kFloat;  // factors of other chunks
      const uint64_t factor = kFactorCopies * square * kDouble + square * kFloat;
      const uint64_t weights = numbers * (kFloat + kFloat);  // as stored, and rotated
      // H and U; the quantizer's workspace; per width its workspace, codes and what they stand for.
      const uint64_t fits = square * 2 * kFloat + 8 * square + kRefitBytes +
                            widths * numbers * (8 + 1 + kFloat) + weights +
                            LongGroupBytes(static_cast<uint64_t>(layers_[i].cols));
      most = std::max(most, SumBytes(i + 1) + made + std::max(factor, fits));
    }
    return most;
  }

  // What fits of groups of more than 128 of `inputs` inputs take besides: R_GG of all groups and of
  // one as fp16 pairs, and the fit of a part of the rows.
  uint64_t LongGroupBytes(uint64_t inputs) const {
    const uint64_t group =
        recipe_.whole_row() ? inputs : std::min<uint64_t>(recipe_.group_size(), inputs);
    return group <= 128 ? 0 : inputs * group * kFloat + group * group * 2 * kHalf + kRefitBytes;
  }

  // What the forward pass of `tokens` tokens through a block holds besides their states.
  uint64_t ForwardBytes(uint64_t tokens, uint64_t number) const {
    const uint64_t rows = spec_.q_rows() + 2 * spec_.kv_rows();
    return tokens * (2 * spec_.hidden * kFloat +
                     (spec_.hidden + 2 * rows + spec_.q_rows() + 3 * spec_.intermediate) * number);
  }
  // … and what the backward pass keeps and adds.
  uint64_t BackwardBytes(uint64_t tokens, uint64_t number) const {
    const uint64_t rows = 3 * spec_.q_rows() + 2 * spec_.kv_rows();
    const uint64_t kept = 8 * spec_.hidden + number * (rows + 2 * spec_.intermediate);
    const uint64_t gradients = 4 * spec_.hidden * kFloat + number * (rows + 3 * spec_.intermediate);
    return tokens * (kept + gradients);
  }
  // Scores of attention that exist together in fp32, for the way there and back.
  uint64_t ScoreBytes(uint64_t length) const {
    return 4 * static_cast<uint64_t>(spec_.heads) * std::min(length, kScoreQueries) * length *
           kFloat;
  }
  uint64_t LogitBytes(uint64_t tokens, uint64_t copies) const {
    return copies * tokens * spec_.vocab * kFloat;
  }
  // A weighed copy of a microbatch's widest input, and a band of its product.
  uint64_t SummingBytes(uint64_t tokens) const {
    const uint64_t widest = std::max(spec_.intermediate, std::max(spec_.hidden, spec_.q_rows()));
    return tokens * widest * (kHalf + kFloat) + 2048 * widest * kFloat;
  }

 private:
  static uint64_t Numbers(const LinearLayer& layer) {
    return static_cast<uint64_t>(layer.rows) * layer.cols;
  }
  static uint64_t Square(const LinearLayer& layer) {
    return static_cast<uint64_t>(layer.cols) * layer.cols;
  }

  const ArchitectureSpec& spec_;
  const v1::Recipe& recipe_;
  const std::vector<LinearLayer> layers_;
};

v1::DevicePhase Phase(const char* name, uint64_t weights, uint64_t states, uint64_t hessians,
                      uint64_t work, uint64_t host) {
  v1::DevicePhase out;
  out.set_name(name);
  out.set_weight_bytes(weights);
  out.set_state_bytes(states);
  out.set_hessian_bytes(hessians);
  out.set_work_bytes(work);
  out.set_host_bytes(host);
  return out;
}

}  // namespace

bool CalibratesInFloat(const ArchitectureSpec& spec) {
  if (BeyondLlama(spec).empty()) return false;
  const v1::Recipe any;
  const Shapes shapes(spec, any);
  const uint64_t blocks = static_cast<uint64_t>(spec.blocks) * shapes.BlockNumbers();
  return blocks + shapes.EndsNumbers() <= uint64_t{1} << 30;
}

std::vector<v1::DevicePhase> PlanDeviceMemory(const ArchitectureSpec& spec,
                                              const v1::Recipe& recipe,
                                              const v1::Calibration& calibration,
                                              const v1::Evaluation& evaluation) {
  const Shapes shapes(spec, recipe);
  const uint64_t length = std::max<uint64_t>(1, calibration.length());
  const uint64_t sequences = calibration.sequences();
  // What is not of the LLaMA form has its activations in fp32, and goes sequence by sequence.
  const bool in_half = BeyondLlama(spec).empty();
  const uint64_t number = in_half ? kHalf : kFloat;
  const uint64_t scores = in_half ? 0 : shapes.ScoreBytes(length);
  const uint64_t together = in_half ? std::max<uint64_t>(1, kMicrobatchTokens / length) : 1;
  const uint64_t batch = std::min(sequences, together) * length;
  const uint64_t part = std::min<uint64_t>(sequences, kMicrobatch) * length;
  const uint64_t row = static_cast<uint64_t>(spec.hidden) * kFloat;
  const uint64_t states = sequences * length * row;
  const uint64_t weights =
      (shapes.BlockNumbers() + shapes.EndsNumbers()) * (CalibratesInFloat(spec) ? kFloat : kHalf);
  std::vector<v1::DevicePhase> out;
  if (shapes.Guided()) {
    // What enters each block waits on the host for the way back.
    const uint64_t passes = std::max(shapes.BackwardBytes(batch, number) + scores,
                                     shapes.LogitBytes(std::min(batch, kHeadTokens), 3));
    // Of two workers: the activations at the one split block, of each task on the host and once
    // more while they are stored, and all those that this worker has made, until PROFILE reads
    // them. Every worker more adds as much.
    const uint64_t boundaries = kTasks * 2 * part * row + states / 2;
    out.push_back(Phase("token weights", weights, 0, 0, passes,
                        part * row * (spec.blocks + 1) + boundaries + shapes.StagedBytes()));
  }
  out.push_back(Phase("Hessians", weights, 2 * states, shapes.SumBytes(0),
                      shapes.ForwardBytes(batch, number) + scores + shapes.SummingBytes(batch),
                      shapes.StagedBytes() + shapes.StoringBytes()));
  out.push_back(Phase("factors and fits", weights, states, 0, shapes.QuantizeBytes(),
                      shapes.StagedBytes() + shapes.StoringBytes()));
  // Two models in bf16, one window at a time with its scores in fp32; their states wait on the host
  // between blocks.
  const uint64_t window = std::max<uint64_t>(1, evaluation.length());
  const uint64_t windows = std::max<uint64_t>(1, evaluation.sequences());
  out.push_back(Phase("evaluation", 2 * (shapes.BlockNumbers() + shapes.EndsNumbers()) * kHalf, 0,
                      0,
                      shapes.ForwardBytes(window, kFloat) + shapes.ScoreBytes(window) +
                          shapes.LogitBytes(std::min(window, kScoreTokens), 3) +
                          shapes.LogitBytes(std::min(window, kDoubleTokens), 6 * kDouble / kFloat),
                      2 * windows * window * row));
  return out;
}

}  // namespace shiftadd
