// One block of the model in bf16, and its backward pass: what calibration runs on a GPU. ATen
// types: include from .cc files of worker/reference only.
//
// Weights and the inputs of products are bf16, products are summed in fp32 (on the tensor cores);
// the residual stream and its gradient are fp32, norms and token weights are computed in fp32. Some
// sequences go through together, a microbatch; all shapes are functions of it alone, and the
// attention's backward pass is told to add in a fixed order, so the numbers are the same from run
// to run. On a GPU attention is LibTorch's flash attention; elsewhere (tests, odd heads) plain
// operators in fp32.
#ifndef SHIFTADD_WORKER_REFERENCE_HALF_BLOCK_H_
#define SHIFTADD_WORKER_REFERENCE_HALF_BLOCK_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "worker/model/model_source.h"
#include "worker/reference/torch_block.h"

namespace shiftadd::reference {

struct HalfLinear {
  at::Tensor weight;  // [out, in] bf16
  at::Tensor bias;    // [out] bf16, or undefined
};

struct HalfBlock {
  at::Tensor attn_norm, mlp_norm;  // [hidden] fp32
  HalfLinear q, k, v, o, gate, up, down;
};
absl::StatusOr<std::shared_ptr<const HalfBlock>> ReadHalfBlock(const WeightProvider& weights,
                                                               int64_t block, at::Device device);

// What a backward pass needs of the forward pass.
struct HalfActivations {
  at::Tensor h, middle;           // [tokens, hidden] fp32: the block's input, and before the MLP
  at::Tensor q, k, v;             // [tokens, rows] bf16, before RoPE
  at::Tensor mixed;               // [tokens, heads * dim] bf16
  std::vector<at::Tensor> fused;  // of flash attention
  at::Tensor gate, up;            // [tokens, intermediate] bf16
};

// The sequences of a microbatch: `count` of `length` tokens.
struct Microbatch {
  int64_t count = 0, length = 0;
};

// Runs h [count * length, hidden] fp32 through the block; a new tensor. `visit` (may be null) sees
// the inputs of its layers, bf16; `keep` (may be null) gets what HalfBackward needs. In inference
// mode or not: no operator records a gradient.
at::Tensor HalfForward(const ArchitectureSpec& spec, const HalfBlock& weights,
                       const RopeTensors& rope, const Microbatch& batch, const at::Tensor& h,
                       const TensorVisitor* visit, HalfActivations* keep);

// As BlockBackward: g [tokens, hidden] fp32, the gradients that `visit` sees bf16. Outside
// inference mode.
at::Tensor HalfBackward(const ArchitectureSpec& spec, const HalfBlock& weights,
                        const RopeTensors& rope, const Microbatch& batch,
                        const HalfActivations& kept, const at::Tensor& g,
                        const GradientVisitor& visit);

// MeanSquares of a gradient in bf16, in fp32.
at::Tensor HalfMeanSquares(const at::Tensor& g, int64_t chunks);

// LossGradient of a microbatch: h [tokens, hidden] fp32, labels [tokens] (I64, on h's device; those
// of each sequence's last token are not looked at). `head` [vocab, hidden] bf16.
at::Tensor HalfLossGradient(const ArchitectureSpec& spec, const at::Tensor& final_norm,
                            const at::Tensor& head, const Microbatch& batch, const at::Tensor& h,
                            const at::Tensor& labels, int64_t chunk);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_HALF_BLOCK_H_
