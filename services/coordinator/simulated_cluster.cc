#include "services/coordinator/simulated_cluster.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/coordinator/layer_size.h"
#include "services/coordinator/simulated_refine.h"
#include "services/job/recipe.h"
#include "services/packaging/package_format.h"
#include "services/store/timed_job_store.h"

namespace shiftadd::coordinator {
namespace {

constexpr uint64_t kBlobBytes = 1000;
constexpr uint64_t kWidth = 256;

void AnswerProfile(const v1::Task& task, v1::ProfileResult* out) {
  for (const v1::LayerPlan& layer : task.profile().layers()) {
    v1::LayerReport* report = out->add_layers();
    *report->mutable_layer() = layer;
    for (uint32_t q : AllowedWidths(task.context().recipe(), layer.name())) {
      v1::CandidateReport* c = report->add_candidates();
      c->set_bits(q);
      c->set_stored_bytes(EstimateStoredBytes(task.context().recipe(), layer, q));
      // Later blocks are more sensitive, so that a mix pays.
      c->set_output_error(q == 0 ? 0 : (1.0 + layer.block()) * std::pow(0.2, q));
      c->set_weight_error(q == 0 ? 0 : std::pow(0.25, q));
      c->set_paper_criterion(q == 0 ? 0 : 100.0 + layer.block());
      // Earlier blocks cost more loss: the other way round.
      if (task.context().recipe().hessian() == v1::HESSIAN_GUIDED && q > 0) {
        c->set_guided_error(1e-7 / (1.0 + layer.block()) * std::pow(0.2, q));
      }
      c->set_digest(Sha256Digest(absl::StrCat(layer.name(), "@", q)));
    }
  }
}

// The layers of the first block matter, the others do not.
void AnswerMeasure(const v1::Task& task, v1::MeasureResult* out) {
  for (const v1::LayerReport& layer : task.measure().layers()) {
    v1::MeasuredLayer* measured = out->add_layers();
    measured->set_layer(layer.layer().name());
    for (const v1::CandidateReport& c : layer.candidates()) {
      measured->add_kl(layer.layer().block() == 0 ? std::pow(0.1, c.bits()) : 0);
    }
  }
}

}  // namespace

absl::StatusOr<std::string> RecordingPublisher::Publish(const v1::PublishPackageRequest& request) {
  if (!fault.ok()) return fault;
  published.push_back(request);
  return Sha256Digest(request.config_json());
}

absl::StatusOr<v1::Package> RecordingPublisher::GetPackage(const std::string& reference) {
  if (!fault.ok()) return fault;
  v1::Package package;
  if (!published.empty()) {
    const v1::PublishPackageRequest& request = published.back();
    package.set_name(request.reference().substr(0, request.reference().find(':')));
    package.set_digest(Sha256Digest(request.config_json()));
    package.set_owner(request.owner());
    package.set_config_json(request.config_json());
    package.set_provenance_json(request.provenance_json());
    package.mutable_config()->set_digest(package.digest());
    *package.mutable_layers() = request.layers();
    if (reference == request.reference() ||
        reference == absl::StrCat(package.name(), "@", package.digest())) {
      return package;
    }
  }
  return absl::NotFoundError(absl::StrCat("package ", reference, " does not exist"));
}

absl::Status RecordingPublisher::Attach(const std::string& reference, const std::string& media_type,
                                        const std::string& document_json) {
  if (!fault.ok()) return fault;
  SA_RETURN_IF_ERROR(GetPackage(reference).status());
  EXPECT_EQ(media_type, kEvaluationArtifactType);
  attached.emplace_back(reference, document_json);
  return absl::OkStatus();
}

absl::Status RecordingPublisher::Pin(const std::string& owner,
                                     const std::vector<std::string>& digests) {
  if (!fault.ok()) return fault;
  for (const std::string& digest : digests) {
    if (gone.count(digest) > 0) return absl::NotFoundError("blob " + digest + " does not exist");
  }
  pins[owner].insert(pins[owner].end(), digests.begin(), digests.end());
  return absl::OkStatus();
}

absl::Status RecordingPublisher::Unpin(const std::string& owner) {
  if (!fault.ok()) return fault;
  pins.erase(owner);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> RecordingPublisher::BlobSize(const std::string& digest) {
  if (!fault.ok()) return fault;
  if (gone.count(digest) > 0) return absl::NotFoundError("blob " + digest + " does not exist");
  return kBlobBytes;
}

SimulatedCluster::SimulatedCluster(SimulatedModel model)
    : dir(testing::TempDir() + NewId("cluster")), model_(model) {
  std::filesystem::create_directories(dir);
  auto blobs = OpenOciLayout(dir + "/blobs");
  EXPECT_TRUE(blobs.ok()) << blobs.status();
  scratch = *std::move(blobs);
  Restart();
}

SimulatedCluster::~SimulatedCluster() {
  core.reset();
  store.reset();
  std::filesystem::remove_all(dir);
}

void SimulatedCluster::Restart(const std::string& quantizer_version) {
  core.reset();
  store.reset();
  auto opened = OpenSqliteJobStore(dir + "/coordinator.db", clock);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const std::thread::id test = std::this_thread::get_id();
  store = NewTimedJobStore(*std::move(opened), [this, test](const char* method, auto, double) {
    if (std::this_thread::get_id() == test) ++store_calls[method];
  });
  CoordinatorOptions options;
  options.quantizer_version = quantizer_version;
  core =
      std::make_unique<Coordinator>(store.get(), &publisher, scratch.get(), clock.get(), options);
}

v1::SubmitJobRequest SimulatedCluster::Request() {
  v1::SubmitJobRequest request;
  v1::JobSpec* spec = request.mutable_spec();
  spec->set_source("file:///models/tiny");
  spec->set_output("tiny:latest");
  spec->mutable_budget()->set_planes(3);
  spec->mutable_recipe()->set_hessian(v1::HESSIAN_RMS);  // no FORWARD tasks with one worker
  spec->mutable_calibration()->set_sequences(2 * kMicrobatch + 4);  // three parts
  spec->mutable_calibration()->set_length(64);
  spec->mutable_evaluation()->set_sequences(kMicrobatch + 2);  // two parts
  return request;
}

v1::Job SimulatedCluster::Submit(const v1::SubmitJobRequest& request) {
  std::vector<FieldFault> faults;
  const auto job = core->Submit(request, "local", &faults);
  EXPECT_TRUE(job.ok()) << job.status();
  EXPECT_TRUE(core->Tick().ok());
  return job.ok() ? *job : v1::Job();
}

v1::Job SimulatedCluster::Get(const std::string& job_id) {
  const auto job = core->Get(job_id);
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? *job : v1::Job();
}

std::optional<v1::Task> SimulatedCluster::Lease(const std::string& worker,
                                                const std::string& device) {
  EXPECT_TRUE(core->Tick().ok());
  v1::LeaseTaskRequest request;
  request.set_worker_id(worker);
  request.set_device_class(device);
  const auto response = core->Lease(request, [] { return false; });
  EXPECT_TRUE(response.ok()) << response.status();
  idle_reason_ = response->idle_reason();
  if (!response->has_task()) return std::nullopt;
  return response->task();
}

v1::Plan SimulatedCluster::MakePlan() const {
  v1::Plan plan;
  plan.set_architecture("llama");
  plan.set_blocks(model_.blocks);
  plan.set_estimated_seconds(600);
  for (uint32_t block = 0; block < model_.blocks; ++block) {
    for (const char* kind : {"attn.q", "mlp.down"}) {
      v1::LayerPlan* layer = plan.add_layers();
      layer->set_name(absl::StrCat("blocks.", block, ".", kind));
      layer->set_block(block);
      layer->set_kind(std::string(kind).substr(std::string(kind).find('.') + 1));
      layer->set_rows(kWidth);
      layer->set_cols(kWidth);
    }
  }
  plan.set_fixed_bytes(5 * kBlobBytes);
  plan.set_architecture_spec_json(R"({"blocks":6,"context":4096,"family":"llama"})");
  plan.set_config_digest(Sha256Digest("config"));
  plan.set_tokenizer_digest(Sha256Digest("tokenizer"));
  v1::SourceFile* file = plan.add_source_files();
  file->set_path("model.gguf");
  file->set_bytes(12345);
  return plan;
}

v1::TaskResult SimulatedCluster::Answer(const v1::Task& task) const {
  v1::TaskResult result;
  // A repair's payload is another task's; the numbers of kinds and payloads run alike.
  const auto kind = task.kind() == v1::TASK_KIND_REPAIR
                        ? static_cast<v1::TaskKind>(static_cast<int>(task.payload_case()) - 9)
                        : task.kind();
  switch (kind) {
    case v1::TASK_KIND_INGEST:
      *result.mutable_ingest()->mutable_plan() = MakePlan();
      break;
    case v1::TASK_KIND_HASH:
      for (v1::SourceFile file : task.hash().files()) {
        file.set_digest(Sha256Digest(file.path() + source_content));
        *result.mutable_hash()->add_files() = file;
      }
      break;
    case v1::TASK_KIND_CALIBRATE: {
      const v1::CalibrateTask& t = task.calibrate();
      uint32_t count = t.count();
      if (!t.text_digest().empty()) {
        const uint32_t left = model_.text_windows - std::min(t.text_first(), model_.text_windows);
        count = std::min(count, left);
      }
      result.mutable_calibrate()->set_count(count);
      result.mutable_calibrate()->set_digest(Sha256Digest(absl::StrCat("tokens", t.first())));
      break;
    }
    case v1::TASK_KIND_FORWARD:
      for (uint32_t block : task.forward().split_blocks()) {
        v1::Boundary* b = result.mutable_forward()->add_boundaries();
        b->set_block(block);
        b->set_part(task.forward().part());
        b->set_digest(Sha256Digest(absl::StrCat("hidden", block, "/", b->part())));
      }
      for (uint32_t block = 0; task.forward().token_weights() && block < model_.blocks; ++block) {
        v1::TokenWeights* w = result.mutable_forward()->add_token_weights();
        w->set_block(block);
        w->set_part(task.forward().part());
        w->set_digest(Sha256Digest(absl::StrCat("weights", block, "/", w->part())));
      }
      break;
    case v1::TASK_KIND_MEASURE:
      AnswerMeasure(task, result.mutable_measure());
      break;
    case v1::TASK_KIND_PROFILE:
      AnswerProfile(task, result.mutable_profile());
      break;
    case v1::TASK_KIND_ENDS:
      result.mutable_ends()->set_head_digest(Sha256Digest("head"));
      result.mutable_ends()->set_head_bytes(kBlobBytes);
      result.mutable_ends()->set_unquantized_digest(Sha256Digest("unquantized"));
      result.mutable_ends()->set_unquantized_bytes(kBlobBytes);
      break;
    case v1::TASK_KIND_EVALUATE:
      for (uint32_t n = 0; n < task.evaluate().windows(); ++n) {
        const uint32_t i = task.evaluate().first_window() + n;
        v1::WindowScore* w = result.mutable_evaluate()->add_windows();
        w->set_tokens(63);
        w->set_nll_full(63 * 2.0);
        for (const v1::Variant& v : task.evaluate().variants()) {
          const double kl = v.name() == "mixed"     ? 0.25
                            : v.name() == "refined" ? model_.refined_kl
                                                    : model_.uniform_kl;
          w->add_kl(63 * (kl + 0.01 * i));
          w->add_nll(63 * (2.0 + kl));
        }
        for (uint32_t token = 0; task.evaluate().token_scores() && token < w->tokens(); ++token) {
          w->add_token_kl(static_cast<float>(0.01 * token + i));
          w->set_top1_agreements(60);
        }
      }
      if (task.evaluate().check_server()) {
        result.mutable_evaluate()->set_server_max_logit_error(0.001);
      }
      break;
    case v1::TASK_KIND_REFINE: {
      const auto refined = SimulateRefine(task, scratch.get());
      EXPECT_TRUE(refined.ok()) << refined.status() << task.refine().ShortDebugString();
      if (refined.ok()) *result.mutable_refine() = *refined;
      break;
    }
    default:
      ADD_FAILURE() << "task of kind " << task.kind();
  }
  result.set_seconds(1);
  (*result.mutable_stage_seconds())["load"] = 0.25;
  return result;
}

absl::Status SimulatedCluster::Complete(const std::string& worker, const v1::Task& task) {
  v1::CompleteTaskRequest request;
  request.set_worker_id(worker);
  request.set_task_id(task.task_id());
  request.set_lease_epoch(task.lease_epoch());
  *request.mutable_result() = Answer(task);
  return core->Complete(request);
}

absl::Status SimulatedCluster::Fail(const std::string& worker, const v1::Task& task,
                                    absl::StatusCode code, const std::string& message) {
  v1::FailTaskRequest request;
  request.set_worker_id(worker);
  request.set_task_id(task.task_id());
  request.set_lease_epoch(task.lease_epoch());
  request.set_code(static_cast<int>(code));
  request.set_message(message);
  return core->Fail(request);
}

absl::StatusOr<bool> SimulatedCluster::Renew(const std::string& worker, const v1::Task& task) {
  v1::RenewLeaseRequest request;
  request.set_worker_id(worker);
  request.set_task_id(task.task_id());
  request.set_lease_epoch(task.lease_epoch());
  const auto response = core->Renew(request);
  if (!response.ok()) return response.status();
  return response->cancel();
}

void SimulatedCluster::Run(int workers, const std::function<bool()>& before) {
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::pair<std::string, v1::Task>> leased;
    for (int i = 0; i < workers; ++i) {
      if (before && before()) return;
      const std::string worker = absl::StrCat("w", i);
      if (auto task = Lease(worker)) leased.emplace_back(worker, *task);
    }
    if (leased.empty()) return;
    clock->Advance(absl::Seconds(1));
    // The last to lease is the first to finish: order must not matter.
    for (auto it = leased.rbegin(); it != leased.rend(); ++it) {
      ASSERT_TRUE(Complete(it->first, it->second).ok());
    }
  }
  ADD_FAILURE() << "the cluster never comes to rest";
}

void SimulatedCluster::RunTo(const std::string& job_id, v1::JobState state, int workers) {
  Run(workers, [&] {
    EXPECT_TRUE(core->Tick().ok());
    return Get(job_id).state() == state || IsTerminal(Get(job_id).state());
  });
}

std::vector<v1::JobEvent> SimulatedCluster::Events(const std::string& job_id) {
  const auto events = store->Events(job_id, 1, 100000);
  EXPECT_TRUE(events.ok()) << events.status();
  for (size_t i = 0; i < events->size(); ++i) EXPECT_EQ((*events)[i].sequence(), i + 1);
  return *events;
}

}  // namespace shiftadd::coordinator
