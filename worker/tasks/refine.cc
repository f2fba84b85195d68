// REFINE: layers quantized again, in order, on the inputs that the quantized layers before them
// give.
//
// HESSIAN sums the second moments of one input over one calibration part (sequences in order,
// float64). FIT adds the parts in part order, which is the same for any number of workers, and
// quantizes a shard of rows; shards end where rows may be cut, so JOIN makes the bytes that all
// rows at once would give.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tasks/input_sums.h"
#include "worker/tasks/partial_hessian.h"
#include "worker/tasks/refined_weights.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {
namespace {

absl::Status Wrong(const v1::RefineTask& task, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("refine task: block ", task.block(), " input ", task.input(), ": ", what));
}

std::vector<LayerRows> ShardsOf(const v1::RefineTask& task) {
  std::vector<LayerRows> shards;
  for (const v1::RefinedShard& s : task.shards()) {
    shards.push_back({s.layer(), static_cast<int64_t>(s.row_begin()),
                      static_cast<int64_t>(s.row_end()), s.digest()});
  }
  return shards;
}

// The task's layers as the model has them, in the task's order.
absl::StatusOr<std::vector<LinearLayer>> TaskLayers(const v1::RefineTask& task,
                                                    const ArchitectureSpec& spec) {
  if (task.block() >= spec.blocks) return Wrong(task, absl::StrCat("of ", spec.blocks, " blocks"));
  if (task.bits_size() != task.layers_size()) {
    return Wrong(task,
                 absl::StrCat(task.bits_size(), " widths for ", task.layers_size(), " layers"));
  }
  const std::vector<LinearLayer> all = BlockLayers(spec, task.block());
  std::vector<LinearLayer> layers;
  for (const v1::LayerPlan& plan : task.layers()) {
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const LinearLayer& l) { return l.name == plan.name(); });
    const bool read = task.step() == v1::REFINE_STEP_JOIN || found == all.end() ||
                      static_cast<uint32_t>(found->input) == task.input();
    if (found == all.end() || !read) {
      return Wrong(task, absl::StrCat("layer ", plan.name(), " does not read this input"));
    }
    layers.push_back(*found);
  }
  return layers;
}

// --- HESSIAN ---

// The token weights of every part, each checked against `hidden` where it is the task's own.
absl::StatusOr<std::vector<TokenWeights>> ReadWeights(const v1::RefineTask& task,
                                                      const std::vector<LinearLayer>& layers,
                                                      const QuantRecipe& recipe,
                                                      const HiddenStates& hidden,
                                                      JobSession* session) {
  std::vector<v1::TokenWeights> names(task.other_token_weights().begin(),
                                      task.other_token_weights().end());
  names.push_back(task.token_weights());
  std::vector<TokenWeights> parts(names.size());
  for (const v1::TokenWeights& name : names) {
    if (name.block() != task.block() || name.part() >= parts.size()) {
      return Wrong(task, absl::StrCat("token weights of block ", name.block(), " part ",
                                      name.part(), " of ", parts.size()));
    }
    TokenWeights& weights = parts[name.part()];
    SA_ASSIGN_OR_RETURN(weights, session->ReadTokenWeights(name.digest()));
    const bool own = name.part() == task.part();
    bool suits = weights.chunks == recipe.chunks &&
                 (!own || (weights.count == hidden.count && weights.length == hidden.length));
    for (const LinearLayer& layer : layers) suits = suits && weights.layers.count(layer.kind) > 0;
    if (suits) continue;
    return Wrong(
        task, absl::StrCat("token weights of part ", name.part(), ": found [", weights.count, ", ",
                           weights.length, ", ", weights.chunks, "], expected [", hidden.count,
                           ", ", hidden.length, ", ", recipe.chunks, "] for every layer"));
  }
  if (task.token_weights().part() != task.part()) return Wrong(task, "token weights of its part");
  return parts;
}

// The activations that enter the task's block.
absl::StatusOr<HiddenStates> EnterBlock(const v1::RefineTask& task, JobSession* session,
                                        ReferenceModel* model, TaskControl* control) {
  if (!task.tokens_digest().empty()) {
    if (task.block() != 0 || task.input() != 0) return Wrong(task, "tokens enter block 0 only");
    SA_ASSIGN_OR_RETURN(const TokenWindows windows, session->ReadTokens(task.tokens_digest()));
    return model->Embed(windows.tokens, windows.count, windows.length);
  }
  const uint32_t from = task.boundary().block();
  if (from > task.block() || from + (task.input() == 0 ? 1 : 0) != task.block()) {
    return Wrong(task, absl::StrCat("found the boundary of block ", from));
  }
  SA_ASSIGN_OR_RETURN(HiddenStates hidden, session->ReadHidden(task.boundary().digest()));
  PhaseTimer timer(session->metrics().forward);
  for (int64_t block = from; block < task.block(); ++block)
    SA_RETURN_IF_ERROR(model->RunBlock(block, &hidden, nullptr, control));
  return hidden;
}

absl::StatusOr<v1::RefineResult> Hessian(const QuantRecipe& recipe, const v1::RefineTask& task,
                                         const std::vector<LinearLayer>& layers,
                                         JobSession* session, TaskControl* control) {
  if (task.input() >= kBlockInputs) return Wrong(task, "there are four inputs");
  SA_ASSIGN_OR_RETURN(const auto weights,
                      OpenRefinedWeights(&session->source(), recipe, ShardsOf(task),
                                         [session](const std::string& digest) {
                                           return session->store().GetScratch(session->job_id(),
                                                                              digest);
                                         }));
  SA_ASSIGN_OR_RETURN(const auto model,
                      ReferenceModel::Create(weights.get(), session->threads(),
                                             /*resident_blocks=*/1, session->device()));
  SA_ASSIGN_OR_RETURN(const HiddenStates hidden, EnterBlock(task, session, model.get(), control));
  v1::RefineResult result;
  if (task.input() == 0) {
    v1::Boundary* boundary = result.mutable_boundary();
    boundary->set_block(task.block());
    boundary->set_part(task.part());
    SA_ASSIGN_OR_RETURN(*boundary->mutable_digest(), session->WriteHidden(hidden));
  }
  control->progress = 0.5;
  if (layers.empty()) return result;
  InputSumsOptions options;
  options.block = task.block();
  options.input = static_cast<BlockInput>(task.input());
  options.layers = layers;
  options.kind = recipe.hessian;
  options.chunks = recipe.chunks;
  options.part = task.part();
  if (recipe.hessian == QuantHessian::kGuided) {
    SA_ASSIGN_OR_RETURN(options.weights, ReadWeights(task, layers, recipe, hidden, session));
  }
  std::vector<LayerSums> sums;
  {
    PhaseTimer timer(session->metrics().hessian);
    SA_ASSIGN_OR_RETURN(sums, SumInput(options, hidden, model.get(), control));
  }
  for (LayerSums& of : sums) {
    SA_ASSIGN_OR_RETURN(const std::string blob, WritePartialHessian(of.sums));
    of.sums = {};
    v1::PartialHessian* out = result.add_hessians();
    out->set_layer(of.layer);
    out->set_part(task.part());
    PhaseTimer timer(session->metrics().store);
    SA_ASSIGN_OR_RETURN(*out->mutable_digest(),
                        session->store().PutScratch(session->job_id(), blob));
  }
  return result;
}

// --- FIT ---

struct LayerFactors {
  QuantHessian kind = QuantHessian::kPlain;
  std::vector<std::shared_ptr<const PreparedHessian>> chunks;
};

// Adds up the partial Hessians of one layer, in part order, and factors the sum.
absl::StatusOr<LayerFactors> Factor(const v1::RefineTask& task, const std::string& layer,
                                    QuantRecipe recipe, JobSession* session, TaskControl* control) {
  PartialHessianSums total;
  uint32_t part = 0;
  for (const v1::PartialHessian& partial : task.hessians()) {
    if (!partial.layer().empty() && partial.layer() != layer) continue;
    if (partial.part() != part++)
      return Wrong(task, absl::StrCat("part ", part - 1, " is missing"));
    std::string blob;
    {
      PhaseTimer timer(session->metrics().load);
      SA_ASSIGN_OR_RETURN(blob, session->store().GetScratch(session->job_id(), partial.digest()));
    }
    PhaseTimer timer(session->metrics().hessian);
    SA_ASSIGN_OR_RETURN(PartialHessianSums sums, ReadPartialHessian(blob, partial.digest()));
    SA_RETURN_IF_ERROR(AddPartialHessian(std::move(sums), &total));
    ++control->progress_count;
    SA_RETURN_IF_ERROR(control->Check());
  }
  if (total.chunks.empty()) return Wrong(task, "no Hessian");
  PhaseTimer timer(session->metrics().hessian);
  LayerFactors out;
  out.kind = recipe.hessian = total.kind;
  for (HessianSum& sum : total.chunks) {
    SA_ASSIGN_OR_RETURN(const HessianMatrix h, FinishHessian(sum));
    sum = {};
    SA_ASSIGN_OR_RETURN(out.chunks.emplace_back(), PreparedHessian::Create(h, recipe));
    ++control->progress_count;
  }
  return out;
}

// The task's rows of every layer. The layers' rows are laid end to end and cut into equal runs, so
// that a shard has to factor as few Hessians as can be; cuts move down to where the layer may be
// cut.
std::vector<std::pair<int64_t, int64_t>> ShardRows(const v1::RefineTask& task,
                                                   const QuantRecipe& recipe,
                                                   const std::vector<LinearLayer>& layers) {
  int64_t all = 0;
  for (const LinearLayer& layer : layers) all += layer.rows;
  const int64_t shard = task.shard(), total = task.shards_total();
  std::vector<std::pair<int64_t, int64_t>> rows;
  int64_t before = 0;
  for (const LinearLayer& layer : layers) {
    const int64_t unit = RowAlignment(recipe, layer.rows);
    const auto cut = [&](int64_t at) {
      const int64_t row = std::clamp<int64_t>(at - before, 0, layer.rows);
      return row == layer.rows ? row : row / unit * unit;
    };
    rows.emplace_back(cut(all * shard / total), cut(all * (shard + 1) / total));
    before += layer.rows;
  }
  return rows;
}

v1::Hessian HessianField(QuantHessian kind) {
  switch (kind) {
    case QuantHessian::kGuided:
      return v1::HESSIAN_GUIDED;
    case QuantHessian::kRms:
      return v1::HESSIAN_RMS;
    case QuantHessian::kPlain:
      break;
  }
  return v1::HESSIAN_PLAIN;
}

absl::Status FitLayer(const LinearLayer& layer, int bits, std::pair<int64_t, int64_t> rows,
                      const LayerFactors& factors, QuantRecipe recipe, JobSession* session,
                      TaskControl* control, v1::RefineResult* result) {
  const auto [begin, end] = rows;
  std::vector<float> weight;
  {
    PhaseTimer timer(session->metrics().load);
    SA_ASSIGN_OR_RETURN(weight, session->source().Read(layer.name));
  }
  const std::vector<float> part(weight.begin() + begin * layer.cols,
                                weight.begin() + end * layer.cols);
  weight = {};
  recipe.hessian = factors.kind;
  StageSeconds seconds;
  const auto made =
      QuantizeLayer(layer.name, part, end - begin, layer.cols, factors.chunks, recipe, {bits},
                    session->threads(), control, &seconds, LayerShard{begin, layer.rows});
  session->metrics().fit.Add(seconds.fit);
  session->metrics().sweep.Add(seconds.sweep);
  session->metrics().measure.Add(seconds.measure);
  SA_RETURN_IF_ERROR(made.status());
  const Candidate& candidate = made->front();
  v1::RefinedShard* shard = result->add_shards();
  shard->set_layer(layer.name);
  shard->set_row_begin(static_cast<uint64_t>(begin));
  shard->set_row_end(static_cast<uint64_t>(end));
  shard->set_weight_error(candidate.sums.weight);
  shard->set_weight_norm(candidate.sums.weight_norm);
  shard->set_output_error(candidate.sums.output);
  shard->set_output_norm(candidate.sums.output_norm);
  shard->set_guided_error(candidate.guided_error);
  shard->set_stored_bytes(candidate.stored_bytes);
  shard->set_hessian(HessianField(factors.kind));
  PhaseTimer timer(session->metrics().store);
  SA_ASSIGN_OR_RETURN(*shard->mutable_digest(),
                      session->store().PutScratch(session->job_id(), candidate.blob));
  return absl::OkStatus();
}

absl::StatusOr<v1::RefineResult> Fit(const QuantRecipe& recipe, const v1::RefineTask& task,
                                     const std::vector<LinearLayer>& layers, JobSession* session,
                                     TaskControl* control) {
  if (task.shard() >= task.shards_total()) {
    return Wrong(task, absl::StrCat("shard ", task.shard(), " of ", task.shards_total()));
  }
  const bool shared = !task.hessians().empty() && task.hessians(0).layer().empty();
  const auto shard = ShardRows(task, recipe, layers);
  v1::RefineResult result;
  LayerFactors factors;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::pair<int64_t, int64_t> rows = shard[i];
    if (rows.first < rows.second) {
      if (factors.chunks.empty() || !shared) {
        factors = {};  // one layer's at a time
        auto made = Factor(task, layers[i].name, recipe, session, control);
        if (!made.ok()) return Annotate(made.status(), layers[i].name);
        factors = *std::move(made);
      }
      SA_RETURN_IF_ERROR(FitLayer(layers[i], static_cast<int>(task.bits(static_cast<int>(i))), rows,
                                  factors, recipe, session, control, &result));
    }
    control->progress = static_cast<double>(i + 1) / static_cast<double>(layers.size());
    SA_RETURN_IF_ERROR(control->Check());
  }
  return result;
}

// --- JOIN ---

// What the layer's shards come to. Importance and the paper's criterion stay 0: they are for the
// solver, which has chosen already.
void FillCandidate(const std::vector<const v1::RefinedShard*>& shards, const LinearLayer& layer,
                   v1::CandidateReport* out) {
  double weight = 0, weight_norm = 0, output = 0, output_norm = 0, guided = 0;
  uint64_t bytes = 0;
  for (const v1::RefinedShard* s : shards) {
    weight += s->weight_error();
    weight_norm += s->weight_norm();
    output += s->output_error();
    output_norm += s->output_norm();
    guided += s->guided_error();
    bytes += s->stored_bytes();
  }
  const auto weights = static_cast<double>(layer.rows * layer.cols);
  out->set_stored_bytes(bytes);
  out->set_stored_bits(8.0 * static_cast<double>(bytes) / weights);
  out->set_weight_error(weight_norm > 0 ? weight / weight_norm : 0);
  out->set_output_error(output_norm > 0 ? output / output_norm : 0);
  out->set_guided_error(guided);
}

// What was done otherwise than the recipe says.
std::string NoteOf(const QuantRecipe& recipe, const v1::RefinedShard& shard) {
  const v1::Hessian used = shard.hessian();
  if (used == HessianField(recipe.hessian)) return "";
  if (used == v1::HESSIAN_RMS) return "refining: unit-RMS tokens";
  return used == v1::HESSIAN_PLAIN ? "refining: plain Hessian" : "";
}

absl::StatusOr<v1::RefineResult> Join(const QuantRecipe& recipe, const v1::RefineTask& task,
                                      const std::vector<LinearLayer>& layers, JobSession* session,
                                      TaskControl* control) {
  v1::RefineResult result;
  const std::vector<LayerRows> all = ShardsOf(task);
  for (size_t i = 0; i < layers.size(); ++i) {
    std::vector<LayerRows> rows;
    std::vector<const v1::RefinedShard*> shards;
    std::vector<std::string> blobs;
    for (size_t s = 0; s < all.size(); ++s) {
      if (all[s].layer != layers[i].name) continue;
      rows.push_back(all[s]);
      shards.push_back(&task.shards(static_cast<int>(s)));
      PhaseTimer timer(session->metrics().load);
      SA_ASSIGN_OR_RETURN(blobs.emplace_back(),
                          session->store().GetScratch(session->job_id(), all[s].digest));
    }
    SA_RETURN_IF_ERROR(CheckRowsCover(layers[i].name, layers[i].rows, rows));
    SA_ASSIGN_OR_RETURN(const std::string blob, JoinLayerBlobs(layers[i].name, blobs));
    v1::LayerReport* report = result.add_layers();
    *report->mutable_layer() = task.layers(static_cast<int>(i));
    report->set_note(NoteOf(recipe, *shards.front()));
    v1::CandidateReport* candidate = report->add_candidates();
    candidate->set_bits(task.bits(static_cast<int>(i)));
    FillCandidate(shards, layers[i], candidate);
    PhaseTimer timer(session->metrics().store);
    SA_ASSIGN_OR_RETURN(*candidate->mutable_digest(), session->store().Put(blob));
    session->metrics().layers->Increment();
    ++control->progress_count;
    SA_RETURN_IF_ERROR(control->Check());
  }
  return result;
}

}  // namespace

absl::StatusOr<v1::RefineResult> RunRefine(const v1::TaskContext& context,
                                           const v1::RefineTask& task, JobSession* session,
                                           TaskControl* control) {
  const QuantRecipe recipe = ToQuantRecipe(context.recipe());
  // The executor of the original weights is not needed again, nor the variants of EVALUATING, nor
  // what PROFILING held.
  session->ReleaseModel();
  session->variants() = {};
  session->held().clear();
  session->SetHeldBlock(-1);
  SA_ASSIGN_OR_RETURN(const std::vector<LinearLayer> layers,
                      TaskLayers(task, session->source().spec()));
  switch (task.step()) {
    case v1::REFINE_STEP_HESSIAN:
      return Hessian(recipe, task, layers, session, control);
    case v1::REFINE_STEP_FIT:
      return Fit(recipe, task, layers, session, control);
    case v1::REFINE_STEP_JOIN:
      return Join(recipe, task, layers, session, control);
    default:
      return absl::UnimplementedError(absl::StrCat("refine task: step ", task.step(),
                                                   "; is this worker older than the coordinator?"));
  }
}

}  // namespace shiftadd
