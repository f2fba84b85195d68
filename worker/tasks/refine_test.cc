// REFINE tasks of a tiny model on a real blob store, against a direct computation in one piece.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "worker/model/testing/scale_tensor.h"
#include "worker/model/testing/tiny_llama.h"
#include "worker/packed/packed_blob.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/tasks/partial_hessian.h"
#include "worker/tasks/refined_weights.h"
#include "worker/tasks/task_runner.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {
namespace {

constexpr int64_t kBlocks = 2, kLength = 24;
constexpr uint32_t kParts = 2, kSequences = 3;  // of a part

// The source with some layers replaced.
class Replaced : public WeightProvider {
 public:
  explicit Replaced(const WeightProvider* source) : source_(*source) {}
  const ArchitectureSpec& spec() const override { return source_.spec(); }
  bool Has(const std::string& name) const override { return source_.Has(name); }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    const auto it = layers.find(name);
    if (it != layers.end()) return it->second;
    return source_.Read(name);
  }
  std::map<std::string, std::vector<float>> layers;

 private:
  const WeightProvider& source_;
};

class RefineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "shiftadd-refine-XXXXXX").string();
    dir_ = mkdtemp(pattern.data());
    InitTorch();
    testing::TinyLlamaOptions options;
    options.hidden = 96;
    options.intermediate = 160;
    options.blocks = kBlocks;
    ASSERT_TRUE(testing::WriteTinyLlamaDirectory(dir_ + "/tiny", options).ok());
    store_ = OpenOciLayout(dir_ + "/store").value();
    metrics_ = std::make_unique<WorkerMetrics>(&registry_);
    source_ = ModelSource::Open(dir_ + "/tiny").value();
    context_.set_job_id("job-1");
    context_.set_source("file://" + dir_ + "/tiny");
    v1::Recipe* recipe = context_.mutable_recipe();
    recipe->set_method(v1::METHOD_SHIFTADD);
    recipe->set_rotation(v1::ROTATION_WHT128);
    recipe->set_hessian(v1::HESSIAN_GUIDED);
    recipe->set_group_size(128);
    recipe->set_chunks(2);
    recipe->set_sweeps(1);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<TaskRunner> NewRunner(int threads = 1, Device device = Device::kCpu) {
    return std::make_unique<TaskRunner>(
        TaskRunnerOptions{threads, {dir_}, uint64_t{1} << 33, device}, store_.get(),
        metrics_.get());
  }
  v1::Task NewTask(v1::TaskKind kind) {
    v1::Task task;
    task.set_task_id("t");
    task.set_kind(kind);
    *task.mutable_context() = context_;
    return task;
  }
  absl::StatusOr<v1::TaskResult> Try(const v1::Task& task) {
    TaskControl control;
    return runner_->Run(task, &control);
  }
  v1::TaskResult Run(const v1::Task& task) {
    const auto result = Try(task);
    EXPECT_TRUE(result.ok()) << result.status() << " " << task.refine().ShortDebugString();
    return result.ok() ? *result : v1::TaskResult();
  }

  // Token windows, and with guided Hessians their weights.
  void Prepare() {
    runner_ = NewRunner();
    for (uint32_t part = 0; part < kParts; ++part) {
      v1::Task task = NewTask(v1::TASK_KIND_CALIBRATE);
      task.mutable_calibrate()->set_first(part * kSequences);
      task.mutable_calibrate()->set_count(kSequences);
      task.mutable_calibrate()->set_length(kLength);
      tokens_.push_back(Run(task).calibrate().digest());
      if (context_.recipe().hessian() != v1::HESSIAN_GUIDED) continue;
      v1::Task forward = NewTask(v1::TASK_KIND_FORWARD);
      forward.mutable_forward()->set_tokens_digest(tokens_[part]);
      forward.mutable_forward()->set_part(part);
      forward.mutable_forward()->set_token_weights(true);
      forward.mutable_forward()->set_chunks(context_.recipe().chunks());
      const v1::TaskResult result = Run(forward);
      for (const v1::TokenWeights& w : result.forward().token_weights())
        weights_[w.block()].push_back(w);
    }
  }

  // 0: the layer is skipped.
  static uint32_t BitsOf(const LinearLayer& layer) {
    if (layer.name == "blocks.0.mlp.gate") return 0;
    return layer.kind == "down" || layer.kind == "v" ? 3 : 2;
  }

  v1::Task RefineOf(v1::RefineStep step, int64_t block, int input) {
    v1::Task task = NewTask(v1::TASK_KIND_REFINE);
    v1::RefineTask* t = task.mutable_refine();
    t->set_step(step);
    t->set_block(static_cast<uint32_t>(block));
    t->set_input(static_cast<uint32_t>(input));
    for (const LinearLayer& layer : BlockLayers(source_->spec(), block)) {
      if (BitsOf(layer) == 0) continue;
      if (step != v1::REFINE_STEP_JOIN && static_cast<int>(layer.input) != input) continue;
      t->add_layers()->set_name(layer.name);
      t->add_bits(BitsOf(layer));
    }
    return task;
  }

  v1::Task HessianOf(int64_t block, int input, uint32_t part) {
    v1::Task task = RefineOf(v1::REFINE_STEP_HESSIAN, block, input);
    v1::RefineTask* t = task.mutable_refine();
    t->set_part(part);
    for (const v1::TokenWeights& w : weights_[static_cast<uint32_t>(block)])
      *(w.part() == part ? t->mutable_token_weights() : t->add_other_token_weights()) = w;
    const int64_t from = input == 0 ? block - 1 : block;
    if (from < 0) {
      t->set_tokens_digest(tokens_[part]);
    } else {
      *t->mutable_boundary() = boundaries_.at({from, part});
    }
    *t->mutable_shards() = {shards_.begin(), shards_.end()};
    return task;
  }

  // Every task in the coordinator's order; layer -> what JOIN said of it.
  std::map<std::string, v1::CandidateReport> Refine(uint32_t shards) {
    std::map<std::string, v1::CandidateReport> reports;
    shards_.clear();
    for (int64_t block = 0; block < kBlocks; ++block) {
      std::vector<v1::RefinedShard> made;
      for (int input = 0; input < kBlockInputs; ++input) {
        std::vector<v1::PartialHessian> hessians;
        for (uint32_t part = 0; part < kParts; ++part) {
          const v1::RefineResult result = Run(HessianOf(block, input, part)).refine();
          if (input == 0) boundaries_[{block, part}] = result.boundary();
          hessians.insert(hessians.end(), result.hessians().begin(), result.hessians().end());
        }
        if (input == 0) shards_.clear();  // since the new boundary
        for (uint32_t shard = 0; shard < shards; ++shard) {
          v1::Task fit = RefineOf(v1::REFINE_STEP_FIT, block, input);
          fit.mutable_refine()->set_shard(shard);
          fit.mutable_refine()->set_shards_total(shards);
          *fit.mutable_refine()->mutable_hessians() = {hessians.begin(), hessians.end()};
          const v1::RefineResult result = Run(fit).refine();
          shards_.insert(shards_.end(), result.shards().begin(), result.shards().end());
        }
      }
      v1::Task join = RefineOf(v1::REFINE_STEP_JOIN, block, 0);
      *join.mutable_refine()->mutable_shards() = {shards_.begin(), shards_.end()};
      const v1::TaskResult joined = Run(join);
      for (const v1::LayerReport& layer : joined.refine().layers()) {
        reports[layer.layer().name()] = layer.candidates(0);
        notes_[layer.layer().name()] = layer.note();
      }
    }
    return reports;
  }

  // The same without tasks, scratch, parts of rows or partial runs of a block.
  std::map<std::string, Candidate> Direct();

  std::string dir_;
  prometheus::Registry registry_;
  std::unique_ptr<WorkerMetrics> metrics_;
  std::unique_ptr<BlobStore> store_;
  std::unique_ptr<ModelSource> source_;
  std::unique_ptr<TaskRunner> runner_;
  v1::TaskContext context_;
  std::vector<std::string> tokens_;
  std::map<uint32_t, std::vector<v1::TokenWeights>> weights_;  // by block, in part order
  std::map<std::pair<int64_t, uint32_t>, v1::Boundary> boundaries_;
  std::vector<v1::RefinedShard> shards_;      // since the last boundary
  std::map<std::string, std::string> notes_;  // JOIN's, by layer
};

std::map<std::string, Candidate> RefineTest::Direct() {
  const QuantRecipe recipe = ToQuantRecipe(context_.recipe());
  WorkerMetrics metrics(&registry_);
  const auto session =
      JobSession::Open(context_, TaskRunnerOptions{1, {dir_}, 0}, store_.get(), &metrics).value();
  Replaced model_weights(source_.get());
  std::vector<HiddenStates> hidden;
  for (const std::string& digest : tokens_) {
    const TokenWindows windows = session->ReadTokens(digest).value();
    hidden.push_back(ReferenceModel::Create(source_.get(), 1, 0)
                         .value()
                         ->Embed(windows.tokens, windows.count, windows.length)
                         .value());
  }
  PackedContext packed_context;
  auto signs = std::make_shared<UnquantizedTensors>();
  for (const int64_t k : {96, 160}) signs->signs[k] = RotationSigns(recipe.seed, k);
  packed_context.unquantized = signs;

  std::map<std::string, Candidate> made;
  for (int64_t block = 0; block < kBlocks; ++block) {
    for (int input = 0; input < kBlockInputs; ++input) {
      // A fresh model for every input: nothing of the last one's weights is left.
      const auto model = ReferenceModel::Create(&model_weights, 1, 0).value();
      for (const LinearLayer& layer : BlockLayers(source_->spec(), block)) {
        if (static_cast<int>(layer.input) != input || BitsOf(layer) == 0) continue;
        const bool guided = recipe.hessian == QuantHessian::kGuided;
        std::vector<std::shared_ptr<const PreparedHessian>> chunks;
        for (int64_t c = 0; c < (guided ? recipe.chunks : 1); ++c) {
          HessianSum total;
          for (uint32_t part = 0; part < kParts; ++part) {
            const auto sum = HessianAccumulator::Create(layer.cols, recipe.hessian);
            std::vector<float> all;
            if (guided) {
              all = session->ReadTokenWeights(weights_[block][part].digest())
                        .value()
                        .layers.at(layer.kind);
            }
            HiddenStates h = hidden[part];
            const InputVisitor visitor = [&](BlockInput seen, int64_t sequence, const float* x,
                                             int64_t tokens, int64_t) {
              if (seen != layer.input) return;
              std::vector<float> s;
              for (int64_t t = 0; guided && t < tokens; ++t)
                s.push_back(all[(sequence * tokens + t) * recipe.chunks + c]);
              sum->Add(sequence, x, tokens, guided ? s.data() : nullptr);
            };
            EXPECT_TRUE(model->RunBlock(block, &h, &visitor, nullptr).ok());
            EXPECT_TRUE(AddHessianSum(sum->FinishSum().value(), &total).ok());
          }
          chunks.push_back(PreparedHessian::Create(FinishHessian(total).value(), recipe).value());
        }
        TaskControl control;
        made[layer.name] =
            QuantizeLayer(layer.name, source_->Read(layer.name).value(), layer.rows, layer.cols,
                          chunks, recipe, {static_cast<int>(BitsOf(layer))}, 1, &control)
                .value()
                .front();
      }
      for (const LinearLayer& layer : BlockLayers(source_->spec(), block)) {
        if (static_cast<int>(layer.input) != input || BitsOf(layer) == 0) continue;
        const PackedLayer packed = ParsePackedLayer(made[layer.name].blob, layer.name, layer.rows,
                                                    layer.cols, packed_context, layer.name)
                                       .value();
        std::vector<float>& weight = model_weights.layers[layer.name];
        weight.resize(layer.rows * layer.cols);
        DequantizeLayerRows(packed, 0, layer.rows, weight.data());
      }
    }
    const auto model = ReferenceModel::Create(&model_weights, 1, 0).value();
    for (HiddenStates& h : hidden) EXPECT_TRUE(model->RunBlock(block, &h, nullptr, nullptr).ok());
  }
  return made;
}

std::map<std::string, std::string> Digests(
    const std::map<std::string, v1::CandidateReport>& reports) {
  std::map<std::string, std::string> digests;
  for (const auto& [name, report] : reports) digests[name] = report.digest();
  return digests;
}

TEST_F(RefineTest, IsWhatADirectComputationGives) {
  for (const v1::Hessian hessian : {v1::HESSIAN_GUIDED, v1::HESSIAN_RMS, v1::HESSIAN_PLAIN}) {
    context_.mutable_recipe()->set_hessian(hessian);
    tokens_.clear();
    weights_.clear();
    Prepare();
    const auto refined = Refine(2);
    const auto direct = Direct();
    ASSERT_EQ(direct.size(), kBlocks * 7u - 1);
    ASSERT_EQ(refined.size(), direct.size());
    for (const auto& [name, candidate] : direct) {
      const v1::CandidateReport& report = refined.at(name);
      EXPECT_EQ(report.digest(), Sha256Digest(candidate.blob)) << name;
      EXPECT_EQ(store_->Get(report.digest()).value(), candidate.blob) << name;
      EXPECT_EQ(report.bits(), static_cast<uint32_t>(candidate.bits));
      EXPECT_EQ(report.stored_bytes(), candidate.stored_bytes);
      EXPECT_NEAR(report.weight_error(), candidate.weight_error, 1e-12);
      EXPECT_NEAR(report.output_error(), candidate.output_error, 1e-12);
      EXPECT_NEAR(report.guided_error(), candidate.guided_error,
                  1e-12 * (1 + candidate.guided_error));
      EXPECT_EQ(report.guided_error() > 0, hessian == v1::HESSIAN_GUIDED);
    }
  }
}

TEST_F(RefineTest, TheSameBytesForAnyShardsAndThreads) {
  Prepare();
  const auto one = Digests(Refine(1));
  ASSERT_EQ(one.size(), kBlocks * 7u - 1);
  EXPECT_EQ(Digests(Refine(3)), one);
  runner_ = NewRunner(/*threads=*/3);
  EXPECT_EQ(Digests(Refine(2)), one);
  EXPECT_EQ(Digests(Refine(40)), one);  // more than there are rows to cut
}

TEST_F(RefineTest, ADeviceSumsTheSameHessians) {
  Prepare();
  const v1::RefineResult expected = Run(HessianOf(0, 0, 1)).refine();
  runner_ = NewRunner(2, Device::kCpuOperators);
  const v1::RefineResult found = Run(HessianOf(0, 0, 1)).refine();
  ASSERT_EQ(expected.hessians_size(), 3);
  ASSERT_EQ(found.hessians_size(), 3);
  const auto read = [&](const v1::PartialHessian& h) {
    return ReadPartialHessian(store_->GetScratch("job-1", h.digest()).value(), h.layer()).value();
  };
  for (int i = 0; i < 3; ++i) {
    const PartialHessianSums a = read(expected.hessians(i)), b = read(found.hessians(i));
    ASSERT_EQ(b.chunks.size(), a.chunks.size());
    for (size_t c = 0; c < a.chunks.size(); ++c) {
      EXPECT_EQ(b.chunks[c].tokens, a.chunks[c].tokens);
      double most = 0, error = 0;
      for (size_t j = 0; j < a.chunks[c].sum.size(); ++j) {
        most = std::max(most, std::abs(a.chunks[c].sum[j]));
        error = std::max(error, std::abs(a.chunks[c].sum[j] - b.chunks[c].sum[j]));
      }
      EXPECT_GT(most, 0);
      EXPECT_LT(error, 1e-4 * most);
    }
  }
  EXPECT_EQ(Digests(Refine(1)), Digests(Refine(3)));
}

TEST_F(RefineTest, EveryMethodCanBeRefined) {
  const struct {
    v1::Method method;
    v1::Rotation rotation;
  } cases[] = {{v1::METHOD_LAT, v1::ROTATION_NONE},
               {v1::METHOD_RTN, v1::ROTATION_NONE},
               {v1::METHOD_OPTQ, v1::ROTATION_NONE},
               {v1::METHOD_ACC, v1::ROTATION_NONE},
               {v1::METHOD_ACC, v1::ROTATION_BUTTERFLY}};
  v1::Recipe* recipe = context_.mutable_recipe();
  recipe->set_hessian(v1::HESSIAN_PLAIN);
  recipe->set_chunks(1);
  recipe->set_rounds(5);
  for (const auto& c : cases) {
    recipe->set_method(c.method);
    recipe->set_rotation(c.rotation);
    tokens_.clear();
    Prepare();
    const auto refined = Digests(Refine(3));
    for (const auto& [name, candidate] : Direct())
      EXPECT_EQ(refined.at(name), Sha256Digest(candidate.blob))
          << name << " " << v1::Method_Name(c.method);
  }
}

// Later layers see what the ones before them have become, across blocks and inside one.
TEST_F(RefineTest, InputsComeFromTheQuantizedPrefix) {
  context_.mutable_recipe()->set_hessian(v1::HESSIAN_PLAIN);
  Prepare();
  Refine(1);
  WorkerMetrics metrics(&registry_);
  const auto session =
      JobSession::Open(context_, TaskRunnerOptions{1, {dir_}, 0}, store_.get(), &metrics).value();
  const TokenWindows windows = session->ReadTokens(tokens_[0]).value();
  ReferenceModel* const original = session->model().value();
  HiddenStates hidden = original->Embed(windows.tokens, windows.count, windows.length).value();
  EXPECT_EQ(session->ReadHidden(boundaries_.at({0, 0}).digest())->data, hidden.data);
  ASSERT_TRUE(original->RunBlock(0, &hidden, nullptr, nullptr).ok());
  EXPECT_NE(session->ReadHidden(boundaries_.at({1, 0}).digest())->data, hidden.data);

  const v1::Task within = HessianOf(1, 3, 0);
  ASSERT_GT(within.refine().shards_size(), 0);
  v1::Task without = within;
  without.mutable_refine()->clear_shards();
  EXPECT_NE(Run(within).refine().hessians(0).digest(), Run(without).refine().hessians(0).digest());
}

TEST_F(RefineTest, GradientsOfNoUseInOnePartMakeEveryPartUnitRms) {
  Prepare();
  TokenWeights spoiled;
  {
    WorkerMetrics metrics(&registry_);
    const auto session =
        JobSession::Open(context_, TaskRunnerOptions{1, {dir_}, 0}, store_.get(), &metrics).value();
    spoiled = session->ReadTokenWeights(weights_[0][1].digest()).value();
    spoiled.layers["k"][5] = std::numeric_limits<float>::infinity();
    spoiled.layers["v"][5] = 3e38f;  // finite, but its products with inputs are not
    weights_[0][1].set_digest(
        store_->PutScratch(context_.job_id(), TokenWeightsBlob(spoiled).value()).value());
  }
  for (uint32_t part = 0; part < kParts; ++part) {
    const v1::RefineResult result = Run(HessianOf(0, 0, part)).refine();
    ASSERT_EQ(result.hessians_size(), 3);
    for (const v1::PartialHessian& h : result.hessians()) {
      const std::string blob = store_->GetScratch("job-1", h.digest()).value();
      const PartialHessianSums sums = ReadPartialHessian(blob, h.digest()).value();
      const bool q = h.layer() == "blocks.0.attn.q";
      EXPECT_EQ(sums.kind, q ? QuantHessian::kGuided : QuantHessian::kRms) << h.layer();
      EXPECT_EQ(sums.chunks.size(), q ? 2u : 1u);
    }
  }
  Refine(2);
  for (const auto& [name, note] : notes_) {
    const bool spoiled = name == "blocks.0.attn.k" || name == "blocks.0.attn.v";
    EXPECT_EQ(note, spoiled ? "refining: unit-RMS tokens" : "") << name;
  }
}

// Where no unit-RMS token has a weight, FIT takes the plain Hessian and JOIN says so.
TEST_F(RefineTest, UnitRmsTokensWithoutAWeightMakeThePlainHessian) {
  testing::ScaleTensor(dir_ + "/tiny/model.safetensors", "model.layers.0.input_layernorm.weight",
                       1e-16f);
  source_ = ModelSource::Open(dir_ + "/tiny").value();
  const auto refine = [&](v1::Hessian hessian) {
    context_.mutable_recipe()->set_hessian(hessian);
    tokens_.clear();
    Prepare();
    return Refine(2);
  };
  const auto rms = refine(v1::HESSIAN_RMS);
  std::map<std::string, std::string> notes;
  std::swap(notes, notes_);
  const auto plain = refine(v1::HESSIAN_PLAIN);
  for (const LinearLayer& layer : BlockLayers(source_->spec(), 0)) {
    // What o reads is made of v.
    const bool small = layer.input == BlockInput::kAttn || layer.kind == "o";
    if (BitsOf(layer) == 0) continue;
    EXPECT_EQ(notes[layer.name], small ? "refining: plain Hessian" : "") << layer.name;
    EXPECT_EQ(notes_[layer.name], "") << layer.name;
    EXPECT_EQ(rms.at(layer.name).digest() == plain.at(layer.name).digest(), small) << layer.name;
  }
}

TEST_F(RefineTest, TasksThatDoNotSuitTheModelAreRefusedAndSayWhy) {
  Prepare();
  const auto refused = [&](v1::Task task, const std::function<void(v1::RefineTask*)>& spoil,
                           const std::string& why) {
    spoil(task.mutable_refine());
    const absl::Status status = Try(task).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find(why), std::string::npos) << status;
  };
  const v1::Task hessian = HessianOf(0, 0, 0);
  refused(
      hessian, [](v1::RefineTask* t) { t->set_block(kBlocks); }, "of 2 blocks");
  refused(
      hessian, [](v1::RefineTask* t) { t->clear_bits(); }, "0 widths for 3 layers");
  refused(
      hessian, [](v1::RefineTask* t) { t->set_input(1); }, "does not read this input");
  refused(
      HessianOf(0, 0, 1), [](v1::RefineTask* t) { t->clear_other_token_weights(); },
      "token weights of block 0 part 1 of 1");
  refused(
      hessian, [](v1::RefineTask* t) { t->clear_tokens_digest(); }, "boundary of block 0");
  refused(
      hessian,
      [](v1::RefineTask* t) {
        v1::RefinedShard* s = t->add_shards();
        s->set_layer("blocks.0.attn.q");
        s->set_row_begin(16);
        s->set_row_end(96);
      },
      "expected one from row 0");
  refused(
      hessian, [](v1::RefineTask* t) { t->add_shards()->set_layer("blocks.9.attn.q"); },
      "no layer of the model");
  v1::Task fit = RefineOf(v1::REFINE_STEP_FIT, 0, 0);
  refused(
      fit, [](v1::RefineTask*) {}, "shard 0 of 0");
  fit.mutable_refine()->set_shards_total(1);
  refused(
      fit, [](v1::RefineTask*) {}, "no Hessian");
  refused(
      fit,
      [&](v1::RefineTask* t) {
        *t->mutable_hessians() = Run(HessianOf(0, 0, 1)).refine().hessians();
      },
      "part 0 is missing");
  refused(
      RefineOf(v1::REFINE_STEP_JOIN, 0, 0), [](v1::RefineTask*) {}, "expected 96");
  v1::Task none = hessian;
  none.mutable_refine()->clear_step();
  EXPECT_EQ(Try(none).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(RefineTest, PlansReckonWithIt) {
  runner_ = NewRunner();
  v1::Task task = NewTask(v1::TASK_KIND_INGEST);
  task.mutable_context()->mutable_recipe()->add_candidate_bits(3);
  task.mutable_ingest()->mutable_calibration()->set_sequences(20);
  task.mutable_ingest()->mutable_calibration()->set_length(kLength);
  const v1::Plan before = Run(task).ingest().plan();
  task.mutable_context()->mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED);
  const v1::Plan after = Run(task).ingest().plan();
  EXPECT_GT(after.estimated_seconds(), before.estimated_seconds());
  // q, k and v, or gate and up, or down: two parts, two chunks.
  const uint64_t triangles = 2 * 2 * std::max(3 * 96 * 97 / 2, 160 * 161 / 2) * 8;
  EXPECT_GE(after.store_bytes(), before.store_bytes() + triangles);
}

TEST(PartialHessian, IsReadAsItWasWritten) {
  PartialHessianSums sums{QuantHessian::kGuided, {{3, 7, {1, 2, 3, 0, 4, 5, 0, 0, 6}}}};
  sums.chunks.push_back({3, 7, {1e-300, -2, 1e300, 0, 0.1, 0, 0, 0, 9}});
  const std::string blob = WritePartialHessian(sums).value();
  PartialHessianSums read = ReadPartialHessian(blob, "x").value();
  EXPECT_EQ(read.kind, sums.kind);
  ASSERT_EQ(read.chunks.size(), 2u);
  for (int c : {0, 1}) {
    EXPECT_EQ(read.chunks[c].tokens, 7);
    EXPECT_EQ(read.chunks[c].sum, sums.chunks[c].sum);
  }
  PartialHessianSums total;
  ASSERT_TRUE(AddPartialHessian(read, &total).ok());
  ASSERT_TRUE(AddPartialHessian(read, &total).ok());
  EXPECT_EQ(total.chunks[0].tokens, 14);
  EXPECT_EQ(total.chunks[0].sum[4], 8);
  read.kind = QuantHessian::kRms;
  EXPECT_FALSE(AddPartialHessian(read, &total).ok());

  // A plain part among parts of unit-RMS tokens has none with a weight: in any order its tokens
  // count and its sum does not.
  const PartialHessianSums plain{QuantHessian::kPlain, {{2, 5, {1e-30, 0, 0, 1e-30}}}};
  const PartialHessianSums rms{QuantHessian::kRms, {{2, 3, {3, 1, 0, 4}}}};
  for (const auto& parts : {std::vector{plain, rms, plain}, std::vector{rms, plain, plain},
                            std::vector{plain, plain, rms}}) {
    total = {};
    for (const PartialHessianSums& part : parts) ASSERT_TRUE(AddPartialHessian(part, &total).ok());
    EXPECT_EQ(total.kind, QuantHessian::kRms);
    ASSERT_EQ(total.chunks.size(), 1u);
    EXPECT_EQ(total.chunks[0].tokens, 13);
    EXPECT_EQ(total.chunks[0].sum, rms.chunks[0].sum);
  }
  total = plain;
  ASSERT_TRUE(AddPartialHessian(plain, &total).ok());
  EXPECT_EQ(total.kind, QuantHessian::kPlain);
  EXPECT_EQ(total.chunks[0].sum[3], 2e-30);
  PartialHessianSums wider = rms;
  wider.chunks[0].k = 3;
  EXPECT_FALSE(AddPartialHessian(wider, &total).ok());

  EXPECT_EQ(ReadPartialHessian("nonsense", "x").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReadPartialHessian(blob.substr(0, blob.size() - 8), "x").status().code(),
            absl::StatusCode::kDataLoss);
  sums.chunks[1].k = 2;
  EXPECT_FALSE(WritePartialHessian(sums).ok());
}

}  // namespace
}  // namespace shiftadd
