// One block of the model in plain ATen operators, on any device, and its backward pass. ATen types:
// include from .cc files of worker/reference only.
//
// The backward pass takes the products with weights by hand and leaves the rest (norms, RoPE,
// attention, SwiGLU) to LibTorch's autograd, piece by piece: the gradient at the output of every
// linear layer, which is what guided Hessians are made of, then lies open between the pieces.
// Nothing but the block's input is kept from the forward pass. fp32; the order of every sum is
// fixed on one thread.
#ifndef SHIFTADD_WORKER_REFERENCE_TORCH_BLOCK_H_
#define SHIFTADD_WORKER_REFERENCE_TORCH_BLOCK_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "worker/model/architecture_spec.h"
#include "worker/reference/block_weights.h"
#include "worker/reference/transformer_ops.h"

namespace shiftadd::reference {

// Cosines and sines of positions [0, tokens): each [tokens, 1, head_dim / 2], or undefined. Local
// blocks may have their own.
struct RopeTensors {
  at::Tensor cos, sin;
  at::Tensor local_cos, local_sin;
};
RopeTensors MakeRopeTensors(const RopeTable& table, int64_t tokens, at::Device device);

// x / sqrt(mean(x^2) + eps) * weight for every row of x [tokens, hidden].
at::Tensor TorchRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// RMS norm or layer norm of every row.
at::Tensor TorchNorm(const at::Tensor& x, const NormWeights& norm, double eps);

// Causal grouped-query attention of one sequence with RoPE: q [tokens, heads * dim], k and v
// [tokens, kv_heads * dim]; [tokens, heads * dim].
at::Tensor TorchAttention(const ArchitectureSpec& spec, const RopeTensors& rope,
                          const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const AttentionForm& form = {});

// Runs h [tokens, hidden] through the block. `visit`, which may be null, is called with the input
// of the block's layers, [tokens, width], in the order kAttn, kAttnOut, kMlp, kMlpAct.
using TensorVisitor = std::function<void(BlockInput input, const at::Tensor& x)>;
at::Tensor BlockForward(const ArchitectureSpec& spec, const BlockWeights& weights,
                        const RopeTensors& rope, const at::Tensor& h, const TensorVisitor* visit);

// Given the gradient g [tokens, hidden] of a scalar at the block's output, calls `visit` with its
// gradient at the output of each linear layer, [tokens, rows] (layer: its index in BlockLayers;
// called in falling order), and returns the gradient at the block's input h. Runs the block again,
// but for its last product. Gradients that are not finite are passed on as they are. Call outside
// inference mode, with gradients on.
using GradientVisitor = std::function<void(size_t layer, const at::Tensor& gradient)>;
at::Tensor BlockBackward(const ArchitectureSpec& spec, const BlockWeights& weights,
                         const RopeTensors& rope, const at::Tensor& h, const at::Tensor& g,
                         const GradientVisitor& visit);

// What follows the last block.
struct HeadWeights {
  NormWeights norm;  // undefined: none
  Linear proj;       // hidden -> embed_width, not loaded: none
  Linear head;
};
// Logits of h [tokens, hidden].
at::Tensor TorchHead(const ArchitectureSpec& spec, const HeadWeights& head, const at::Tensor& h);

// Means over each of `chunks` equal consecutive runs of columns of g^2, g [tokens, rows]: [tokens,
// chunks].
at::Tensor MeanSquares(const at::Tensor& g, int64_t chunks);

// The gradient at h [tokens, hidden], the last block's output, of the summed cross entropy
//   sum over t < tokens - 1 of -log softmax(head(norm(h_t)))[labels[t]],
// labels [tokens - 1] (I64, on h's device). Logits exist for `chunk` tokens at a time.
at::Tensor LossGradient(const ArchitectureSpec& spec, const HeadWeights& head, const at::Tensor& h,
                        const at::Tensor& labels, int64_t chunk);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_TORCH_BLOCK_H_
