// Tasks of a tiny model, run in one process on a real blob store.
#include "worker/tasks/tasks.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "worker/model/testing/golden_family.h"
#include "worker/model/testing/scale_tensor.h"
#include "worker/model/testing/tiny_llama.h"
#include "worker/reference/torch_seam.h"
#include "worker/tasks/device_memory.h"
#include "worker/tasks/job_session.h"
#include "worker/tasks/made_boundaries.h"
#include "worker/tasks/patient_blob_store.h"
#include "worker/tasks/task_runner.h"

namespace shiftadd {
namespace {

TEST(PathOfUri, WantsAnAbsoluteFileUri) {
  EXPECT_EQ(PathOfUri("file:///a/b").value(), "/a/b");
  for (const char* bad : {"", "/a", "file://", "file://host/a", "hf:org/model"})
    EXPECT_FALSE(PathOfUri(bad).ok());
}

class TasksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "shiftadd-tasks-XXXXXX").string();
    dir_ = mkdtemp(pattern.data());
    InitTorch();
    testing::TinyLlamaOptions options;
    options.blocks = 3;
    ASSERT_TRUE(testing::WriteTinyLlamaDirectory(dir_ + "/tiny", options).ok());
    store_ = OpenOciLayout(dir_ + "/store").value();
    metrics_ = std::make_unique<WorkerMetrics>(&registry_);
    context_.set_job_id("job-1");
    context_.set_source("file://" + dir_ + "/tiny");
    v1::Recipe* recipe = context_.mutable_recipe();
    recipe->set_method(v1::METHOD_SHIFTADD);
    recipe->set_rotation(v1::ROTATION_WHT128);
    recipe->set_hessian(v1::HESSIAN_RMS);
    recipe->set_group_size(128);
    recipe->add_candidate_bits(2);
    recipe->add_candidate_bits(3);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<TaskRunner> NewRunner(const std::string& root = "", int threads = 1,
                                        Device device = Device::kCpu) {
    return std::make_unique<TaskRunner>(
        TaskRunnerOptions{threads, {root.empty() ? dir_ : root}, uint64_t{1} << 33, device},
        store_.get(), metrics_.get());
  }
  v1::Task NewTask(v1::TaskKind kind) {
    v1::Task task;
    task.set_task_id("t");
    task.set_kind(kind);
    *task.mutable_context() = context_;
    return task;
  }
  absl::StatusOr<v1::TaskResult> Run(TaskRunner* runner, const v1::Task& task) {
    TaskControl control;
    return runner->Run(task, &control);
  }
  // Two parts of two windows.
  std::vector<std::string> Calibrate(TaskRunner* runner) {
    std::vector<std::string> digests;
    for (uint32_t first : {0u, 2u}) {
      v1::Task task = NewTask(v1::TASK_KIND_CALIBRATE);
      task.mutable_calibrate()->set_first(first);
      task.mutable_calibrate()->set_count(2);
      task.mutable_calibrate()->set_length(24);
      const auto result = Run(runner, task);
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) digests.push_back(result->calibrate().digest());
    }
    return digests;
  }
  v1::Task ProfileOf(uint32_t block, const std::vector<std::string>& parts) {
    v1::Task task = NewTask(v1::TASK_KIND_PROFILE);
    task.mutable_profile()->set_block(block);
    for (const std::string& part : parts) task.mutable_profile()->add_tokens_digests(part);
    return task;
  }
  v1::Task ForwardOf(uint32_t part, const std::string& tokens, uint32_t chunks) {
    v1::Task task = NewTask(v1::TASK_KIND_FORWARD);
    task.mutable_forward()->set_tokens_digest(tokens);
    task.mutable_forward()->set_part(part);
    task.mutable_forward()->add_split_blocks(1);
    task.mutable_forward()->set_token_weights(true);
    task.mutable_forward()->set_chunks(chunks);
    return task;
  }
  // Forward and backward over every part; the runners take turns.
  std::vector<v1::ForwardResult> Guide(const std::vector<TaskRunner*>& runners,
                                       const std::vector<std::string>& parts, uint32_t chunks) {
    std::vector<v1::ForwardResult> results;
    for (uint32_t part = 0; part < parts.size(); ++part) {
      const auto result = Run(runners[part % runners.size()], ForwardOf(part, parts[part], chunks));
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) results.push_back(result->forward());
    }
    return results;
  }
  void SetGuided(uint32_t chunks) {
    context_.mutable_recipe()->set_hessian(v1::HESSIAN_GUIDED);
    context_.mutable_recipe()->set_chunks(chunks);
  }
  static void AddWeights(const std::vector<v1::ForwardResult>& forward, v1::Task* profile) {
    for (const v1::ForwardResult& part : forward)
      *profile->mutable_profile()->add_token_weights() =
          part.token_weights(static_cast<int>(profile->profile().block()));
  }
  static std::vector<std::string> Digests(const v1::TaskResult& result) {
    std::vector<std::string> digests;
    for (const auto& layer : result.profile().layers()) {
      for (const auto& candidate : layer.candidates()) digests.push_back(candidate.digest());
    }
    return digests;
  }

  std::string dir_;
  prometheus::Registry registry_;
  std::unique_ptr<WorkerMetrics> metrics_;
  std::unique_ptr<BlobStore> store_;
  v1::TaskContext context_;
};

// Llama 3 70B's shape on a card of 80 GB: the arithmetic, without the model.
TEST(DeviceMemoryTest, A70BFitsOneCardWhenActivationsMayWaitOnTheHost) {
  ArchitectureSpec spec;
  spec.family = "llama";
  spec.vocab = 128256;
  spec.hidden = 8192;
  spec.intermediate = 28672;
  spec.blocks = 80;
  spec.heads = 64;
  spec.kv_heads = 8;
  spec.head_dim = 128;
  v1::Recipe recipe;
  recipe.set_hessian(v1::HESSIAN_GUIDED);
  recipe.set_chunks(1);
  for (const uint32_t bits : {2, 3, 4}) recipe.add_candidate_bits(bits);
  v1::Calibration calibration;
  calibration.set_sequences(128);
  calibration.set_length(2048);
  v1::Evaluation evaluation;
  evaluation.set_sequences(8);
  evaluation.set_length(2048);
  const auto phases = PlanDeviceMemory(spec, recipe, calibration, evaluation);
  ASSERT_EQ(phases.size(), 4u);
  const uint64_t block =
      uint64_t{2} * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * uint64_t{8192} * 28672);
  const uint64_t ends = uint64_t{2} * 2 * 128256 * 8192;
  EXPECT_EQ(phases[1].weight_bytes(), block + ends);
  EXPECT_EQ(phases[1].state_bytes(), uint64_t{2} * 128 * 2048 * 8192 * 4);
  // A square of fp64 for each layer.
  EXPECT_EQ(phases[1].hessian_bytes(),
            uint64_t{8} * (6 * uint64_t{8192} * 8192 + uint64_t{28672} * 28672));
  // The input of every block for one part; at the split, of three tasks, twice, and half of all
  // that two workers make; and the next block in fp32.
  const uint64_t part = uint64_t{16} * 2048 * 8192 * 4, ahead = block * 2;
  EXPECT_EQ(phases[0].host_bytes(), part * 81 + part * 6 + part * 4 + ahead);
  EXPECT_EQ(phases[2].host_bytes(), phases[1].host_bytes());
  // Candidates of 2 + 3 + 4 planes and their scales, of three blocks, twice; ENDS's blobs likewise.
  EXPECT_EQ(phases[2].host_bytes(), ahead + block / 2 * 12 / 8 * 6 + 2 * ends);
  // Two models; a window's activations in fp32, 1024 queries' scores for the way there and back,
  // and logits of 512 tokens, three times, of 64 of them in fp64, six times.
  EXPECT_EQ(phases[3].weight_bytes(), 2 * (block + ends));
  EXPECT_EQ(phases[3].work_bytes(),
            uint64_t{2048} * 4 * (2 * 8192 + 8192 + 2 * 10240 + 8192 + 3 * 28672) +
                uint64_t{4} * 64 * 1024 * 2048 * 4 + uint64_t{3} * 512 * 128256 * 4 +
                uint64_t{6} * 64 * 128256 * 8);
  for (const v1::DevicePhase& phase : phases) {
    EXPECT_LT(phase.weight_bytes() + phase.hessian_bytes() + phase.work_bytes(),
              uint64_t{80'000'000'000} * 95 / 100)
        << phase.name();
  }
  // Groups of 256 fit into what factoring takes; whole rows have a square more, and its halves.
  const auto fits = [&] {
    return PlanDeviceMemory(spec, recipe, calibration, evaluation)[2].work_bytes();
  };
  recipe.set_group_size(256);
  EXPECT_EQ(fits(), phases[2].work_bytes());
  recipe.clear_group_size();
  recipe.set_whole_row(true);
  EXPECT_GT(fits(), phases[2].work_bytes());
  EXPECT_LT(fits(), phases[2].work_bytes() + uint64_t{28672} * 28672 * 8);
  recipe.clear_whole_row();
  // A norm that the executor for many sequences does not know: one at a time, activations in fp32.
  spec.qk_norm = true;
  const auto alone = PlanDeviceMemory(spec, recipe, calibration, evaluation);
  EXPECT_EQ(alone[1].weight_bytes(), block + ends);
  EXPECT_LT(alone[1].work_bytes(), phases[1].work_bytes());
  recipe.set_hessian(v1::HESSIAN_PLAIN);
  EXPECT_EQ(PlanDeviceMemory(spec, recipe, calibration, evaluation).size(), 3u);
}

TEST_F(TasksTest, IngestPlansEveryLayerAndHashSaysWhichBytes) {
  auto runner = NewRunner();
  v1::Task task = NewTask(v1::TASK_KIND_INGEST);
  task.mutable_ingest()->mutable_calibration()->set_sequences(4);
  task.mutable_ingest()->mutable_calibration()->set_length(24);
  const auto result = Run(runner.get(), task);
  ASSERT_TRUE(result.ok()) << result.status();
  const v1::Plan& plan = result->ingest().plan();
  EXPECT_EQ(plan.blocks(), 3u);
  ASSERT_EQ(plan.layers_size(), 3 * 7);
  EXPECT_EQ(plan.layers(0).name(), "blocks.0.attn.q");
  EXPECT_GT(plan.parameters(), plan.quantized_parameters());
  EXPECT_GT(plan.worker_memory_bytes(), 0u);
  EXPECT_GE(plan.device_phases_size(), 3);
  EXPECT_TRUE(store_->Stat(plan.tokenizer_digest()).ok());

  v1::Task hash = NewTask(v1::TASK_KIND_HASH);
  *hash.mutable_hash()->mutable_files() = plan.source_files();
  for (const int threads : {1, 4}) {  // a file a thread
    const auto hashed = Run(NewRunner("", threads).get(), hash);
    ASSERT_TRUE(hashed.ok()) << hashed.status();
    ASSERT_GE(hashed->hash().files_size(), 3);
    for (int i = 0; i < hashed->hash().files_size(); ++i) {
      const v1::SourceFile& file = hashed->hash().files(i);
      EXPECT_EQ(file.path(), plan.source_files(i).path());
      std::ifstream in(dir_ + "/tiny/" + file.path(), std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(in), {}};
      EXPECT_EQ(file.bytes(), bytes.size());
      EXPECT_EQ(file.digest(), Sha256Digest(bytes)) << file.path() << ", " << threads << " threads";
    }
  }
  hash.mutable_hash()->mutable_files(0)->set_path("../../etc/passwd");
  EXPECT_EQ(Run(runner.get(), hash).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TasksTest, OfAGpuThatWorkersShareModelsMustFitTheShare) {
  const auto fits = [this](uint64_t gpu_memory_bytes, int models) {
    TaskRunnerOptions options{1, {dir_}, uint64_t{1} << 40, Device::kCuda, gpu_memory_bytes};
    const auto session = JobSession::Open(context_, options, store_.get(), metrics_.get());
    EXPECT_TRUE(session.ok()) << session.status();
    return session.ok() && (*session)->Fits(models);
  };
  const auto source = ModelSource::Open(dir_ + "/tiny").value();
  uint64_t model = 0;  // in fp32
  for (const SourceTensor& tensor : source->tensors()) model += 4 * tensor.info.elements();
  EXPECT_TRUE(fits(2 * model + 1, 2));
  EXPECT_FALSE(fits((2 * model + 1) / 2, 2));
  EXPECT_TRUE(fits((2 * model + 1) / 2 + 1, 1));
}

TEST_F(TasksTest, WindowsBeyondTheContextAreRefusedBeforeAnyWork) {
  auto runner = NewRunner();
  v1::Task task = NewTask(v1::TASK_KIND_INGEST);
  task.mutable_ingest()->mutable_calibration()->set_length(512);  // the tiny model's context
  task.mutable_ingest()->mutable_evaluation()->set_length(512);
  EXPECT_TRUE(Run(runner.get(), task).ok());
  task.mutable_ingest()->mutable_evaluation()->set_length(513);
  absl::Status status = Run(runner.get(), task).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "evaluation.length: found 513, expected at most the model's context of 512 tokens");
  task.mutable_ingest()->mutable_calibration()->set_length(32768);
  status = Run(runner.get(), task).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message().find("calibration.length: found 32768"), 0u) << status;
}

TEST_F(TasksTest, SourcesOutsideTheRootsAreRefused) {
  std::filesystem::create_directories(dir_ + "/other");
  auto runner = NewRunner(dir_ + "/other");
  EXPECT_EQ(Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).status().code(),
            absl::StatusCode::kPermissionDenied);
  std::filesystem::create_directory_symlink(dir_ + "/tiny", dir_ + "/other/link");
  context_.set_source("file://" + dir_ + "/other/link");
  EXPECT_EQ(Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).status().code(),
            absl::StatusCode::kPermissionDenied);
  context_.set_source("file://" + dir_ + "/absent");
  EXPECT_EQ(Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).status().code(),
            absl::StatusCode::kPermissionDenied);
  context_.set_source("file://" + dir_ + "/other/absent");
  EXPECT_EQ(Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).status().code(),
            absl::StatusCode::kNotFound);
  // Dots and links are looked through before they are judged.
  context_.set_source("file://" + dir_ + "/other/../tiny");
  EXPECT_EQ(Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).status().code(),
            absl::StatusCode::kPermissionDenied);
  // A folder inside with a file that leads out.
  std::filesystem::create_directories(dir_ + "/other/mixed");
  for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/tiny")) {
    std::filesystem::create_symlink(entry.path(),
                                    dir_ + "/other/mixed/" + entry.path().filename().string());
  }
  context_.set_source("file://" + dir_ + "/other/mixed");
  const absl::Status mixed = Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).status();
  EXPECT_EQ(mixed.code(), absl::StatusCode::kPermissionDenied) << mixed;
  EXPECT_NE(mixed.message().find("/other/mixed/"), std::string::npos) << mixed;
  // Device files and pipes are neither read nor waited for.
  std::filesystem::create_symlink("/dev/zero", dir_ + "/other/zero.gguf");
  EXPECT_EQ(mkfifo((dir_ + "/other/pipe.gguf").c_str(), 0600), 0);
  // Only root makes device files; others find nothing there, which is refused too.
  mknod((dir_ + "/other/device.gguf").c_str(), S_IFCHR | 0600, makedev(1, 5));
  std::filesystem::create_directories(dir_ + "/other/piped");
  std::filesystem::copy(dir_ + "/tiny", dir_ + "/other/piped");
  std::filesystem::remove(dir_ + "/other/piped/config.json");
  EXPECT_EQ(mkfifo((dir_ + "/other/piped/config.json").c_str(), 0600), 0);
  for (const char* name :
       {"/other/zero.gguf", "/other/pipe.gguf", "/other/device.gguf", "/other/piped"}) {
    context_.set_source("file://" + dir_ + name);
    EXPECT_FALSE(Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).ok()) << name;
  }
  // Tricks of URIs: another host, another scheme, what is encoded, no path at all.
  for (const std::string& source :
       {"file://localhost" + dir_ + "/other/../tiny", "file:" + dir_ + "/tiny", dir_ + "/tiny",
        "file://" + dir_ + "/other/%2e%2e/tiny", std::string("file://"), std::string("file:///"),
        std::string("file:///proc/self/root") + dir_ + "/tiny", "file:////" + dir_ + "/tiny",
        std::string("http://127.0.0.1/model"),
        "file://" + dir_ + "/other/" + std::string("\0", 1) + "/../../tiny"}) {
    context_.set_source(source);
    EXPECT_FALSE(Run(runner.get(), NewTask(v1::TASK_KIND_INGEST)).ok()) << source;
  }
}

TEST_F(TasksTest, ABlockHasTheSameBytesFromHeldActivationsBoundariesAndTheEmbedding) {
  auto runner = NewRunner();
  const std::vector<std::string> parts = Calibrate(runner.get());
  ASSERT_EQ(parts.size(), 2u);
  // One worker, in order: from held activations.
  std::vector<std::vector<std::string>> in_order;
  for (uint32_t block = 0; block < 3; ++block) {
    const auto result = Run(runner.get(), ProfileOf(block, parts));
    ASSERT_TRUE(result.ok()) << result.status();
    in_order.push_back(Digests(*result));
    ASSERT_EQ(in_order.back().size(), 7u * 2);
    ASSERT_TRUE(runner->held().has_value());
    EXPECT_EQ(runner->held()->block, block + 1);
  }
  // A fresh worker: from the embedding; and again, backwards.
  auto fresh = NewRunner();
  for (const uint32_t block : {2u, 1u}) {
    const auto result = Run(fresh.get(), ProfileOf(block, parts));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(Digests(*result), in_order[block]);
  }
  // From a stored boundary of block 1.
  auto late = NewRunner();
  v1::Task task = ProfileOf(2, parts);
  for (uint32_t part = 0; part < 2; ++part) {
    v1::Task forward = NewTask(v1::TASK_KIND_FORWARD);
    forward.mutable_forward()->set_tokens_digest(parts[part]);
    forward.mutable_forward()->set_part(part);
    forward.mutable_forward()->add_split_blocks(1);
    const auto result = Run(late.get(), forward);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->forward().boundaries_size(), 1);
    *task.mutable_profile()->add_boundaries() = result->forward().boundaries(0);
  }
  const auto result = Run(late.get(), task);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Digests(*result), in_order[2]);
}

TEST_F(TasksTest, ForwardWithTokenWeightsGivesTheSameBytesOnAnyRunner) {
  auto runner = NewRunner(), other = NewRunner("", 3);
  const std::vector<std::string> parts = Calibrate(runner.get());
  const auto one = Guide({runner.get()}, parts, 2);
  const auto two = Guide({other.get(), runner.get()}, parts, 2);
  ASSERT_EQ(one.size(), 2u);
  ASSERT_EQ(two.size(), 2u);
  for (int part : {0, 1}) {
    EXPECT_EQ(one[part].SerializeAsString(), two[part].SerializeAsString());
    ASSERT_EQ(one[part].token_weights_size(), 3);
    EXPECT_EQ(one[part].token_weights(2).block(), 2u);
    EXPECT_EQ(one[part].token_weights(2).part(), static_cast<uint32_t>(part));
    // The boundary is that of a forward pass alone.
    v1::Task task = ForwardOf(static_cast<uint32_t>(part), parts[part], 0);
    task.mutable_forward()->set_token_weights(false);
    const auto plain = Run(runner.get(), task);
    ASSERT_TRUE(plain.ok()) << plain.status();
    ASSERT_EQ(plain->forward().boundaries_size(), 1);
    ASSERT_EQ(one[part].boundaries_size(), 1);
    EXPECT_EQ(plain->forward().boundaries(0).digest(), one[part].boundaries(0).digest());
  }
}

TEST_F(TasksTest, GuidedCandidatesAreTheSameBytesOnAnyRunner) {
  SetGuided(2);
  auto runner = NewRunner(), other = NewRunner("", 3);
  const std::vector<std::string> parts = Calibrate(runner.get());
  const auto forward = Guide({runner.get()}, parts, 2);
  std::vector<std::vector<std::string>> expected;
  for (uint32_t block = 0; block < 3; ++block) {  // from held activations
    v1::Task task = ProfileOf(block, parts);
    AddWeights(forward, &task);
    const auto result = Run(runner.get(), task);
    ASSERT_TRUE(result.ok()) << result.status();
    expected.push_back(Digests(*result));
    for (const v1::LayerReport& layer : result->profile().layers()) {
      EXPECT_EQ(layer.note(), "");
      for (const v1::CandidateReport& candidate : layer.candidates())
        EXPECT_GT(candidate.guided_error(), 0) << layer.layer().name();
    }
    for (const char* stage : {"forward", "hessian", "fit", "store"})
      EXPECT_GT(result->stage_seconds().count(stage), 0u) << stage;
  }
  for (const uint32_t block : {2u, 0u}) {  // from boundaries, and from the embedding
    v1::Task task = ProfileOf(block, parts);
    AddWeights(forward, &task);
    for (const v1::ForwardResult& part : forward)
      if (block == 2) *task.mutable_profile()->add_boundaries() = part.boundaries(0);
    const auto result = Run(other.get(), task);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(Digests(*result), expected[block]);
  }
  SetGuided(1);
  v1::Task task = ProfileOf(0, parts);
  AddWeights(Guide({runner.get()}, parts, 1), &task);
  const auto one_chunk = Run(other.get(), task);
  ASSERT_TRUE(one_chunk.ok()) << one_chunk.status();
  EXPECT_NE(Digests(*one_chunk), expected[0]);
}

TEST_F(TasksTest, ADeviceSumsTheSameHessians) {
  SetGuided(2);
  auto cpu = NewRunner(), device = NewRunner("", 2, Device::kCpuOperators);
  const std::vector<std::string> parts = Calibrate(cpu.get());
  const auto forward = Guide({cpu.get()}, parts, 2);
  v1::Task task = ProfileOf(1, parts);
  AddWeights(forward, &task);
  const auto expected = Run(cpu.get(), task), found = Run(device.get(), task);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_TRUE(found.ok()) << found.status();
  for (int i = 0; i < 7; ++i) {
    for (int c : {0, 1}) {
      const double error = expected->profile().layers(i).candidates(c).guided_error();
      EXPECT_NEAR(found->profile().layers(i).candidates(c).guided_error(), error, 0.02 * error);
    }
  }
}

// FORWARD and PROFILE of a whole GPU worker: near the CPU's errors, the same bytes on any runner.
TEST_F(TasksTest, AGpuQuantizesTheSameLayers) {
  if (!HasCuda()) GTEST_SKIP() << "no GPU";
  SetGuided(2);
  auto cpu = NewRunner(), gpu = NewRunner("", 2, Device::kCuda),
       other = NewRunner("", 3, Device::kCuda);
  const std::vector<std::string> parts = Calibrate(cpu.get());
  const auto of_cpu = Guide({cpu.get()}, parts, 2), of_gpu = Guide({gpu.get()}, parts, 2);
  for (const uint32_t block : {0u, 2u}) {
    v1::Task task = ProfileOf(block, parts), same = task;
    AddWeights(of_cpu, &task);
    AddWeights(of_gpu, &same);
    const auto expected = Run(cpu.get(), task), found = Run(gpu.get(), same);
    ASSERT_TRUE(expected.ok()) << expected.status();
    ASSERT_TRUE(found.ok()) << found.status();
    // Few rows: the loops' chaos does not average out. 1 % of a layer of 1000 rows and more.
    for (int i = 0; i < 7; ++i) {
      for (int c : {0, 1}) {
        const v1::CandidateReport& a = found->profile().layers(i).candidates(c);
        const v1::CandidateReport& b = expected->profile().layers(i).candidates(c);
        EXPECT_EQ(a.stored_bytes(), b.stored_bytes());
        EXPECT_NEAR(a.output_error() / b.output_error(), 1.0, 0.06) << i << " " << c;
        EXPECT_NEAR(a.guided_error() / b.guided_error(), 1.0, 0.1) << i << " " << c;
      }
    }
    const auto again = Run(other.get(), same);  // from the embedding
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(Digests(*again), Digests(*found));
  }
}

// A store that does not write before it is told to, or has no space.
class GatedStore : public PatientBlobStore {
 public:
  explicit GatedStore(BlobStore* store) : PatientBlobStore(store) {}
  absl::StatusOr<std::string> Put(absl::string_view data) override {
    SA_RETURN_IF_ERROR(Wait());
    return PatientBlobStore::Put(data);
  }
  absl::StatusOr<std::string> PutScratch(const std::string& job, absl::string_view data) override {
    SA_RETURN_IF_ERROR(Wait());
    return PatientBlobStore::PutScratch(job, data);
  }
  absl::Notification open;
  std::atomic<bool> full{false};

 private:
  absl::Status Wait() {
    open.WaitForNotification();
    return full ? absl::ResourceExhaustedError("the disk is full") : absl::OkStatus();
  }
};

// What a task has made is stored beside the next task, and is what a task that waits gives.
class StoringTest : public TasksTest {
 protected:
  void ExpectStoredBeside(Device device) {
    SetGuided(2);
    auto plain = NewRunner("", 2, device);
    const std::vector<std::string> parts = Calibrate(plain.get());
    const std::vector<v1::ForwardResult> forward = Guide({plain.get()}, parts, 2);
    v1::Task profile = ProfileOf(1, parts), ends = NewTask(v1::TASK_KIND_ENDS);
    ends.mutable_ends();
    AddWeights(forward, &profile);
    const auto profiled = Run(plain.get(), profile);
    ASSERT_TRUE(profiled.ok()) << profiled.status();

    GatedStore gated(store_.get());
    TaskRunner runner({2, {dir_}, uint64_t{1} << 33, device}, &gated, metrics_.get());
    TaskControl controls[4];
    std::vector<std::unique_ptr<StoringTask>> tasks;
    tasks.push_back(runner.Begin(ForwardOf(0, parts[0], 2), &controls[0]));
    if (device != Device::kCpu) tasks.push_back(runner.Begin(ends, &controls[1]));
    // Another job's task, which fails, takes the session's place while they are not stored.
    v1::Task other = ProfileOf(99, parts);
    other.mutable_context()->set_job_id("job-2");
    EXPECT_FALSE(runner.Begin(other, &controls[2])->status().ok());
    gated.open.Notify();
    tasks.push_back(runner.Begin(profile, &controls[3]));
    EXPECT_EQ(runner.held()->block, 2u);
    EXPECT_FALSE(runner.Begin(other, &controls[2])->status().ok());
    EXPECT_FALSE(runner.held().has_value());
    for (const auto& task : tasks) ASSERT_TRUE(task->status().ok()) << task->status();
    const auto first = tasks.front()->Finish(), last = tasks.back()->Finish();
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(last.ok()) << last.status();
    EXPECT_EQ(first->forward().SerializeAsString(), forward[0].SerializeAsString());
    EXPECT_EQ(Digests(*last), Digests(*profiled));
    if (device == Device::kCpu) return;
    const auto made = tasks[1]->Finish(), expected = Run(NewRunner().get(), ends);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->ends().SerializeAsString(), expected->ends().SerializeAsString());
  }
};

TEST_F(StoringTest, BlobsAreStoredBesideTheNextTask) {
  for (const Device device : {Device::kCpu, Device::kCpuHalf}) ExpectStoredBeside(device);
}
TEST_F(StoringTest, BlobsOfAGpuAreStoredBesideTheNextTask) {
  if (!HasCuda()) GTEST_SKIP() << "no GPU";
  ExpectStoredBeside(Device::kCuda);
}

TEST_F(TasksTest, AStoreThatIsFullFailsTheTaskWhoseBlobsThoseAre) {
  SetGuided(1);
  GatedStore gated(store_.get());
  const std::vector<std::string> parts = Calibrate(NewRunner().get());
  TaskRunner runner({2, {dir_}, uint64_t{1} << 33, Device::kCpuHalf}, &gated, metrics_.get());
  TaskControl controls[2];
  auto task = runner.Begin(ForwardOf(0, parts[0], 1), &controls[0]);
  gated.full = true;
  gated.open.Notify();
  const auto result = task->Finish();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted) << result.status();
  gated.full = false;
  EXPECT_TRUE(runner.Begin(ForwardOf(1, parts[1], 1), &controls[1])->Finish().ok());
  // Dropped in the middle: nothing is left behind, and nothing hangs.
  GatedStore shut(store_.get());
  TaskRunner dropped({2, {dir_}, uint64_t{1} << 33, Device::kCpuHalf}, &shut, metrics_.get());
  task = dropped.Begin(ForwardOf(0, parts[0], 1), &controls[0]);
  shut.open.Notify();
  task.reset();
}

// A worker on a device reads no boundary that it has stored itself.
class BoundariesTest : public TasksTest {
 protected:
  void ExpectNotReadAgain(Device device) {
    SetGuided(1);
    auto runner = NewRunner("", 2, device), other = NewRunner("", 1, device);
    const std::vector<std::string> parts = Calibrate(runner.get());
    const auto forward = Guide({runner.get()}, parts, 1);
    v1::Task task = ProfileOf(2, parts);
    AddWeights(forward, &task);
    for (const v1::ForwardResult& part : forward)
      *task.mutable_profile()->add_boundaries() = part.boundaries(0);
    const auto expected = Run(other.get(), task);
    ASSERT_TRUE(expected.ok()) << expected.status();
    for (const v1::ForwardResult& part : forward)
      ASSERT_TRUE(store_->DeleteScratchBlob("job-1", part.boundaries(0).digest()).ok());
    const auto found = Run(runner.get(), task);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(Digests(*found), Digests(*expected));
    EXPECT_EQ(Run(NewRunner("", 1, device).get(), task).status().code(),
              absl::StatusCode::kNotFound);
  }
};

TEST_F(BoundariesTest, OwnBoundariesAreNotReadAgain) { ExpectNotReadAgain(Device::kCpuHalf); }
TEST_F(BoundariesTest, AGpusOwnBoundariesAreNotReadAgain) {
  if (!HasCuda()) GTEST_SKIP() << "no GPU";
  ExpectNotReadAgain(Device::kCuda);
}

TEST(MadeBoundariesTest, TheOldestGoFirst) {
  MadeBoundaries kept(1000);
  const auto keep = [&](const char* digest, int64_t numbers) {
    class NoCopy : public HostCopy {
      absl::Status Add(int64_t, const HiddenStates&) override { return absl::OkStatus(); }
      absl::StatusOr<const float*> Wait() override { return nullptr; }
    };
    kept.Keep(digest, {HiddenStates{1, 1, numbers, {}, nullptr}, std::make_shared<NoCopy>()});
  };
  keep("a", 100);
  keep("b", 100);
  keep("a", 100);  // is there
  EXPECT_NE(kept.Find("a").rows, nullptr);
  keep("c", 100);
  EXPECT_EQ(kept.Find("a").rows, nullptr);
  EXPECT_EQ(kept.Find("c").hidden.hidden, 100);
  keep("d", 251);  // too large for any
  EXPECT_EQ(kept.Find("d").rows, nullptr);
  EXPECT_NE(kept.Find("b").rows, nullptr);
}

// 1 % of the error of a layer of a thousand rows, over which the loops' chaos averages out.
TEST_F(TasksTest, AGpusErrorsAreTheCpusToOnePercent) {
  if (!HasCuda()) GTEST_SKIP() << "no GPU";
  testing::TinyLlamaOptions options;
  options.blocks = 1;
  options.hidden = 1024;
  options.heads = options.kv_heads = 8;
  options.intermediate = 2048;
  ASSERT_TRUE(testing::WriteTinyLlamaDirectory(dir_ + "/wide", options).ok());
  context_.set_source("file://" + dir_ + "/wide");
  SetGuided(1);
  auto cpu = NewRunner("", 8), gpu = NewRunner("", 2, Device::kCuda);
  v1::Task windows = NewTask(v1::TASK_KIND_CALIBRATE);
  windows.mutable_calibrate()->set_count(16);
  windows.mutable_calibrate()->set_length(256);
  const auto sampled = Run(cpu.get(), windows);
  ASSERT_TRUE(sampled.ok()) << sampled.status();
  const std::vector<std::string> parts = {sampled->calibrate().digest()};
  v1::Task task = ProfileOf(0, parts);
  // The same token weights for both: the difference is that of the sums, the factor and the fits.
  AddWeights(Guide({cpu.get()}, parts, 1), &task);
  const auto expected = Run(cpu.get(), task), found = Run(gpu.get(), task);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_TRUE(found.ok()) << found.status();
  for (int i = 0; i < 7; ++i) {
    for (int c : {0, 1}) {
      const v1::CandidateReport& a = found->profile().layers(i).candidates(c);
      const v1::CandidateReport& b = expected->profile().layers(i).candidates(c);
      const double ratio = a.output_error() / b.output_error();
      EXPECT_NEAR(ratio, 1.0, 0.01) << found->profile().layers(i).layer().name() << " " << a.bits();
      std::printf("layer %d, %u planes: output error on the GPU %.4f times the CPU's\n", i,
                  a.bits(), ratio);
    }
  }
}

TEST(CalibratesInFloat, SmallModelsBeyondTheLlamaForm) {
  ArchitectureSpec spec;  // LLaMA's form
  spec.vocab = 1 << 20, spec.hidden = 1 << 10, spec.tied_embeddings = true;
  EXPECT_FALSE(CalibratesInFloat(spec));
  spec.qk_norm = true;
  ASSERT_FALSE(BeyondLlama(spec).empty());
  EXPECT_TRUE(CalibratesInFloat(spec));  // 2^30 numbers
  ++spec.vocab;
  EXPECT_FALSE(CalibratesInFloat(spec));
}

// What a GPU does with a small model that the executor for many sequences does not run.
TEST_F(TasksTest, SmallModelsBeyondTheLlamaFormAreCalibratedInFp32) {
  const nlohmann::json& gemma = testing::GoldenCase(testing::GoldenFamilies(), "gemma2");
  ASSERT_TRUE(testing::WriteGoldenFamily(gemma, dir_ + "/gemma").ok());
  context_.set_source("file://" + dir_ + "/gemma");
  SetGuided(1);
  auto cpu = NewRunner(), half = NewRunner("", 1, Device::kCpuHalf);
  const std::vector<std::string> parts = Calibrate(cpu.get());
  v1::Task task = ProfileOf(1, parts), same = task, on_gpu = task;
  AddWeights(Guide({cpu.get()}, parts, 1), &task);
  AddWeights(Guide({half.get()}, parts, 1), &same);
  const auto expected = Run(cpu.get(), task), found = Run(half.get(), same);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_TRUE(found.ok()) << found.status();
  const auto near = [&](const v1::TaskResult& one) {
    for (int i = 0; i < 7; ++i) {
      for (int c : {0, 1}) {
        const double error = expected->profile().layers(i).candidates(c).output_error();
        EXPECT_NEAR(one.profile().layers(i).candidates(c).output_error() / error, 1.0, 0.002)
            << i << " " << c;
      }
    }
  };
  near(*found);
  // The same bytes on any runner.
  auto other = NewRunner("", 3, Device::kCpuHalf);
  const auto again = Run(other.get(), same);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Digests(*again), Digests(*found));
  if (!HasCuda()) return;
  auto gpu = NewRunner("", 2, Device::kCuda);
  AddWeights(Guide({gpu.get()}, parts, 1), &on_gpu);
  const auto device = Run(gpu.get(), on_gpu);
  ASSERT_TRUE(device.ok()) << device.status();
  near(*device);
}

TEST_F(TasksTest, LayersWhoseGradientsFailFallBackAndSaySo) {
  auto runner = NewRunner();
  const std::vector<std::string> parts = Calibrate(runner.get());
  const auto rms = Run(runner.get(), ProfileOf(1, parts));
  ASSERT_TRUE(rms.ok()) << rms.status();
  SetGuided(1);
  std::vector<v1::ForwardResult> forward = Guide({runner.get()}, parts, 1);
  const auto profile = [&] {
    v1::Task task = ProfileOf(1, parts);
    AddWeights(forward, &task);
    const auto result = Run(runner.get(), task);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->profile() : v1::ProfileResult();
  };
  const v1::ProfileResult good = profile();
  auto session = JobSession::Open(context_, {1, {dir_}, 1 << 30}, store_.get(), metrics_.get());
  ASSERT_TRUE(session.ok()) << session.status();
  v1::TokenWeights* stored = forward[1].mutable_token_weights(1);
  TokenWeights weights = (*session)->ReadTokenWeights(stored->digest()).value();
  weights.layers["k"][5] = std::numeric_limits<float>::quiet_NaN();
  for (float& s : weights.layers["gate"]) s = 3e38f;  // finite, but their Hessian is not
  stored->set_digest(store_->PutScratch("job-1", TokenWeightsBlob(weights).value()).value());
  for (v1::ForwardResult& part : forward) {
    v1::TokenWeights* of_part = part.mutable_token_weights(1);
    weights = (*session)->ReadTokenWeights(of_part->digest()).value();
    weights.layers["down"].assign(weights.layers["down"].size(), 0.0f);
    of_part->set_digest(store_->PutScratch("job-1", TokenWeightsBlob(weights).value()).value());
  }
  const v1::ProfileResult found = profile();
  const std::map<int, std::string> notes = {{1, "gradients not finite: unit-RMS tokens"},
                                            {4, "guided Hessian not finite: unit-RMS tokens"},
                                            {6, "gradients zero: unit-RMS tokens"}};
  ASSERT_EQ(found.layers_size(), 7);
  for (int i = 0; i < 7; ++i) {
    const auto note = notes.find(i);
    const v1::LayerReport& like = note == notes.end() ? good.layers(i) : rms->profile().layers(i);
    EXPECT_EQ(found.layers(i).note(), note == notes.end() ? "" : note->second);
    for (int c = 0; c < 2; ++c)
      EXPECT_EQ(found.layers(i).candidates(c).digest(), like.candidates(c).digest()) << i;
  }
}

// Inputs so small that 1 / mean(x^2) is no fp32 number: unit-RMS tokens have no weight then, but
// the inputs themselves say enough.
TEST_F(TasksTest, UnitRmsTokensWithoutAWeightFallBackToThePlainHessianAndSaySo) {
  testing::ScaleTensor(dir_ + "/tiny/model.safetensors", "model.layers.1.input_layernorm.weight",
                       1e-16f);
  for (const Device device : {Device::kCpu, Device::kCpuOperators, Device::kCpuHalf}) {
    auto runner = NewRunner("", 1, device);
    context_.mutable_recipe()->set_hessian(v1::HESSIAN_RMS);
    const std::vector<std::string> parts = Calibrate(runner.get());
    const auto rms = Run(runner.get(), ProfileOf(1, parts));
    ASSERT_TRUE(rms.ok()) << rms.status();
    context_.mutable_recipe()->set_hessian(v1::HESSIAN_PLAIN);
    const auto plain = Run(runner.get(), ProfileOf(1, parts));
    ASSERT_TRUE(plain.ok()) << plain.status();
    for (int i = 0; i < 7; ++i) {
      const v1::LayerReport& found = rms->profile().layers(i);
      const bool small = i < 4;  // q, k, v, and o, whose input is made of v
      EXPECT_EQ(found.note(), small ? "unit-RMS tokens zero or not finite: plain Hessian" : "")
          << i;
      for (int c = 0; c < 2; ++c) {
        EXPECT_EQ(found.candidates(c).digest() == plain->profile().layers(i).candidates(c).digest(),
                  small)
            << i << " on device " << static_cast<int>(device);
        EXPECT_GT(found.candidates(c).output_error(), 0) << i;
      }
    }
  }
  // After gradients of no use, both are said.
  SetGuided(1);
  auto runner = NewRunner();
  const std::vector<std::string> parts = Calibrate(runner.get());
  std::vector<v1::ForwardResult> forward = Guide({runner.get()}, parts, 1);
  auto session = JobSession::Open(context_, {1, {dir_}, 1 << 30}, store_.get(), metrics_.get());
  ASSERT_TRUE(session.ok()) << session.status();
  for (v1::ForwardResult& part : forward) {
    v1::TokenWeights* stored = part.mutable_token_weights(1);
    TokenWeights weights = (*session)->ReadTokenWeights(stored->digest()).value();
    weights.layers["q"].assign(weights.layers["q"].size(), 0.0f);
    stored->set_digest(store_->PutScratch("job-1", TokenWeightsBlob(weights).value()).value());
  }
  v1::Task task = ProfileOf(1, parts);
  AddWeights(forward, &task);
  const auto guided = Run(runner.get(), task);
  ASSERT_TRUE(guided.ok()) << guided.status();
  EXPECT_EQ(guided->profile().layers(0).note(),
            "gradients zero: unit-RMS tokens zero or not finite: plain Hessian");
}

// Nothing helps where the inputs are not finite: the task fails and says which layer.
TEST_F(TasksTest, InputsThatAreNotFiniteFailTheTask) {
  auto runner = NewRunner();
  const std::vector<std::string> parts = Calibrate(runner.get());
  testing::ScaleTensor(dir_ + "/tiny/model.safetensors", "model.layers.1.input_layernorm.weight",
                       1e38f);
  runner = NewRunner();
  const auto failed = Run(runner.get(), ProfileOf(1, parts));
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInvalidArgument) << failed.status();
  EXPECT_NE(failed.status().message().find("blocks.1.attn.q"), std::string::npos)
      << failed.status();
}

TEST_F(TasksTest, GuidedProfilesNeedTheWeightsOfEveryPart) {
  SetGuided(1);
  auto runner = NewRunner();
  const std::vector<std::string> parts = Calibrate(runner.get());
  auto forward = Guide({runner.get()}, parts, 1);
  v1::Task task = ProfileOf(0, parts);
  EXPECT_EQ(Run(runner.get(), task).status().message(),
            "block 0: token weights of 0 parts, expected 2");
  AddWeights(forward, &task);
  context_.mutable_recipe()->set_chunks(4);
  *task.mutable_context() = context_;
  EXPECT_EQ(Run(runner.get(), task).status().code(), absl::StatusCode::kInvalidArgument);
  task.mutable_profile()->mutable_token_weights(1)->set_block(2);
  EXPECT_EQ(Run(runner.get(), task).status().code(), absl::StatusCode::kInvalidArgument);
  v1::Task chunks = ForwardOf(0, parts[0], 1000);
  EXPECT_EQ(Run(runner.get(), chunks).status().code(), absl::StatusCode::kInvalidArgument);
}

// Only the q projection of block 1 is quantized: MEASURE and EVALUATE must find the same.
TEST_F(TasksTest, MeasureIsTheEvaluationOfOneLayerAlone) {
  context_.mutable_recipe()->set_head(v1::HEAD_ENCODING_RAW);
  const ArchitectureSpec spec = ModelSource::Open(dir_ + "/tiny").value()->spec();
  for (int64_t block = 0; block < spec.blocks; ++block) {
    for (const LinearLayer& layer : BlockLayers(spec, block)) {
      if (layer.name == "blocks.1.attn.q") continue;
      v1::RecipeOverride* skip = context_.mutable_recipe()->add_overrides();
      skip->set_glob(layer.name);
      skip->set_skip(true);
    }
  }
  for (const Device device : {Device::kCpu, Device::kCpuOperators}) {
    auto runner = NewRunner("", 1, device), other = NewRunner("", 3, device);
    const std::vector<std::string> parts = Calibrate(runner.get());
    v1::Task measure = NewTask(v1::TASK_KIND_MEASURE);
    v1::Task evaluate = NewTask(v1::TASK_KIND_EVALUATE);
    for (const char* name : {"2 bits", "3 bits"})
      evaluate.mutable_evaluate()->add_variants()->set_name(name);
    for (uint32_t block = 0; block < 3; ++block) {
      v1::Task profile = ProfileOf(block, parts);
      for (const LinearLayer& layer : BlockLayers(spec, block)) {
        v1::LayerPlan* plan = profile.mutable_profile()->add_layers();
        plan->set_name(layer.name);
        plan->set_block(block);
      }
      const auto result = Run(runner.get(), profile);
      ASSERT_TRUE(result.ok()) << result.status();
      for (const v1::LayerReport& layer : result->profile().layers()) {
        for (int v : {0, 1}) {
          v1::VariantLayer* l = evaluate.mutable_evaluate()->mutable_variants(v)->add_layers();
          l->set_layer(layer.layer().name());
          l->set_digest(layer.candidates(v % layer.candidates_size()).digest());
        }
        if (layer.layer().name() == "blocks.1.attn.q")
          *measure.mutable_measure()->add_layers() = layer;
      }
    }
    v1::Task ends_task = NewTask(v1::TASK_KIND_ENDS);
    ends_task.mutable_ends();
    const auto ends = Run(runner.get(), ends_task);
    ASSERT_TRUE(ends.ok()) << ends.status();
    evaluate.mutable_evaluate()->set_head_digest(ends->ends().head_digest());
    evaluate.mutable_evaluate()->set_unquantized_digest(ends->ends().unquantized_digest());
    evaluate.mutable_evaluate()->set_tokens_digest(parts[0]);
    for (const std::string& part : parts) measure.mutable_measure()->add_tokens_digests(part);
    measure.mutable_measure()->set_windows(2);  // the first part

    const auto evaluated = Run(other.get(), evaluate);
    ASSERT_TRUE(evaluated.ok()) << evaluated.status();
    const auto measured = Run(runner.get(), measure), again = Run(other.get(), measure);
    ASSERT_TRUE(measured.ok()) << measured.status();
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(measured->measure().SerializeAsString(), again->measure().SerializeAsString());
    EXPECT_GT(measured->stage_seconds().count("measure"), 0u);
    ASSERT_EQ(measured->measure().layers_size(), 1);
    EXPECT_EQ(measured->measure().layers(0).layer(), "blocks.1.attn.q");
    for (int v : {0, 1}) {
      double kl = 0;
      for (const v1::WindowScore& window : evaluated->evaluate().windows())
        kl += window.kl(v) / (2.0 * window.tokens());
      EXPECT_GT(kl, 1e-7);
      EXPECT_NEAR(measured->measure().layers(0).kl(v), kl, 1e-4 * kl);
    }
    measure.mutable_measure()->mutable_layers(0)->mutable_layer()->set_block(2);
    EXPECT_EQ(Run(runner.get(), measure).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(TasksTest, OverridesNarrowOrSkip) {
  auto runner = NewRunner();
  const std::vector<std::string> parts = Calibrate(runner.get());
  v1::RecipeOverride* wide = context_.mutable_recipe()->add_overrides();
  wide->set_glob("blocks.0.attn.q");
  wide->set_bits(5);
  v1::RecipeOverride* skip = context_.mutable_recipe()->add_overrides();
  skip->set_glob("blocks.0.mlp.down");
  skip->set_skip(true);
  const auto result = Run(runner.get(), ProfileOf(0, parts));
  ASSERT_TRUE(result.ok()) << result.status();
  const auto& layers = result->profile().layers();
  ASSERT_EQ(layers.size(), 7);
  ASSERT_EQ(layers[0].candidates_size(), 1);
  EXPECT_EQ(layers[0].candidates(0).bits(), 5u);
  EXPECT_EQ(layers[1].candidates_size(), 2);
  ASSERT_EQ(layers[6].candidates_size(), 1);
  EXPECT_EQ(layers[6].candidates(0).bits(), 0u);
  EXPECT_EQ(layers[6].candidates(0).output_error(), 0);
}

TEST_F(TasksTest, TextsAreCutIntoWindowsPlainOrJsonl) {
  auto runner = NewRunner();
  std::string text;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&text, "word", i, " ");
  const auto count_of = [&](const std::string& data, uint32_t first) -> absl::StatusOr<uint32_t> {
    v1::Task task = NewTask(v1::TASK_KIND_CALIBRATE);
    const auto digest = store_->Put(data);
    if (!digest.ok()) return digest.status();
    task.mutable_calibrate()->set_text_digest(*digest);
    task.mutable_calibrate()->set_count(8);
    task.mutable_calibrate()->set_length(16);
    task.mutable_calibrate()->set_text_first(first);
    const auto result = Run(runner.get(), task);
    if (!result.ok()) return result.status();
    return result->calibrate().count();
  };
  EXPECT_EQ(count_of(text, 0).value(), 8u);
  EXPECT_EQ(count_of("{\"text\": \"" + text + "\"}\n{\"text\": \"more\"}\n", 0).value(), 8u);
  EXPECT_EQ(count_of("short", 0).value(), 0u);
  EXPECT_EQ(count_of(text, 100000).value(), 0u);
  EXPECT_FALSE(count_of("{\"text\": \"x\"}\n{\"no\": 1}\n", 0).ok());
  EXPECT_FALSE(count_of("", 0).ok());
  v1::Task task = NewTask(v1::TASK_KIND_CALIBRATE);
  task.mutable_calibrate()->set_text_digest(store_->Put(text).value());
  task.mutable_calibrate()->set_count(8);  // of no length
  EXPECT_EQ(Run(runner.get(), task).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TasksTest, WindowsOfATextBeginWhereTheyAreTold) {
  auto runner = NewRunner();
  std::string text;
  for (int i = 0; i < 400; ++i) absl::StrAppend(&text, "word", i, " ");
  const std::string digest = store_->Put(text).value();
  auto session = JobSession::Open(context_, {1, {dir_}, 1 << 30}, store_.get(), metrics_.get());
  ASSERT_TRUE(session.ok()) << session.status();
  const auto windows = [&](uint32_t skip, uint32_t count) {
    v1::Task task = NewTask(v1::TASK_KIND_CALIBRATE);
    task.mutable_calibrate()->set_first(100);  // behind the calibration's: no part in it
    task.mutable_calibrate()->set_text_digest(digest);
    task.mutable_calibrate()->set_text_first(skip);
    task.mutable_calibrate()->set_count(count);
    task.mutable_calibrate()->set_length(16);
    task.mutable_calibrate()->set_held_out(true);
    const auto result = Run(runner.get(), task);
    EXPECT_TRUE(result.ok()) << result.status();
    return (*session)->ReadTokens(result->calibrate().digest()).value().tokens;
  };
  const std::vector<int32_t> all = windows(0, 8);
  EXPECT_EQ(windows(3, 4), std::vector<int32_t>(all.begin() + 3 * 16, all.begin() + 7 * 16));
}

TEST_F(TasksTest, ACancelledTaskEndsAndHoldsNothing) {
  auto runner = NewRunner();
  const std::vector<std::string> parts = Calibrate(runner.get());
  TaskControl control;
  control.cancelled = true;
  EXPECT_EQ(runner->Run(ProfileOf(1, parts), &control).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_FALSE(runner->held().has_value());
}

TEST_F(TasksTest, ATaskOfAnUnknownKindIsRefused) {
  auto runner = NewRunner();
  EXPECT_EQ(Run(runner.get(), NewTask(v1::TASK_KIND_REFINE)).status().code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace shiftadd
