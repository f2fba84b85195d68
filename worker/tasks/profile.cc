// PROFILE and ENDS: candidates of one block's layers, and the tensors that no candidate covers.
#include <chrono>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/quantize/layer_blob.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What the recipe asks of one layer: its widths, or none if it is skipped.
std::vector<int> WidthsOf(const v1::Recipe& recipe, const std::string& layer) {
  std::vector<int> widths(recipe.candidate_bits().begin(), recipe.candidate_bits().end());
  for (const v1::RecipeOverride& override_ : recipe.overrides()) {
    if (!GlobMatches(override_.glob(), layer)) continue;
    if (override_.skip()) return {};
    if (override_.has_bits()) widths = {static_cast<int>(override_.bits())};
  }
  return widths;
}

// Brings the session's activations to the input of `block`: those held, or the nearest boundary, or
// the embedding.
absl::Status Advance(const v1::ProfileTask& task, JobSession* session, ReferenceModel* model,
                     TaskControl* control) {
  const int64_t block = task.block();
  int64_t from = session->held_block();
  if (from < 0 || from > block) {
    session->held().clear();
    session->SetHeldBlock(-1);
    from = 0;
    for (const v1::Boundary& boundary : task.boundaries()) from = boundary.block();
    std::vector<HiddenStates> parts(static_cast<size_t>(task.tokens_digests_size()));
    if (from > 0) {
      for (const v1::Boundary& boundary : task.boundaries()) {
        if (boundary.part() >= parts.size() || boundary.block() != from || from > block) {
          return absl::InvalidArgumentError(absl::StrCat(
              "profile task: boundary of block ", boundary.block(), " part ", boundary.part(),
              " does not suit block ", block, " of ", parts.size(), " parts"));
        }
        SA_ASSIGN_OR_RETURN(parts[boundary.part()], session->ReadHidden(boundary.digest()));
        ++control->progress_count;
      }
    } else {
      for (size_t part = 0; part < parts.size(); ++part) {
        SA_ASSIGN_OR_RETURN(const TokenWindows windows,
                            session->ReadTokens(task.tokens_digests(static_cast<int>(part))));
        SA_ASSIGN_OR_RETURN(parts[part],
                            model->Embed(windows.tokens, windows.count, windows.length));
      }
    }
    session->held() = std::move(parts);
    session->SetHeldBlock(from);
  }
  for (; from < block; ++from) {
    // Not held while it is neither one block's input nor the next's.
    session->SetHeldBlock(-1);
    PhaseTimer timer(session->metrics().forward);
    for (HiddenStates& hidden : session->held()) {
      SA_RETURN_IF_ERROR(model->RunBlock(from, &hidden, nullptr, control));
      ++control->progress_count;
    }
    session->SetHeldBlock(from + 1);
  }
  return absl::OkStatus();
}

// Runs `block` over every part: the Hessians of its inputs, and the activations behind it.
absl::StatusOr<std::vector<HessianMatrix>> Accumulate(int64_t block, const QuantRecipe& recipe,
                                                      JobSession* session, ReferenceModel* model,
                                                      TaskControl* control) {
  std::vector<int64_t> widths(kBlockInputs, 0);
  for (const LinearLayer& layer : BlockLayers(session->source().spec(), block)) {
    widths[static_cast<size_t>(layer.input)] = layer.cols;
  }
  std::vector<std::unique_ptr<HessianAccumulator>> sums;
  sums.reserve(widths.size());
  for (const int64_t width : widths)
    sums.push_back(HessianAccumulator::Create(width, recipe.hessian));
  session->SetHeldBlock(-1);
  int64_t first = 0;
  {
    PhaseTimer timer(session->metrics().forward);
    for (HiddenStates& hidden : session->held()) {
      const InputVisitor visitor = [&](BlockInput input, int64_t sequence, const float* x,
                                       int64_t tokens, int64_t) {
        sums[static_cast<size_t>(input)]->Add(first + sequence, x, tokens, nullptr);
      };
      SA_RETURN_IF_ERROR(Annotate(model->RunBlock(block, &hidden, &visitor, control),
                                  absl::StrCat("block ", block)));
      first += hidden.count;
      ++control->progress_count;
    }
  }
  session->SetHeldBlock(block + 1);
  PhaseTimer timer(session->metrics().hessian);
  std::vector<HessianMatrix> hessians;
  for (auto& sum : sums) {
    auto hessian = sum->Finish();
    if (!hessian.ok())
      return Annotate(hessian.status(),
                      absl::StrCat("block ", block, ", Hessian of input ", hessians.size()));
    hessians.push_back(*std::move(hessian));
    sum.reset();
    ++control->progress_count;
  }
  return hessians;
}

// The one candidate of a skipped layer: its weights as they are, bits 0, no error.
absl::StatusOr<Candidate> RawCandidate(const LinearLayer& layer, const std::vector<float>& weight) {
  Candidate raw;
  SA_ASSIGN_OR_RETURN(raw.blob, BuildRawLayerBlob(layer.name, weight, layer.rows, layer.cols));
  SA_ASSIGN_OR_RETURN(const auto file, ParseSafetensors(raw.blob, layer.name));
  for (const auto& [name, info] : file->tensors()) raw.stored_bytes += info.bytes;
  raw.stored_bits =
      8.0 * static_cast<double>(raw.stored_bytes) / static_cast<double>(layer.rows * layer.cols);
  return raw;
}

void Fill(const Candidate& candidate, const std::string& digest, v1::CandidateReport* out) {
  out->set_bits(static_cast<uint32_t>(candidate.bits));
  out->set_stored_bytes(candidate.stored_bytes);
  out->set_stored_bits(candidate.stored_bits);
  out->set_weight_error(candidate.weight_error);
  out->set_output_error(candidate.output_error);
  out->set_importance(candidate.importance);
  out->set_digest(digest);
}

}  // namespace

absl::StatusOr<v1::ProfileResult> RunProfile(const v1::TaskContext& context,
                                             const v1::ProfileTask& task, JobSession* session,
                                             TaskControl* control) {
  const QuantRecipe recipe = ToQuantRecipe(context.recipe());
  const ArchitectureSpec& spec = session->source().spec();
  if (task.block() >= spec.blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("profile task: block ", task.block(), " of ", spec.blocks));
  }
  SA_ASSIGN_OR_RETURN(ReferenceModel* const model, session->model());
  SA_RETURN_IF_ERROR(Advance(task, session, model, control));
  SA_ASSIGN_OR_RETURN(std::vector<HessianMatrix> hessians,
                      Accumulate(task.block(), recipe, session, model, control));

  const std::vector<LinearLayer> layers = BlockLayers(spec, task.block());
  std::vector<std::shared_ptr<const PreparedHessian>> prepared(kBlockInputs);
  v1::ProfileResult result;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    const Clock::time_point start = Clock::now();
    const size_t input = static_cast<size_t>(layer.input);
    if (prepared[input] == nullptr) {
      PhaseTimer timer(session->metrics().hessian);
      auto made = PreparedHessian::Create(hessians[input], recipe);
      if (!made.ok()) return Annotate(made.status(), layer.name);
      prepared[input] = *std::move(made);
    }
    SA_ASSIGN_OR_RETURN(const std::vector<float> weight, session->source().Read(layer.name));
    std::vector<Candidate> candidates;
    if (const std::vector<int> widths = WidthsOf(context.recipe(), layer.name); widths.empty()) {
      SA_ASSIGN_OR_RETURN(Candidate raw, RawCandidate(layer, weight));
      candidates.push_back(std::move(raw));
    } else {
      PhaseTimer timer(session->metrics().quantize);
      SA_ASSIGN_OR_RETURN(
          candidates, QuantizeLayer(layer.name, weight, layer.rows, layer.cols, {prepared[input]},
                                    recipe, widths, session->threads(), control));
    }
    v1::LayerReport* report = result.add_layers();
    for (const v1::LayerPlan& plan : task.layers()) {
      if (plan.name() == layer.name) *report->mutable_layer() = plan;
    }
    for (const Candidate& candidate : candidates) {
      PhaseTimer timer(session->metrics().store);
      SA_ASSIGN_OR_RETURN(const std::string digest, session->store().Put(candidate.blob));
      Fill(candidate, digest, report->add_candidates());
      ++control->progress_count;
    }
    report->set_seconds(SecondsSince(start));
    session->metrics().layers->Increment();
    control->progress = static_cast<double>(i + 1) / static_cast<double>(layers.size());
    SA_RETURN_IF_ERROR(control->Check());
  }
  return result;
}

absl::StatusOr<v1::EndsResult> RunEnds(const v1::TaskContext& context, JobSession* session) {
  const QuantRecipe recipe = ToQuantRecipe(context.recipe());
  v1::EndsResult result;
  SA_ASSIGN_OR_RETURN(
      const std::string head,
      BuildHeadBlob(session->source(), context.recipe().head() != v1::HEAD_ENCODING_RAW));
  SA_ASSIGN_OR_RETURN(const std::string unquantized,
                      BuildUnquantizedBlob(session->source(), recipe));
  PhaseTimer timer(session->metrics().store);
  SA_ASSIGN_OR_RETURN(*result.mutable_head_digest(), session->store().Put(head));
  SA_ASSIGN_OR_RETURN(*result.mutable_unquantized_digest(), session->store().Put(unquantized));
  result.set_head_bytes(head.size());
  result.set_unquantized_bytes(unquantized.size());
  return result;
}

}  // namespace shiftadd
