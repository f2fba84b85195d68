// PROFILE and ENDS: candidates of one block's layers, and the tensors that no candidate covers.
#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/quantize/device_quantizer.h"
#include "worker/quantize/layer_blob.h"
#include "worker/tasks/background_store.h"
#include "worker/tasks/block_hessians.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What the recipe asks of one layer: its widths, or none if it is skipped. A task's overrides name
// single layers: the coordinator has expanded the patterns.
std::vector<int> WidthsOf(const v1::Recipe& recipe, const std::string& layer) {
  std::vector<int> widths(recipe.candidate_bits().begin(), recipe.candidate_bits().end());
  for (const v1::RecipeOverride& override_ : recipe.overrides()) {
    if (override_.glob() != layer) continue;
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
      std::vector<std::string> digests(parts.size());
      for (const v1::Boundary& boundary : task.boundaries()) {
        if (boundary.part() >= parts.size() || boundary.block() != from || from > block) {
          return absl::InvalidArgumentError(absl::StrCat(
              "profile task: boundary of block ", boundary.block(), " part ", boundary.part(),
              " does not suit block ", block, " of ", parts.size(), " parts"));
        }
        digests[boundary.part()] = boundary.digest();
      }
      SA_ASSIGN_OR_RETURN(parts, session->ReadHidden(digests, model));
      for (HiddenStates& part : parts) SA_RETURN_IF_ERROR(model->ToDevice(&part));
      ++control->progress_count;
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

absl::StatusOr<std::vector<float>> ReadWeight(const LinearLayer& layer, JobSession* session) {
  PhaseTimer timer(session->metrics().load);
  return session->source().Read(layer.name);
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
  out->set_guided_error(candidate.guided_error);
  out->set_paper_criterion(candidate.paper_criterion);
  out->set_digest(digest);
}

// The token weights of every part, in part order.
absl::StatusOr<std::vector<TokenWeights>> ReadWeights(const v1::ProfileTask& task,
                                                      JobSession* session, TaskControl* control) {
  std::vector<TokenWeights> parts(static_cast<size_t>(task.token_weights_size()));
  for (const v1::TokenWeights& weights : task.token_weights()) {
    if (weights.part() >= parts.size() || weights.block() != task.block()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "profile task: token weights of block ", weights.block(), " part ", weights.part(),
          " do not suit block ", task.block(), " of ", parts.size(), " parts"));
    }
    SA_ASSIGN_OR_RETURN(parts[weights.part()], session->ReadTokenWeights(weights.digest()));
    ++control->progress_count;
  }
  return parts;
}

// A candidate whose blob may still be on its way into the store.
struct StoredCandidate {
  Candidate figures;
  std::future<absl::StatusOr<std::string>> digest;
};

// Factors Hessians; layers that share theirs get the same object, which is kept for the next layer
// only.
class HessianPreparer {
 public:
  HessianPreparer(QuantRecipe recipe, Phase* phase, TaskControl* control)
      : recipe_(recipe), phase_(*phase), control_(*control) {}

  // Takes the layer's Hessians.
  absl::StatusOr<std::vector<std::shared_ptr<const PreparedHessian>>> Prepare(
      LayerHessians* hessians) {
    PhaseTimer timer(phase_);
    if (hessians->chunks == of_) return prepared_;
    of_ = std::move(hessians->chunks);
    prepared_.clear();
    QuantRecipe recipe = recipe_;
    recipe.hessian = hessians->kind;
    for (const auto& h : of_) {
      SA_ASSIGN_OR_RETURN(auto made, PreparedHessian::Create(*h, recipe));
      prepared_.push_back(std::move(made));
      ++control_.progress_count;
      SA_RETURN_IF_ERROR(control_.Check());
    }
    return prepared_;
  }

 private:
  const QuantRecipe recipe_;
  Phase& phase_;
  TaskControl& control_;
  std::vector<std::shared_ptr<const HessianMatrix>> of_;
  std::vector<std::shared_ptr<const PreparedHessian>> prepared_;
};

// The same on the device.
class DeviceHessianPreparer {
 public:
  DeviceHessianPreparer(QuantRecipe recipe, Phase* phase, TaskControl* control)
      : recipe_(recipe), phase_(*phase), control_(*control) {}

  // Takes the layer's sums.
  absl::StatusOr<std::vector<std::shared_ptr<const DeviceHessian>>> Prepare(
      LayerHessians* hessians) {
    PhaseTimer timer(phase_);
    if (hessians->sums == of_) return prepared_;
    of_ = std::move(hessians->sums);
    prepared_.clear();
    QuantRecipe recipe = recipe_;
    recipe.hessian = hessians->kind;
    for (const auto& sum : of_) {
      SA_ASSIGN_OR_RETURN(auto made, DeviceHessian::Create(sum.get(), hessians->tokens, recipe));
      prepared_.push_back(std::move(made));
      ++control_.progress_count;
      SA_RETURN_IF_ERROR(control_.Check());
    }
    return prepared_;
  }

 private:
  const QuantRecipe recipe_;
  Phase& phase_;
  TaskControl& control_;
  std::vector<std::shared_ptr<InputSum>> of_;
  std::vector<std::shared_ptr<const DeviceHessian>> prepared_;
};

// Quantizes the layers of one block, in order, and stores their candidates in the background.
class BlockQuantizer {
 public:
  // `model` has just run the block.
  BlockQuantizer(const QuantRecipe& recipe, JobSession* session, ReferenceModel* model,
                 TaskControl* control)
      : recipe_(recipe),
        session_(*session),
        model_(*model),
        control_(*control),
        on_host_(recipe, &session->metrics().hessian, control),
        on_device_(recipe, &session->metrics().hessian, control),
        threads_(std::min(session->threads(), kStoreThreads)),
        store_(std::make_shared<BackgroundStore>(session->shared_store(), threads_, threads_)) {}

  // Candidates may be on their way through it.
  std::shared_ptr<BackgroundStore> store() const { return store_; }

  // No widths: the layer as it is.
  absl::StatusOr<std::vector<StoredCandidate>> Quantize(const LinearLayer& layer,
                                                        const std::vector<int>& widths,
                                                        LayerHessians* hessians) {
    std::vector<StoredCandidate> out;
    if (!widths.empty() && !hessians->sums.empty()) {
      SA_ASSIGN_OR_RETURN(std::vector<DeviceCandidate> made, OnDevice(layer, widths, hessians));
      for (DeviceCandidate& candidate : made)
        out.push_back({std::move(candidate.figures), store_->Put(std::move(candidate.blob))});
      return out;
    }
    SA_ASSIGN_OR_RETURN(const std::vector<float> weight, ReadWeight(layer, &session_));
    if (widths.empty()) {
      SA_ASSIGN_OR_RETURN(Candidate raw, RawCandidate(layer, weight));
      Store(std::move(raw), &out);
      return out;
    }
    SA_ASSIGN_OR_RETURN(std::vector<Candidate> made, OnHost(layer, weight, widths, hessians));
    for (Candidate& candidate : made) Store(std::move(candidate), &out);
    return out;
  }

 private:
  static constexpr int kStoreThreads = 8;

  void Store(Candidate candidate, std::vector<StoredCandidate>* out) {
    auto blob = std::make_shared<std::string>(std::move(candidate.blob));
    std::future<absl::StatusOr<std::string>> digest =
        store_->Put([blob]() -> absl::StatusOr<std::string> { return std::move(*blob); });
    out->push_back({std::move(candidate), std::move(digest)});
  }

  absl::StatusOr<std::vector<Candidate>> OnHost(const LinearLayer& layer,
                                                const std::vector<float>& weight,
                                                const std::vector<int>& widths,
                                                LayerHessians* hessians) {
    const auto prepared = on_host_.Prepare(hessians);
    if (!prepared.ok()) return Annotate(prepared.status(), layer.name);
    StageSeconds seconds;
    auto candidates =
        QuantizeLayer(layer.name, weight, layer.rows, layer.cols, *prepared, Recipe(*hessians),
                      widths, session_.threads(), &control_, &seconds);
    AddStages(seconds);
    return candidates;
  }

  absl::StatusOr<std::vector<DeviceCandidate>> OnDevice(const LinearLayer& layer,
                                                        const std::vector<int>& widths,
                                                        LayerHessians* hessians) {
    const auto prepared = on_device_.Prepare(hessians);
    if (!prepared.ok()) return Annotate(prepared.status(), layer.name);
    StageSeconds seconds;
    auto candidates =
        QuantizeLayerOnDevice(model_.weights(), layer.name, layer.rows, layer.cols, *prepared,
                              Recipe(*hessians), widths, &control_, &seconds);
    AddStages(seconds);
    return candidates;
  }

  QuantRecipe Recipe(const LayerHessians& hessians) const {
    QuantRecipe recipe = recipe_;
    recipe.hessian = hessians.kind;
    return recipe;
  }

  void AddStages(const StageSeconds& seconds) {
    session_.metrics().fit.Add(seconds.fit);
    session_.metrics().sweep.Add(seconds.sweep);
    session_.metrics().measure.Add(seconds.measure);
  }

  const QuantRecipe recipe_;
  JobSession& session_;
  ReferenceModel& model_;
  TaskControl& control_;
  HessianPreparer on_host_;
  DeviceHessianPreparer on_device_;
  const int threads_;
  const std::shared_ptr<BackgroundStore> store_;
};

// What was done otherwise than the recipe says. A layer whose every input was zero (no token went
// through it, or what comes before it is zero) has weights but no output to keep.
std::string NoteOf(const LayerHessians& hessians, const std::vector<StoredCandidate>& candidates) {
  std::string note = hessians.note;
  const Candidate& first = candidates.front().figures;
  if (first.bits > 0 && first.sums.weight_norm > 0 && first.sums.output_norm == 0) {
    absl::StrAppend(&note, note.empty() ? "" : "; ", "no input but zeros: all inputs count alike");
  }
  return note;
}

// The candidates of the block's layers, until they are stored.
struct StoredLayers {
  std::vector<std::vector<StoredCandidate>> candidates;  // by layer of the result
  std::shared_ptr<BackgroundStore> store;                // first of all to end
};

// Waits for the candidates' blobs, and reports them.
absl::Status FillReports(StoredLayers* layers, TaskControl* control, v1::ProfileResult* result) {
  for (size_t i = 0; i < layers->candidates.size(); ++i) {
    for (StoredCandidate& candidate : layers->candidates[i]) {
      SA_ASSIGN_OR_RETURN(const std::string digest, candidate.digest.get());
      Fill(candidate.figures, digest,
           result->mutable_layers(static_cast<int>(i))->add_candidates());
      ++control->progress_count;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunProfile(const v1::TaskContext& context, const v1::ProfileTask& task,
                        JobSession* session, TaskControl* control, v1::ProfileResult* result,
                        Closing* closing) {
  const QuantRecipe recipe = ToQuantRecipe(context.recipe());
  const ArchitectureSpec& spec = session->source().spec();
  if (task.block() >= spec.blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("profile task: block ", task.block(), " of ", spec.blocks));
  }
  SA_ASSIGN_OR_RETURN(ReferenceModel* const model, session->calibration_model());
  const std::vector<LinearLayer> layers = BlockLayers(spec, task.block());
  BlockHessiansOptions options;
  options.block = task.block();
  options.kind = recipe.hessian;
  options.chunks = recipe.chunks;
  options.on_device = session->device() == Device::kCuda && DeviceQuantizes(recipe);
  for (const LinearLayer& layer : layers)
    options.wanted.push_back(!WidthsOf(context.recipe(), layer.name).empty());
  if (recipe.hessian == QuantHessian::kGuided) {
    SA_ASSIGN_OR_RETURN(options.weights, ReadWeights(task, session, control));
  }
  SA_RETURN_IF_ERROR(Advance(task, session, model, control));
  SA_ASSIGN_OR_RETURN(std::vector<LayerHessians> hessians,
                      BlockHessians(options, session, model, control, [&] {
                        session->held().clear();
                        session->SetHeldBlock(-1);
                        return Advance(task, session, model, control);
                      }));

  BlockQuantizer quantizer(recipe, session, model, control);
  const auto stored = std::make_shared<StoredLayers>();
  stored->store = quantizer.store();
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    const Clock::time_point start = Clock::now();
    SA_ASSIGN_OR_RETURN(
        std::vector<StoredCandidate> made,
        quantizer.Quantize(layer, WidthsOf(context.recipe(), layer.name), &hessians[i]));
    stored->candidates.push_back(std::move(made));
    v1::LayerReport* report = result->add_layers();
    for (const v1::LayerPlan& plan : task.layers()) {
      if (plan.name() == layer.name) *report->mutable_layer() = plan;
    }
    report->set_note(NoteOf(hessians[i], stored->candidates.back()));
    report->set_seconds(SecondsSince(start));
    session->metrics().layers->Increment();
    control->progress = static_cast<double>(i + 1) / static_cast<double>(layers.size());
    SA_RETURN_IF_ERROR(control->Check());
  }
  *closing = [stored, control, result] { return FillReports(stored.get(), control, result); };
  return absl::OkStatus();
}

absl::Status RunEnds(const v1::TaskContext& context, JobSession* session, v1::EndsResult* result,
                     Closing* closing) {
  const QuantRecipe recipe = ToQuantRecipe(context.recipe());
  const bool raw = context.recipe().head() == v1::HEAD_ENCODING_RAW;
  const auto make = [recipe, raw, result, source = session->shared_source(),
                     store = session->shared_store(),
                     threads = session->threads()]() -> absl::Status {
    SA_ASSIGN_OR_RETURN(const std::string head, BuildHeadBlob(*source, !raw, threads));
    SA_ASSIGN_OR_RETURN(const std::string unquantized, BuildUnquantizedBlob(*source, recipe));
    SA_ASSIGN_OR_RETURN(*result->mutable_head_digest(), store->Put(head));
    SA_ASSIGN_OR_RETURN(*result->mutable_unquantized_digest(), store->Put(unquantized));
    result->set_head_bytes(head.size());
    result->set_unquantized_bytes(unquantized.size());
    return absl::OkStatus();
  };
  if (session->device() == Device::kCpu) return make();
  *closing = make;
  return absl::OkStatus();
}

}  // namespace shiftadd
