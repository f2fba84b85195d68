// plain.h and LibTorch's tensors. Not the log: LibTorch's headers bring another fmt than spdlog's.
#ifndef SHIFTADD_CMAKE_PRECOMPILED_TORCH_H_
#define SHIFTADD_CMAKE_PRECOMPILED_TORCH_H_

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include "deploy/cmake/precompiled/plain.h"

#endif  // SHIFTADD_CMAKE_PRECOMPILED_TORCH_H_
