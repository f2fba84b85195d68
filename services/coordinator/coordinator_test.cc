// The life of jobs through the real store, with simulated workers.
#include "services/coordinator/coordinator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/coordinator/planner.h"
#include "services/coordinator/planner_internal.h"
#include "services/coordinator/simulated_cluster.h"

namespace shiftadd::coordinator {
namespace {

using absl::StatusCode;

// Runs a job to its end and returns the config it published.
std::string PublishedConfig(int workers, SimulatedModel model = {}) {
  SimulatedCluster cluster(model);
  for (int i = 0; i < workers; ++i) cluster.Lease("w" + std::to_string(i));  // makes them known
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.Run(workers);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED)
      << cluster.Get(job.job_id()).error();
  EXPECT_EQ(cluster.publisher.published.size(), 1u);
  return cluster.publisher.published.empty() ? "" : cluster.publisher.published[0].config_json();
}

TEST(Job, GoesThroughEveryState) {
  SimulatedCluster cluster;
  const v1::Job submitted = cluster.Submit(SimulatedCluster::Request());
  ASSERT_TRUE(cluster.scratch->PutScratch(submitted.job_id(), "activations").ok());
  cluster.Run(1);
  const v1::Job job = cluster.Get(submitted.job_id());
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  EXPECT_EQ(job.device_class(), "cpu-avx2");
  EXPECT_EQ(job.progress().ratio(), 1);
  EXPECT_EQ(job.plan().source_files(0).digest(), Sha256Digest("model.gguf"));
  EXPECT_TRUE(job.quality().published_mixed());
  EXPECT_EQ(job.quality().uniform_bits(), 3u);
  EXPECT_NEAR(job.quality().kl(), 0.25 + 0.01 * (120 + 1) / 18, 1e-12);
  EXPECT_GT(job.quality().kl_standard_error(), 0);
  EXPECT_NEAR(job.quality().perplexity_full(), std::exp(2.0), 1e-12);
  EXPECT_LE(job.quality().planes(), 3.0);
  EXPECT_EQ(job.quality().windows(), 18u);
  EXPECT_EQ(job.quality().server_max_logit_error(), 0.001);

  std::vector<v1::JobState> states;
  int layers = 0;
  for (const v1::JobEvent& e : cluster.Events(job.job_id())) {
    if (e.event_case() == v1::JobEvent::kState) states.push_back(e.state());
    layers += e.event_case() == v1::JobEvent::kLayer;
  }
  EXPECT_EQ(states, (std::vector<v1::JobState>{v1::JOB_STATE_QUEUED, v1::JOB_STATE_INGESTING,
                                               v1::JOB_STATE_CALIBRATING, v1::JOB_STATE_PROFILING,
                                               v1::JOB_STATE_ALLOCATING, v1::JOB_STATE_EVALUATING,
                                               v1::JOB_STATE_PACKAGING, v1::JOB_STATE_SUCCEEDED}));
  EXPECT_EQ(layers, 12);

  ASSERT_EQ(cluster.publisher.published.size(), 1u);
  const v1::PublishPackageRequest& request = cluster.publisher.published[0];
  EXPECT_EQ(request.reference(), "tiny:latest");
  EXPECT_EQ(request.layers_size(), 12 + 4);  // head, unquantized, tokenizer, config
  EXPECT_EQ(job.package_digest(), Sha256Digest(request.config_json()));
  EXPECT_EQ(job.quality().package_bytes(), request.config_json().size() + 16 * 1000);
  // Every candidate is pinned, not only the chosen ones.
  EXPECT_EQ(std::set<std::string>(cluster.publisher.pins[job.job_id()].begin(),
                                  cluster.publisher.pins[job.job_id()].end())
                .size(),
            36u + 4);
  // Scratch is gone.
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_FALSE(cluster.scratch->GetScratch(job.job_id(), Sha256Digest("activations")).ok());
  EXPECT_TRUE(cluster.store->JobsNeedingWork()->empty());

  const auto report = cluster.core->Report(job.job_id());
  ASSERT_TRUE(report.ok());
  ASSERT_EQ(report->layers_size(), 12);
  uint32_t total = 0;
  for (const auto& layer : report->layers()) total += layer.chosen_bits();
  EXPECT_EQ(total, 36u);
  EXPECT_GT(report->state_seconds().at("PROFILING"), 0);
  EXPECT_GT(report->worker_seconds().at("w0"), 0);

  ASSERT_TRUE(cluster.core->Delete(job.job_id()).ok());
  EXPECT_TRUE(cluster.publisher.pins.empty());
  EXPECT_EQ(cluster.core->Get(job.job_id()).status().code(), StatusCode::kNotFound);
}

TEST(Job, ConfigSaysWhatTheFormatAsksFor) {
  const auto config = nlohmann::json::parse(PublishedConfig(1));
  EXPECT_EQ(config["format"]["major"], 1);
  EXPECT_EQ(config["architecture"]["family"], "llama");
  EXPECT_EQ(config["recipe"]["rotation"], "wht128");
  EXPECT_EQ(config["recipe"]["candidate_bits"], nlohmann::json({2, 3, 4}));
  EXPECT_EQ(config["budget"]["planes"], 3.0);
  EXPECT_EQ(config["layers"].size(), 12u);
  EXPECT_EQ(config["layers"][0]["name"], "blocks.0.attn.q");
  EXPECT_EQ(config["head"], Sha256Digest("head"));
  EXPECT_EQ(config["exponent_sets"]["2"][0], nlohmann::json({0, -1}));
  EXPECT_EQ(config["inputs"]["calibration"].size(), 3u);
  EXPECT_EQ(config["inputs"]["evaluation"].size(), 2u);
  EXPECT_EQ(config["device_class"], "cpu-avx2");
  EXPECT_EQ(config["quality"]["windows"], 18);
  EXPECT_EQ(config.dump(), PublishedConfig(1));  // canonical
}

TEST(Job, TheSameConfigForAnyNumberOfWorkers) {
  const std::string one = PublishedConfig(1);
  EXPECT_FALSE(one.empty());
  EXPECT_EQ(PublishedConfig(2), one);
  EXPECT_EQ(PublishedConfig(3), one);
  EXPECT_EQ(PublishedConfig(9), one);  // more than blocks
}

TEST(Job, TheEndOfOneTaskOfManyIsNotPlannedFor) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  int profiles = 0;
  while (profiles < 6) {
    const std::optional<v1::Task> task = cluster.Lease("w0");
    ASSERT_TRUE(task.has_value());
    ASSERT_TRUE(cluster.core->Tick().ok());
    cluster.store_calls.clear();
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());
    ASSERT_TRUE(cluster.core->Tick().ok());
    if (task->kind() != v1::TASK_KIND_PROFILE) continue;
    // The last one may be what the job waits for.
    EXPECT_EQ(cluster.store_calls["ListTasks"] > 0, ++profiles == 6) << profiles;
  }
  // What was stored is pinned within a second, and at the latest when it is chosen from.
  EXPECT_GE(std::set<std::string>(cluster.publisher.pins[job.job_id()].begin(),
                                  cluster.publisher.pins[job.job_id()].end())
                .size(),
            36u);
  cluster.Run(2);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Job, SeveralWorkersSplitTheForwardPass) {
  SimulatedCluster cluster;
  for (const char* w : {"w0", "w1", "w2"}) cluster.Lease(w);
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING, 3);
  std::map<v1::TaskKind, int> count;
  const auto planned = cluster.store->ListTasks(job.job_id(), false);
  for (const TaskRecord& t : *planned) ++count[t.kind];
  EXPECT_EQ(count[v1::TASK_KIND_FORWARD], 3);
  EXPECT_EQ(count[v1::TASK_KIND_PROFILE], 2);  // blocks 0 and 1, before the first split
  cluster.Run(3);
  const auto view = JobView::Read(cluster.store.get(), job.job_id());
  ASSERT_TRUE(view.ok());
  for (const ViewedTask* t : view->OfKind(v1::TASK_KIND_PROFILE)) {
    const uint32_t block = t->record.ordinal;
    EXPECT_EQ(t->record.lane, block / 2 * 2);
    EXPECT_EQ(t->task.profile().tokens_digests_size(), 3);
    ASSERT_EQ(t->task.profile().boundaries_size(), block < 2 ? 0 : 3) << block;
    for (int part = 0; part < t->task.profile().boundaries_size(); ++part) {
      EXPECT_EQ(t->task.profile().boundaries(part).block(), block / 2 * 2);
      EXPECT_EQ(t->task.profile().boundaries(part).part(), static_cast<uint32_t>(part));
    }
  }
  EXPECT_EQ(SplitBlocks(30, 4), (std::vector<uint32_t>{7, 15, 22}));
  EXPECT_TRUE(SplitBlocks(30, 0).empty());
  EXPECT_EQ(SplitBlocks(2, 5), (std::vector<uint32_t>{1}));
}

TEST(Job, PublishesTheUniformVariantWhereItIsBetter) {
  SimulatedCluster cluster(SimulatedModel{.uniform_kl = 0.125});
  const v1::Job submitted = cluster.Submit(SimulatedCluster::Request());
  cluster.Run(1);
  const v1::Job job = cluster.Get(submitted.job_id());
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  EXPECT_FALSE(job.quality().published_mixed());
  EXPECT_EQ(job.quality().kl(), job.quality().kl_uniform());
  EXPECT_EQ(job.quality().planes(), 3.0);
  const auto config = nlohmann::json::parse(cluster.publisher.published[0].config_json());
  for (const auto& layer : config["layers"]) EXPECT_EQ(layer["bits"], 3);
}

TEST(Job, SurvivesACrashInEveryState) {
  const std::string expected = PublishedConfig(2);
  for (int state = v1::JOB_STATE_INGESTING; state <= v1::JOB_STATE_PACKAGING; ++state) {
    if (state == v1::JOB_STATE_REFINING) continue;
    SimulatedCluster cluster;
    cluster.Lease("w0");
    cluster.Lease("w1");
    // These two pass within one tick unless the packager is away.
    const bool packager = state == v1::JOB_STATE_ALLOCATING || state == v1::JOB_STATE_PACKAGING;
    const v1::Job job = cluster.Submit(SimulatedCluster::Request());
    if (packager) {
      const auto before = static_cast<v1::JobState>(state - 1);
      cluster.RunTo(job.job_id(), before, 2);
      cluster.publisher.fault = absl::UnavailableError("packager is away");
    }
    cluster.RunTo(job.job_id(), static_cast<v1::JobState>(state), 2);
    cluster.clock->Advance(absl::Seconds(3));  // past the wait for the packager
    ASSERT_TRUE(cluster.core->Tick().ok());
    ASSERT_EQ(cluster.Get(job.job_id()).state(), state);
    cluster.Restart();
    ASSERT_EQ(cluster.Get(job.job_id()).state(), state);
    cluster.publisher.fault = absl::OkStatus();
    const auto task = cluster.Lease("w0");  // killed with it
    cluster.clock->Advance(absl::Seconds(31));
    cluster.Restart();
    if (task.has_value()) {
      EXPECT_TRUE(cluster.Renew("w0", *task).ok()) << "grace";
    }
    cluster.clock->Advance(absl::Seconds(31));
    cluster.Run(2);
    ASSERT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED)
        << v1::JobState_Name(static_cast<v1::JobState>(state)) << cluster.Get(job.job_id()).error();
    EXPECT_EQ(cluster.publisher.published.back().config_json(), expected);
    cluster.Events(job.job_id());  // without gaps
  }
}

TEST(Job, ARestartAfterEveryCompletionLosesNothing) {
  const std::string expected = PublishedConfig(1);
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  for (int i = 0; i < 100; ++i) {
    const auto task = cluster.Lease("w0");
    if (!task.has_value()) break;
    cluster.Restart();  // between lease and completion
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());
    cluster.Restart();                                // between completion and planning
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());  // the answer was lost: repeated
  }
  ASSERT_EQ(cluster.publisher.published.size(), 1u);
  EXPECT_EQ(cluster.publisher.published[0].config_json(), expected);
}

TEST(Job, AStalledWorkersTaskGoesToAnother) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  const auto task = cluster.Lease("stalled");
  ASSERT_TRUE(task.has_value());
  EXPECT_GT(task->stall_limit().seconds(), 0);
  EXPECT_EQ(task->lease().seconds(), 30);
  EXPECT_EQ(task->attempt(), 1u);
  cluster.clock->Advance(absl::Seconds(31));
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_EQ(cluster.Renew("stalled", *task).status().code(), StatusCode::kAborted);
  EXPECT_EQ(cluster.Complete("stalled", *task).code(), StatusCode::kAborted);
  const auto again = cluster.Lease("w1");
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->task_id(), task->task_id());
  EXPECT_EQ(again->attempt(), 2u);
  EXPECT_GT(again->lease_epoch(), task->lease_epoch());
  ASSERT_TRUE(cluster.Complete("w1", *again).ok());
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Job, AFatalFaultFailsItAndRetryGoesOn) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  ASSERT_TRUE(cluster.Complete("w0", *cluster.Lease("w0")).ok());
  const auto task = cluster.Lease("w0");
  ASSERT_TRUE(cluster.Fail("w0", *task, StatusCode::kInvalidArgument, "blocks.1.q: NaN").ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  const v1::Job failed = cluster.Get(job.job_id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.resume_state(), v1::JOB_STATE_PROFILING);
  EXPECT_NE(failed.error().find("blocks.1.q: NaN"), std::string::npos) << failed.error();
  EXPECT_TRUE(failed.has_end_time());
  EXPECT_FALSE(cluster.Lease("w0").has_value());
  const auto done_before = cluster.store->ListTasks(job.job_id(), false);

  ASSERT_TRUE(cluster.core->Retry(job.job_id()).ok());
  EXPECT_EQ(cluster.core->Retry(job.job_id()).status().code(), StatusCode::kFailedPrecondition);
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
  for (const TaskRecord& before : *done_before) {
    if (before.state != TaskState::kDone) continue;
    EXPECT_EQ(cluster.store->GetTask(before.task_id)->lease_epoch, before.lease_epoch)
        << "done again";
  }
  // A watcher from the beginning sees both lives.
  size_t seen = 0;
  ASSERT_TRUE(cluster.core
                  ->Watch(
                      job.job_id(), 1,
                      [&](const v1::JobEvent&) {
                        ++seen;
                        return true;
                      },
                      [] { return false; })
                  .ok());
  EXPECT_EQ(seen, cluster.Events(job.job_id()).size());
  EXPECT_EQ(cluster.Events(job.job_id()).back().state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Job, ASourceSwappedBeforeTheRetryIsNoticed) {
  for (const v1::JobState state : {v1::JOB_STATE_PROFILING, v1::JOB_STATE_EVALUATING}) {
    SimulatedCluster cluster;
    const v1::Job job = cluster.Submit(SimulatedCluster::Request());
    cluster.RunTo(job.job_id(), state);
    const auto task = cluster.Lease("w0");
    ASSERT_TRUE(cluster.Fail("w0", *task, StatusCode::kInvalidArgument, "the disk is gone").ok());
    ASSERT_TRUE(cluster.core->Tick().ok());
    cluster.source_content = "other weights in the same file";
    ASSERT_TRUE(cluster.core->Retry(job.job_id()).ok());
    cluster.Run(1);
    const v1::Job failed = cluster.Get(job.job_id());
    EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
    EXPECT_NE(failed.error().find("model.gguf has changed since it was quantized"),
              std::string::npos)
        << failed.error();
    cluster.source_content.clear();  // put back
    ASSERT_TRUE(cluster.core->Retry(job.job_id()).ok());
    cluster.Run(1);
    EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
    EXPECT_EQ(cluster.publisher.published.at(0).config_json(), PublishedConfig(1));
  }
}

// Of a model's file, say, whose tensors have such names.
TEST(Job, WhatAWorkerSaysOfAFaultIsShortAndPrintable) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  const std::string message = "tensor \x1b[2J\n" + std::string(100'000, 'x');
  ASSERT_TRUE(cluster.Fail("w0", *cluster.Lease("w0"), StatusCode::kInternal, message).ok());
  const std::string shown = "tensor \\x1b[2J\\nxxx";
  const std::string log = cluster.Events(job.job_id()).back().log();
  EXPECT_NE(log.find(shown), std::string::npos) << log;
  EXPECT_LT(log.size(), 5000u);
  ASSERT_TRUE(cluster.Fail("w1", *cluster.Lease("w1"), StatusCode::kDataLoss, message).ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  const std::string error = cluster.Get(job.job_id()).error();
  EXPECT_NE(error.find(shown), std::string::npos) << error;
  EXPECT_LT(error.size(), 6000u);
}

TEST(Job, WorkersAreNamedSoThatTheyCanBeShown) {
  SimulatedCluster cluster;
  v1::LeaseTaskRequest good;
  good.set_worker_id("machine 7");
  good.set_device_class("cpu-avx2");
  const auto lease = [&](const std::function<void(v1::LeaseTaskRequest*)>& change) {
    v1::LeaseTaskRequest request = good;
    change(&request);
    return cluster.core->Lease(request, [] { return false; }).status();
  };
  EXPECT_TRUE(lease([](auto*) {}).ok());
  for (const std::string& bad :
       {std::string("a\nb"), std::string(201, 'w'), std::string("\x1b[A")}) {
    EXPECT_EQ(lease([&](auto* r) { r->set_worker_id(bad); }).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(lease([&](auto* r) { r->set_device_class(bad); }).code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(lease([&](auto* r) { r->set_quantizer_version(bad); }).code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(lease([&](auto* r) { r->set_request_id(bad); }).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(cluster.core->Workers()->size(), 1u);
  v1::DrainWorkerRequest drain;
  drain.set_worker_id("machine 7");
  drain.set_standing(static_cast<v1::WorkerStanding>(7));
  EXPECT_EQ(cluster.core->DrainWorker(drain).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.core->Workers()->at(0).state(), "idle");
}

TEST(Job, APlanThatNobodyCouldCarryOutFailsIt) {
  const std::function<void(v1::Plan*)> faults[] = {
      [](v1::Plan* plan) { plan->set_blocks(4'000'000'000); },
      [](v1::Plan* plan) { plan->set_blocks(static_cast<uint32_t>(plan->layers_size()) + 1); },
      [](v1::Plan* plan) {
        const v1::LayerPlan layer = plan->layers(0);
        while (plan->layers_size() <= 100'000) *plan->add_layers() = layer;
      },
      [](v1::Plan* plan) { plan->mutable_layers(0)->set_rows(0); },
      [](v1::Plan* plan) { plan->set_estimated_seconds(std::nan("")); },
      [](v1::Plan* plan) { plan->set_estimated_seconds(1e300); }};
  for (const auto& fault : faults) {
    SimulatedCluster cluster;
    const v1::Job job = cluster.Submit(SimulatedCluster::Request());
    const auto task = cluster.Lease("w0");
    v1::CompleteTaskRequest request;
    request.set_worker_id("w0");
    request.set_task_id(task->task_id());
    request.set_lease_epoch(task->lease_epoch());
    *request.mutable_result() = cluster.Answer(*task);
    fault(request.mutable_result()->mutable_ingest()->mutable_plan());
    ASSERT_TRUE(cluster.core->Complete(request).ok());
    ASSERT_TRUE(cluster.core->Tick().ok());
    const v1::Job failed = cluster.Get(job.job_id());
    EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
    EXPECT_EQ(failed.error().substr(0, 6), "plan: ") << failed.error();
  }
}

TEST(Job, OneFactorOfAWideLayerHasTime) {
  v1::Task task;
  task.mutable_stall_limit()->set_seconds(600);
  google::protobuf::RepeatedPtrField<v1::LayerPlan> layers;
  layers.Add()->set_cols(1536);
  internal::AllowFactors(layers, &task);
  EXPECT_EQ(task.stall_limit().seconds(), 600);
  layers.Add()->set_cols(28672);
  internal::AllowFactors(layers, &task);
  EXPECT_GT(task.stall_limit().seconds(), 3000);
}

TEST(Job, FourAttemptsThenItFails) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  for (int i = 0; i < 5; ++i) {  // drained: counts as none
    ASSERT_TRUE(cluster.Fail("d", *cluster.Lease("d"), StatusCode::kCancelled, "drain").ok());
  }
  for (int i = 0; i < 4; ++i) {
    cluster.clock->Advance(absl::Minutes(2));  // so that the same worker gets it again
    const auto task = cluster.Lease("w0");
    ASSERT_TRUE(task.has_value()) << i;
    ASSERT_TRUE(cluster.Fail("w0", *task, StatusCode::kResourceExhausted, "no memory").ok());
    const std::vector<v1::JobEvent> events = cluster.Events(job.job_id());
    const bool told = std::any_of(events.begin(), events.end(), [](const v1::JobEvent& e) {
      return e.log().find("will be retried: RESOURCE_EXHAUSTED: no memory") != std::string::npos;
    });
    EXPECT_TRUE(told);
  }
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(cluster.Get(job.job_id()).error().find("after 4 attempts"), std::string::npos);
}

// A task that kills whoever takes it.
TEST(Job, APoisonTaskNamesItsTensorsTheWorkersAndWhatTheySaid) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  std::string poison;
  for (int i = 0; i < 4; ++i) {
    const std::string worker = absl::StrCat("w", i);
    auto task = cluster.Lease(worker);
    ASSERT_TRUE(task.has_value()) << i;
    while (poison.empty() ? task->kind() != v1::TASK_KIND_PROFILE : task->task_id() != poison) {
      // The others can be done.
      ASSERT_TRUE(cluster.Complete(worker, *task).ok());
      task = cluster.Lease(worker);
      ASSERT_TRUE(task.has_value()) << i;
    }
    poison = task->task_id();
    if (i == 1) {
      ASSERT_TRUE(cluster.Fail(worker, *task, StatusCode::kInternal, "layer q: NaN").ok());
    } else {
      cluster.clock->Advance(absl::Seconds(31));
      ASSERT_TRUE(cluster.core->Tick().ok());
    }
  }
  ASSERT_TRUE(cluster.core->Tick().ok());
  const v1::Job failed = cluster.Get(job.job_id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  for (const char* part : {"after 4 attempts", "worker w0: expired", "worker w1: INTERNAL: layer q",
                           "worker w3: expired", "tensors: ", ".q"}) {
    EXPECT_NE(failed.error().find(part), std::string::npos) << part << ": " << failed.error();
  }
}

TEST(Job, CancelTellsWorkersAtRenewal) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  const auto task = cluster.Lease("w0");
  EXPECT_FALSE(*cluster.Renew("w0", *task));
  EXPECT_EQ(cluster.core->Cancel(job.job_id())->state(), v1::JOB_STATE_CANCELLING);
  cluster.Restart();
  EXPECT_TRUE(*cluster.Renew("w0", *task));
  EXPECT_FALSE(cluster.Lease("w1").has_value());
  ASSERT_TRUE(cluster.Fail("w0", *task, StatusCode::kCancelled, "").ok());
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(cluster.Events(job.job_id()).back().state(), v1::JOB_STATE_CANCELLED);
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_TRUE(cluster.store->JobsNeedingWork()->empty());
}

TEST(Job, ATooShortTextIsSaidInNumbers) {
  SimulatedCluster cluster(SimulatedModel{.text_windows = 41});
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_calibration()->set_text_digest(Sha256Digest("text"));
  const v1::Job job = cluster.Submit(request);  // 36 windows and 18 behind them
  cluster.Run(1);
  const v1::Job failed = cluster.Get(job.job_id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(failed.error().find("gives 5 windows of 64 tokens, asked for 18"), std::string::npos)
      << failed.error();
}

TEST(Job, HeldOutWindowsFollowTheCalibrations) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_calibration()->set_text_digest(Sha256Digest("text"));
  request.mutable_spec()->mutable_evaluation()->set_length(100);
  const v1::Job job = cluster.Submit(request);
  cluster.RunTo(job.job_id(), v1::JOB_STATE_CALIBRATING);
  const auto view = JobView::Read(cluster.store.get(), job.job_id());
  const auto tasks = view->OfKind(v1::TASK_KIND_CALIBRATE);
  ASSERT_EQ(tasks.size(), 5u);
  EXPECT_EQ(tasks[2]->task.calibrate().first(), 32u);
  EXPECT_EQ(tasks[2]->task.calibrate().count(), 4u);
  EXPECT_EQ(tasks[2]->task.calibrate().text_first(), 32u);
  EXPECT_EQ(tasks[3]->task.calibrate().first(), 36u);
  EXPECT_TRUE(tasks[3]->task.calibrate().held_out());
  EXPECT_EQ(tasks[3]->task.calibrate().text_first(), 24u);  // 36 * 64 tokens in windows of 100
  EXPECT_EQ(tasks[4]->task.calibrate().text_first(), 40u);
  EXPECT_EQ(tasks[4]->task.calibrate().count(), 2u);
}

TEST(Job, TheTimeLeftIsThePlansUntilWorkHasShownAPace) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  EXPECT_FALSE(cluster.Get(job.job_id()).progress().has_eta());  // nothing is known yet
  cluster.RunTo(job.job_id(), v1::JOB_STATE_CALIBRATING);
  const v1::Job planned = cluster.Get(job.job_id());
  EXPECT_NEAR(static_cast<double>(planned.progress().eta().seconds()),
              planned.plan().estimated_seconds() * (1 - planned.progress().ratio()), 1.0);
}

TEST(Job, DryRunEndsAfterIngesting) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.set_validate_only(true);
  request.mutable_spec()->mutable_budget()->set_bytes(10);
  const v1::Job submitted = cluster.Submit(request);
  cluster.Run(1);
  const v1::Job job = cluster.Get(submitted.job_id());
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  EXPECT_EQ(job.plan().layers_size(), 12);
  EXPECT_GT(job.plan().minimum_package_bytes(), 5000u);
  EXPECT_GT(job.plan().maximum_package_bytes(), job.plan().minimum_package_bytes());
  EXPECT_FALSE(job.plan().budget_feasible());
  EXPECT_NE(job.plan().budget_message().find("the least is about"), std::string::npos);
  EXPECT_TRUE(cluster.publisher.published.empty());
}

TEST(Job, InfeasibleBudgetsSayWhatWouldFit) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_budget()->set_stored_bits(2.0);
  const v1::Job job = cluster.Submit(request);
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_FAILED);
  // 256 inputs in one group: 2 bytes of scale and one of exponents a row.
  EXPECT_NE(cluster.Get(job.job_id()).error().find("the least is 2.0938 stored bits"),
            std::string::npos)
      << cluster.Get(job.job_id()).error();
}

TEST(Job, BudgetsInBytesAndOverrides) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  // Blobs of 1000 bytes: everything fits, so the widest of all is taken.
  request.mutable_spec()->mutable_budget()->set_bytes(2'000'000);
  v1::Recipe* recipe = request.mutable_spec()->mutable_recipe();
  v1::RecipeOverride* o = recipe->add_overrides();
  o->set_glob("*.attn.q");
  o->set_bits(6);
  o = recipe->add_overrides();
  o->set_glob("blocks.0.*");
  o->set_skip(true);
  const v1::Job submitted = cluster.Submit(request);
  cluster.Run(2);
  const v1::Job job = cluster.Get(submitted.job_id());
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  const auto config = nlohmann::json::parse(cluster.publisher.published[0].config_json());
  for (const auto& layer : config["layers"]) {
    const std::string name = layer["name"];
    const int bits = name.find("blocks.0.") == 0              ? 0
                     : name.find("attn") != std::string::npos ? 6
                                                              : 4;
    EXPECT_EQ(layer["bits"], bits) << name;
  }
  EXPECT_EQ(job.quality().planes(), 5.0);  // skipped layers do not count
}

TEST(Job, APatternThatMatchesNothingIsAnError) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  v1::RecipeOverride* o = request.mutable_spec()->mutable_recipe()->add_overrides();
  o->set_glob("layers.*");
  o->set_skip(true);
  const v1::Job job = cluster.Submit(request);
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(cluster.Get(job.job_id()).error().find("recipe.overrides[0].glob"), std::string::npos);
}

TEST(Job, WaitsForAPackagerThatIsAwayAndFailsOnARefusal) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_EVALUATING);
  cluster.publisher.fault = absl::UnavailableError("connection refused");
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_PACKAGING);
  cluster.publisher.fault = absl::FailedPreconditionError("blob sha256:1 is not in the store");
  cluster.clock->Advance(absl::Seconds(10));
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(cluster.Get(job.job_id()).error().find("not in the store"), std::string::npos);
  cluster.publisher.fault = absl::OkStatus();
  ASSERT_TRUE(cluster.core->Retry(job.job_id()).ok());
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Workers, AnotherDeviceClassIdlesUnlessAllowed) {
  SimulatedCluster cluster;
  cluster.Submit(SimulatedCluster::Request());
  ASSERT_TRUE(cluster.Complete("w0", *cluster.Lease("w0", "cpu-avx2")).ok());
  EXPECT_FALSE(cluster.Lease("w1", "cpu-generic").has_value());
  EXPECT_EQ(cluster.idle_reason(), "idle: another device class");
  const auto workers = cluster.core->Workers();
  for (const v1::WorkerInfo& w : *workers) {
    EXPECT_EQ(w.state(), w.worker_id() == "w0" ? "idle" : "idle: another device class");
  }
  auto any = SimulatedCluster::Request();
  any.mutable_spec()->set_any_device(true);
  const v1::Job job = cluster.Submit(any);
  EXPECT_EQ(cluster.Lease("w1", "cpu-generic")->context().job_id(), job.job_id());
}

TEST(Job, AnUpgradeInItsMidstFailsIt) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  ASSERT_TRUE(cluster.Complete("w0", *cluster.Lease("w0")).ok());
  cluster.Restart("0-of-tomorrow");
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(cluster.Get(job.job_id()).error().find("submit it again"), std::string::npos);
  cluster.Restart();  // back again: nothing was lost
  ASSERT_TRUE(cluster.core->Retry(job.job_id()).ok());
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(cluster.publisher.published.at(0).config_json(), PublishedConfig(1));
}

TEST(Workers, AnotherQuantizerVersionIdles) {
  SimulatedCluster cluster;
  cluster.Submit(SimulatedCluster::Request());
  v1::LeaseTaskRequest request;
  request.set_worker_id("w0");
  request.set_device_class("cpu-avx2");
  request.set_quantizer_version("0-of-long-ago");
  const auto response = cluster.core->Lease(request, [] { return false; });
  ASSERT_TRUE(response.ok());
  EXPECT_FALSE(response->has_task());
  EXPECT_NE(response->idle_reason().find("quantizer version"), std::string::npos);
}

TEST(Workers, ATaskForAWorkerThatWentAwayGoesToTheNext) {
  SimulatedCluster cluster;
  cluster.Submit(SimulatedCluster::Request());
  v1::LeaseTaskRequest request;
  request.set_worker_id("gone");
  request.set_device_class("cpu-avx2");
  const auto response = cluster.core->Lease(request, [] { return true; });
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_FALSE(response->has_task());
  const auto task = cluster.Lease("w1", "cpu-avx2");
  ASSERT_TRUE(task.has_value());
  EXPECT_EQ(task->attempt(), 1u);  // nobody is to blame
}

TEST(Workers, ResultsThatDoNotAnswerTheTaskAreRefused) {
  SimulatedCluster cluster;
  cluster.Submit(SimulatedCluster::Request());
  const auto task = cluster.Lease("w0");
  v1::CompleteTaskRequest request;
  request.set_worker_id("w0");
  request.set_task_id(task->task_id());
  request.set_lease_epoch(task->lease_epoch());
  EXPECT_EQ(cluster.core->Complete(request).code(), StatusCode::kInvalidArgument);
  request.mutable_result()->mutable_hash();
  EXPECT_EQ(cluster.core->Complete(request).code(), StatusCode::kInvalidArgument);
  request.mutable_result()->mutable_ingest();
  EXPECT_EQ(cluster.core->Complete(request).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(cluster.Complete("w0", *task).ok());
}

TEST(Submit, SoManyJobsMayBeUnfinishedAndSoManyOfOneOwner) {
  SimulatedCluster cluster;
  CoordinatorOptions options;
  options.max_jobs = 3;
  options.max_jobs_per_owner = 2;
  Coordinator core(cluster.store.get(), &cluster.publisher, cluster.scratch.get(),
                   cluster.clock.get(), options);
  std::vector<FieldFault> faults;
  int number = 0;
  const auto submit = [&](const std::string& owner) {
    v1::SubmitJobRequest request = SimulatedCluster::Request();
    request.set_request_id(absl::StrCat("r", number++));
    return core.Submit(request, owner, &faults);
  };
  const auto first = submit("ann");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(submit("ann").ok());
  const auto third = submit("ann");
  EXPECT_EQ(third.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(third.status().message().find("ann has 2 jobs"), std::string::npos) << third.status();
  ASSERT_TRUE(submit("bob").ok());
  EXPECT_EQ(submit("eve").status().code(), StatusCode::kResourceExhausted);
  // What was taken before is answered again.
  v1::SubmitJobRequest again = SimulatedCluster::Request();
  again.set_request_id("r0");
  const auto repeated = core.Submit(again, "ann", &faults);
  ASSERT_TRUE(repeated.ok()) << repeated.status();
  EXPECT_EQ(repeated->job_id(), first->job_id());
  // And a job that has ended makes room.
  ASSERT_TRUE(core.Cancel(first->job_id()).ok());
  EXPECT_TRUE(submit("ann").ok());
}

TEST(Submit, NoJobIsTakenForAnothersTag) {
  SimulatedCluster cluster;
  CoordinatorOptions options;
  options.owners_are_known = true;
  Coordinator core(cluster.store.get(), &cluster.publisher, cluster.scratch.get(),
                   cluster.clock.get(), options);
  std::vector<FieldFault> faults;
  v1::SubmitJobRequest request = SimulatedCluster::Request();
  request.set_request_id("first");
  const auto job = core.Submit(request, "ann", &faults);
  ASSERT_TRUE(job.ok()) << job.status();
  cluster.core = std::make_unique<Coordinator>(cluster.store.get(), &cluster.publisher,
                                               cluster.scratch.get(), cluster.clock.get(), options);
  cluster.Run(1);
  ASSERT_EQ(cluster.Get(job->job_id()).state(), v1::JOB_STATE_SUCCEEDED);
  // It was published for its owner.
  ASSERT_EQ(cluster.publisher.published.size(), 1u);
  EXPECT_EQ(cluster.publisher.published[0].owner(), "ann");
  request.set_request_id("second");
  const auto refused = core.Submit(request, "bob", &faults);
  EXPECT_EQ(refused.status().code(), StatusCode::kPermissionDenied);
  EXPECT_NE(refused.status().message().find("belongs to ann, a job of bob"), std::string::npos)
      << refused.status();
  EXPECT_TRUE(core.Submit(request, "ann", &faults).ok());
  // What was taken before is answered again, whoever has the tag now.
  cluster.publisher.published[0].set_owner("eve");
  request.set_request_id("first");
  EXPECT_EQ(core.Submit(request, "ann", &faults)->job_id(), job->job_id());
  // A packager that is away is asked when the job publishes.
  cluster.publisher.fault = absl::UnavailableError("away");
  request.set_request_id("third");
  EXPECT_TRUE(core.Submit(request, "bob", &faults).ok());
}

TEST(Submit, IsIdempotentByRequestId) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.set_request_id("once");
  (*request.mutable_spec()->mutable_labels())["a"] = "1";
  (*request.mutable_spec()->mutable_labels())["b"] = "2";
  const v1::Job job = cluster.Submit(request);
  EXPECT_EQ(cluster.Submit(request).job_id(), job.job_id());
  request.mutable_spec()->set_priority(3);
  std::vector<FieldFault> faults;
  EXPECT_EQ(cluster.core->Submit(request, "local", &faults).status().code(),
            StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace shiftadd::coordinator
