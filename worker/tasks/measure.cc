// MEASURE: the KL of the model with one layer alone quantized, for each of its candidates.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/evaluate/evaluate.h"
#include "worker/packed/packed_blob.h"
#include "worker/quantize/layer_blob.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {
namespace {

// The first `wanted` windows of all parts (0 = all), which must be of one length.
absl::StatusOr<TokenWindows> ReadWindows(const v1::MeasureTask& task, JobSession* session) {
  TokenWindows all;
  for (const std::string& digest : task.tokens_digests()) {
    if (task.windows() > 0 && all.count >= task.windows()) break;
    SA_ASSIGN_OR_RETURN(const TokenWindows part, session->ReadTokens(digest));
    if (all.count > 0 && part.length != all.length) {
      return absl::InvalidArgumentError(absl::StrCat("measure task: windows of ", part.length,
                                                     " tokens after windows of ", all.length));
    }
    all.count += part.count;
    all.length = part.length;
    all.tokens.insert(all.tokens.end(), part.tokens.begin(), part.tokens.end());
  }
  if (task.windows() > 0 && all.count > task.windows()) {
    all.count = task.windows();
    all.tokens.resize(static_cast<size_t>(all.count * all.length));
  }
  return all;
}

// What layer blobs leave to the package.
absl::StatusOr<PackedContext> ContextOf(const v1::TaskContext& context, JobSession* session) {
  SA_ASSIGN_OR_RETURN(std::string blob,
                      BuildUnquantizedBlob(session->source(), ToQuantRecipe(context.recipe())));
  PackedContext out;
  SA_ASSIGN_OR_RETURN(out.unquantized, ParseUnquantized(std::move(blob), session->source().spec(),
                                                        "the model's unquantized tensors"));
  return out;
}

absl::StatusOr<std::vector<float>> ReadCandidate(const LinearLayer& layer,
                                                 const std::string& digest,
                                                 const PackedContext& context,
                                                 JobSession* session) {
  SA_ASSIGN_OR_RETURN(std::string blob, session->store().Get(digest));
  SA_ASSIGN_OR_RETURN(
      const PackedLayer packed,
      ParsePackedLayer(std::move(blob), layer.name, layer.rows, layer.cols, context, digest));
  std::vector<float> weight(static_cast<size_t>(layer.rows * layer.cols));
  DequantizeLayerRows(packed, 0, layer.rows, weight.data());
  return weight;
}

}  // namespace

absl::StatusOr<v1::MeasureResult> RunMeasure(const v1::TaskContext& context,
                                             const v1::MeasureTask& task, JobSession* session,
                                             TaskControl* control) {
  v1::MeasureResult result;
  if (task.layers().empty()) return result;
  const int64_t block = task.layers(0).layer().block();
  if (block >= session->source().spec().blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("measure task: block ", block, " of ", session->source().spec().blocks));
  }
  SA_ASSIGN_OR_RETURN(const TokenWindows windows, ReadWindows(task, session));
  SA_ASSIGN_OR_RETURN(const PackedContext packed_context, ContextOf(context, session));
  const std::vector<LinearLayer> of_block = BlockLayers(session->source().spec(), block);
  std::vector<LayerToMeasure> layers;
  for (const v1::LayerReport& report : task.layers()) {
    const auto found = std::find_if(of_block.begin(), of_block.end(), [&](const LinearLayer& l) {
      return l.name == report.layer().name();
    });
    if (found == of_block.end()) {
      return absl::InvalidArgumentError(absl::StrCat("measure task: ", report.layer().name(),
                                                     " is not a layer of block ", block));
    }
    LayerToMeasure& layer = layers.emplace_back(LayerToMeasure{*found, {}});
    for (const v1::CandidateReport& candidate : report.candidates()) {
      layer.candidates.push_back([&, name = *found, digest = candidate.digest()] {
        return ReadCandidate(name, digest, packed_context, session);
      });
    }
  }
  SA_ASSIGN_OR_RETURN(ReferenceModel* const model, session->model());
  PhaseTimer timer(session->metrics().measure);
  SA_ASSIGN_OR_RETURN(
      const std::vector<std::vector<double>> kl,
      MeasureLayers(model, session->source(), block, layers, windows.tokens, windows.count,
                    windows.length, {session->threads(), 1, session->device()}, control));
  for (size_t i = 0; i < layers.size(); ++i) {
    v1::MeasuredLayer* out = result.add_layers();
    out->set_layer(layers[i].layer.name);
    for (const double value : kl[i]) out->add_kl(value);
  }
  return result;
}

}  // namespace shiftadd
