#include "worker/tasks/partial_hessian.h"

#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {
namespace {

constexpr char kSum[] = "sum";
constexpr int64_t kMaxWidth = int64_t{1} << 20;

const char* NameOf(QuantHessian kind) {
  switch (kind) {
    case QuantHessian::kPlain:
      return "plain";
    case QuantHessian::kRms:
      return "rms";
    case QuantHessian::kGuided:
      return "guided";
  }
  return "";
}

struct Header {
  QuantHessian kind = QuantHessian::kPlain;
  int64_t k = 0, tokens = 0;
};

bool ReadHeader(const TensorSource& file, Header* header) {
  const auto text = [&](const char* key) {
    const auto& metadata = file.metadata();
    return metadata.contains(key) && metadata[key].is_string() ? metadata[key].get<std::string>()
                                                               : std::string();
  };
  bool known = false;
  for (const QuantHessian kind :
       {QuantHessian::kPlain, QuantHessian::kRms, QuantHessian::kGuided}) {
    if (text("kind") != NameOf(kind)) continue;
    header->kind = kind;
    known = true;
  }
  return known && absl::SimpleAtoi(text("k"), &header->k) && header->k > 0 &&
         header->k <= kMaxWidth && absl::SimpleAtoi(text("tokens"), &header->tokens) &&
         header->tokens > 0;
}

}  // namespace

absl::StatusOr<std::string> WritePartialHessian(const PartialHessianSums& sums) {
  if (sums.chunks.empty()) return absl::InvalidArgumentError("partial Hessian: no chunk");
  const int64_t k = sums.chunks[0].k, tokens = sums.chunks[0].tokens, size = k * (k + 1) / 2;
  std::vector<double> packed;
  packed.reserve(static_cast<size_t>(size) * sums.chunks.size());
  for (const HessianSum& sum : sums.chunks) {
    if (sum.k != k || sum.tokens != tokens) {
      return absl::InvalidArgumentError(absl::StrCat("partial Hessian: chunks of width ", k,
                                                     " and ", sum.k, ", of ", tokens, " and ",
                                                     sum.tokens, " tokens"));
    }
    for (int64_t i = 0; i < k; ++i) {
      const double* row = sum.sum.data() + i * k;
      packed.insert(packed.end(), row + i, row + k);
    }
  }
  const absl::string_view bytes(reinterpret_cast<const char*>(packed.data()),
                                packed.size() * sizeof(double));
  return WriteSafetensors(
      {{kSum, DType::kF64, {static_cast<int64_t>(sums.chunks.size()), size}, bytes}},
      {{"kind", NameOf(sums.kind)}, {"k", absl::StrCat(k)}, {"tokens", absl::StrCat(tokens)}});
}

absl::StatusOr<PartialHessianSums> ReadPartialHessian(absl::string_view blob,
                                                      const std::string& label) {
  const auto damaged = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("partial Hessian ", label, ": ", what));
  };
  auto file = ParseSafetensors(blob, label);
  if (!file.ok()) return damaged(file.status().message());
  Header header;
  if (!ReadHeader(**file, &header)) return damaged("expected metadata kind, k and tokens");
  const int64_t k = header.k, size = k * (k + 1) / 2;
  const auto it = (*file)->tensors().find(kSum);
  if (it == (*file)->tensors().end() || it->second.dtype != DType::kF64 ||
      it->second.shape.size() != 2 || it->second.shape[0] < 1 || it->second.shape[1] != size) {
    return damaged(absl::StrCat("expected one F64 tensor \"sum\" of [chunks, ", size, "]"));
  }
  SA_ASSIGN_OR_RETURN(const absl::string_view bytes, (*file)->Bytes(kSum));
  PartialHessianSums sums;
  sums.kind = header.kind;
  const char* from = bytes.data();
  for (int64_t c = 0; c < it->second.shape[0]; ++c) {
    HessianSum& sum = sums.chunks.emplace_back();
    sum.k = k;
    sum.tokens = header.tokens;
    sum.sum.assign(static_cast<size_t>(k * k), 0.0);
    for (int64_t i = 0; i < k; ++i) {
      const size_t row = static_cast<size_t>(k - i) * sizeof(double);
      std::memcpy(sum.sum.data() + i * k + i, from, row);
      from += row;
    }
  }
  return sums;
}

absl::Status AddPartialHessian(PartialHessianSums part, PartialHessianSums* total) {
  if (total->chunks.empty()) {
    *total = std::move(part);
    return absl::OkStatus();
  }
  const auto are = [&](QuantHessian a, QuantHessian b) {
    return total->kind == a && part.kind == b && total->chunks.size() == 1 &&
           part.chunks.size() == 1 && total->chunks[0].k == part.chunks[0].k;
  };
  if (are(QuantHessian::kPlain, QuantHessian::kRms)) std::swap(*total, part);
  if (are(QuantHessian::kRms, QuantHessian::kPlain)) {
    total->chunks[0].tokens += part.chunks[0].tokens;
    return absl::OkStatus();
  }
  if (part.kind != total->kind || part.chunks.size() != total->chunks.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "partial Hessians of kinds ", NameOf(total->kind), " and ", NameOf(part.kind), ", of ",
        total->chunks.size(), " and ", part.chunks.size(), " chunks cannot be added"));
  }
  for (size_t c = 0; c < part.chunks.size(); ++c) {
    SA_RETURN_IF_ERROR(AddHessianSum(part.chunks[c], &total->chunks[c]));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd
