// INGEST and HASH: what the source is, and exactly which bytes.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "worker/quantize/parallel.h"
#include "worker/reference/microbatch.h"
#include "worker/tasks/device_memory.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {
namespace {

// Measured on two cores with AVX-512 for SmolLM2-135M; used for the estimate alone.
constexpr double kSecondsPerWeightAndWidth = 1.2e-6;
constexpr double kForwardFlopsPerSecond = 6e10;
constexpr double kPassesOverTokens = 4;  // writing them, FORWARD, PROFILE, evaluation
constexpr double kPassesBackward = 3;    // each block again, and twice its products
// Each block whole, and up to each of its inputs; and the second evaluation.
constexpr double kPassesRefining = 3.5;

bool Guided(const v1::Recipe& recipe) { return recipe.hessian() == v1::HESSIAN_GUIDED; }

// Second moments of one block's inputs, summed and factored. Guided: each layer has its own, one a
// chunk of rows.
uint64_t HessianBytes(const ArchitectureSpec& spec, const v1::Recipe& recipe) {
  const uint64_t widest = std::max(spec.intermediate, std::max(spec.hidden, spec.q_rows()));
  if (!Guided(recipe)) return 6 * widest * widest * sizeof(double);
  uint64_t numbers = 0;
  for (const LinearLayer& layer : BlockLayers(spec, 0)) {
    numbers += static_cast<uint64_t>(layer.cols) * layer.cols;
  }
  return 2 * std::max(1u, recipe.chunks()) * numbers * sizeof(double);
}

uint64_t BytesOf(const ArchitectureSpec& spec, uint64_t parameters, const v1::Recipe& recipe,
                 const v1::IngestTask& task) {
  // The model once, one more for evaluation's variant, activations in and out, the Hessians of one
  // block.
  const uint64_t tokens = uint64_t{task.calibration().sequences()} * task.calibration().length();
  const uint64_t activations = 2 * tokens * spec.hidden * sizeof(float);
  const uint64_t hessians = HessianBytes(spec, recipe);
  const uint64_t logits = 4 * uint64_t{task.calibration().length()} * spec.vocab * sizeof(float);
  return 2 * parameters * sizeof(float) + activations + hessians + logits;
}

void AddLayers(const ModelSource& source, v1::Plan* plan) {
  std::map<std::string, std::string> source_name;
  for (const SourceTensor& tensor : source.tensors()) source_name[tensor.name] = tensor.info.name;
  const ArchitectureSpec& spec = source.spec();
  for (int64_t block = 0; block < spec.blocks; ++block) {
    for (const LinearLayer& layer : BlockLayers(spec, block)) {
      v1::LayerPlan* out = plan->add_layers();
      out->set_name(layer.name);
      out->set_block(static_cast<uint32_t>(block));
      out->set_kind(layer.kind);
      out->set_rows(static_cast<uint64_t>(layer.rows));
      out->set_cols(static_cast<uint64_t>(layer.cols));
      out->set_source_tensor(source_name[layer.name]);
    }
  }
}

// Sizes of the head, the embedding and everything unquantized, before they exist.
uint64_t FixedBytes(const ModelSource& source, const v1::Recipe& recipe, uint64_t document_bytes) {
  const ArchitectureSpec& spec = source.spec();
  const uint64_t table = static_cast<uint64_t>(spec.vocab) * spec.embed_dim();
  const uint64_t tables = spec.tied_embeddings ? 1 : 2;
  const uint64_t groups = (spec.embed_dim() + 127) / 128;
  const uint64_t head =
      recipe.head() == v1::HEAD_ENCODING_RAW ? table * 2 : table + 2 * spec.vocab * groups;
  uint64_t plain = 0;
  for (const PlainTensor& tensor : PlainTensors(spec)) {
    plain += static_cast<uint64_t>(tensor.size()) * sizeof(float);
  }
  return tables * head + plain + document_bytes;
}

// What REFINING adds to the plan of a recipe that asks for it.
void AddRefining(const ArchitectureSpec& spec, const v1::Recipe& recipe, const v1::IngestTask& task,
                 v1::Plan* plan) {
  if (recipe.propagate() != v1::PROPAGATE_QUANTIZED) return;
  const uint64_t sequences = task.calibration().sequences();
  const uint64_t tokens = sequences * task.calibration().length();
  const uint64_t parts = (sequences + kMicrobatch - 1) / kMicrobatch;
  // Scratch is freed input by input: a float64 triangle for each part, and two boundaries.
  std::map<BlockInput, uint64_t> numbers;
  for (const LinearLayer& layer : BlockLayers(spec, 0)) {
    const uint64_t triangle = static_cast<uint64_t>(layer.cols) * (layer.cols + 1) / 2 * parts;
    uint64_t& n = numbers[layer.input];
    n = Guided(recipe) ? n + triangle * std::max(1u, recipe.chunks()) : triangle;
  }
  uint64_t widest = 0;
  for (const auto& [input, n] : numbers) widest = std::max(widest, n);
  const uint64_t boundaries = 2 * tokens * spec.hidden * sizeof(float);
  const uint64_t bits = recipe.candidate_bits().empty() ? 0 : *recipe.candidate_bits().rbegin() + 1;
  const uint64_t layers = plan->quantized_parameters() * bits / 8;
  plan->set_store_bytes(plan->store_bytes() + widest * sizeof(double) + boundaries + layers);
  plan->set_estimated_seconds(plan->estimated_seconds() +
                              static_cast<double>(plan->quantized_parameters()) *
                                  kSecondsPerWeightAndWidth +
                              kPassesRefining * 2.0 * static_cast<double>(plan->parameters()) *
                                  static_cast<double>(tokens) / kForwardFlopsPerSecond);
}

// Windows longer than the model was made for would cost hours and measure nothing.
absl::Status CheckWindow(const char* field, uint32_t length, const ArchitectureSpec& spec) {
  if (static_cast<int64_t>(length) <= spec.context) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": found ", length,
                                                 ", expected at most the model's context of ",
                                                 spec.context, " tokens"));
}

}  // namespace

absl::StatusOr<v1::IngestResult> RunIngest(const v1::TaskContext& context,
                                           const v1::IngestTask& task, JobSession* session) {
  const ModelSource& source = session->source();
  const ArchitectureSpec& spec = source.spec();
  SA_RETURN_IF_ERROR(CheckWindow("calibration.length", task.calibration().length(), spec));
  SA_RETURN_IF_ERROR(CheckWindow("evaluation.length", task.evaluation().length(), spec));
  v1::IngestResult result;
  v1::Plan* plan = result.mutable_plan();
  plan->set_architecture(spec.family);
  plan->set_blocks(static_cast<uint32_t>(spec.blocks));
  AddLayers(source, plan);

  uint64_t parameters = 0;
  for (const SourceTensor& tensor : source.tensors())
    parameters += static_cast<uint64_t>(tensor.info.elements());
  uint64_t quantized = 0;
  for (const v1::LayerPlan& layer : plan->layers()) quantized += layer.rows() * layer.cols();
  plan->set_parameters(parameters);
  plan->set_quantized_parameters(quantized);
  plan->set_source_bytes(source.source_bytes());
  plan->set_worker_memory_bytes(BytesOf(spec, parameters, context.recipe(), task));

  for (v1::DevicePhase& phase :
       PlanDeviceMemory(spec, context.recipe(), task.calibration(), task.evaluation())) {
    *plan->add_device_phases() = std::move(phase);
  }

  uint64_t candidate_bits = 0;
  const bool raw = context.recipe().method() == v1::METHOD_ACC;  // published as plain numbers
  for (uint32_t bits : context.recipe().candidate_bits()) candidate_bits += raw ? 32 : bits + 1;
  const uint64_t tokens = uint64_t{task.calibration().sequences()} * task.calibration().length();
  const uint64_t boundaries = 4 * tokens * spec.hidden * sizeof(float);
  const bool guided = Guided(context.recipe());
  const uint64_t token_weights =
      guided ? tokens * plan->layers_size() * context.recipe().chunks() * sizeof(float) : 0;
  plan->set_store_bytes(quantized * candidate_bits / 8 + boundaries + token_weights);
  const double passes = kPassesOverTokens + (guided ? kPassesBackward : 0);
  plan->set_estimated_seconds(static_cast<double>(quantized) *
                                  context.recipe().candidate_bits_size() *
                                  kSecondsPerWeightAndWidth +
                              passes * 2.0 * static_cast<double>(parameters) *
                                  static_cast<double>(tokens) / kForwardFlopsPerSecond);
  AddRefining(spec, context.recipe(), task, plan);

  plan->set_architecture_spec_json(ToJson(spec).dump());
  const std::string config = source.config_json();
  const std::string tokenizer = source.tokenizer_json();
  const std::string generation = source.generation_config_json();
  SA_ASSIGN_OR_RETURN(*plan->mutable_config_digest(), session->store().Put(config));
  SA_ASSIGN_OR_RETURN(*plan->mutable_tokenizer_digest(), session->store().Put(tokenizer));
  SA_ASSIGN_OR_RETURN(*plan->mutable_generation_config_digest(), session->store().Put(generation));
  plan->set_fixed_bytes(
      FixedBytes(source, context.recipe(), config.size() + tokenizer.size() + generation.size()));

  // A tokenizer that cannot be used is found now, not after hours of work.
  SA_ASSIGN_OR_RETURN(const auto unused, Tokenizer::FromJson(tokenizer));
  (void)unused;

  const std::filesystem::path root = session->source_path();
  for (const std::string& file : source.files()) {
    v1::SourceFile* out = plan->add_source_files();
    std::error_code error;
    const auto relative = std::filesystem::is_directory(root, error)
                              ? std::filesystem::path(file).lexically_relative(root)
                              : std::filesystem::path(file).filename();
    out->set_path(relative.string());
    out->set_bytes(std::filesystem::file_size(file, error));
  }
  return result;
}

namespace {

// The digest of a file that should have `expected` bytes; `read` is told of every piece.
absl::StatusOr<std::string> HashFile(const std::filesystem::path& path, uint64_t expected,
                                     TaskControl* control,
                                     const std::function<void(uint64_t)>& read) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("source ", path.string(), ": cannot be opened"));
  std::vector<char> buffer(4u << 20);
  Sha256 hash;
  uint64_t bytes = 0;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    SA_RETURN_IF_ERROR(control->Check());
    const auto size = static_cast<uint64_t>(in.gcount());
    hash.Update(buffer.data(), size);
    bytes += size;
    ++control->progress_count;
    read(size);
  }
  if (bytes == expected) return hash.Finish();
  return absl::FailedPreconditionError(absl::StrCat("source ", path.string(), ": it had ", expected,
                                                    " bytes when the job began and has ", bytes,
                                                    " now"));
}

// Fills `result`; a file a thread, in the task's order.
absl::Status HashFiles(const v1::HashTask& task, const std::filesystem::path& root,
                       const std::vector<std::string>& source_files, int threads,
                       TaskControl* control, v1::HashResult* result) {
  std::error_code error;
  const bool directory = std::filesystem::is_directory(root, error);
  const std::set<std::string> known(source_files.begin(), source_files.end());
  uint64_t total = 1;
  for (const v1::SourceFile& file : task.files()) total += file.bytes();
  std::atomic<uint64_t> done{0};
  std::vector<std::string> digests(task.files_size());
  SA_RETURN_IF_ERROR(
      quantize::ParallelFor(task.files_size(), threads, control, [&](int64_t i) -> absl::Status {
        const v1::SourceFile& file = task.files(static_cast<int>(i));
        const std::filesystem::path path = directory ? root / file.path() : root;
        if (!known.count(path.string())) {
          return absl::InvalidArgumentError(
              absl::StrCat("hash: ", file.path(), " is not a file of the source"));
        }
        SA_ASSIGN_OR_RETURN(digests[i], HashFile(path, file.bytes(), control, [&](uint64_t bytes) {
                              control->progress =
                                  static_cast<double>(done += bytes) / static_cast<double>(total);
                            }));
        return absl::OkStatus();
      }));
  for (int i = 0; i < task.files_size(); ++i) {
    v1::SourceFile* out = result->add_files();
    *out = task.files(i);
    out->set_digest(digests[i]);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunHash(const v1::HashTask& task, JobSession* session, TaskControl* control,
                     v1::HashResult* result, Closing* closing) {
  const auto hash = [task, root = session->source_path(), files = session->source().files(),
                     threads = session->threads(), control,
                     result] { return HashFiles(task, root, files, threads, control, result); };
  if (session->device() == Device::kCpu) return hash();
  *closing = hash;
  return absl::OkStatus();
}

}  // namespace shiftadd
