#include "services/coordinator/coordinator_metrics.h"

#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/metrics/metrics.h"

namespace shiftadd::coordinator {
namespace {

// Twice the usual time between scrapes.
constexpr absl::Duration kKeepEnded = absl::Seconds(30);

std::string Lower(const std::string& name, size_t prefix) {
  return absl::AsciiStrToLower(name.substr(prefix));
}
std::string Label(v1::JobState state) {
  return Lower(v1::JobState_Name(state), sizeof("JOB_STATE_") - 1);
}
std::string Label(v1::TaskKind kind) {
  return Lower(v1::TaskKind_Name(kind), sizeof("TASK_KIND_") - 1);
}

prometheus::Family<prometheus::Gauge>* Gauges(prometheus::Registry* registry, const char* name,
                                              const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(*registry);
}

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(std::shared_ptr<prometheus::Registry> registry)
    : registry_(std::move(registry)),
      task_seconds_(prometheus::BuildHistogram()
                        .Name("shiftadd_task_seconds")
                        .Help("Time from lease to completion of finished tasks")
                        .Register(*registry_)),
      task_retries_(prometheus::BuildCounter()
                        .Name("shiftadd_task_retries_total")
                        .Help("Tasks that went back to be tried again, by reason")
                        .Register(*registry_)),
      lease_expired_(prometheus::BuildCounter()
                         .Name("shiftadd_lease_expired_total")
                         .Help("Leases that were not renewed in time")
                         .Register(*registry_)
                         .Add({})),
      rpc_seconds_(prometheus::BuildHistogram()
                       .Name("shiftadd_rpc_seconds")
                       .Help("Time of answered calls, by method and canonical code")
                       .Register(*registry_)),
      store_seconds_(prometheus::BuildHistogram()
                         .Name("shiftadd_store_seconds")
                         .Help("Time of the job store's answers, by method and canonical code")
                         .Register(*registry_)) {
  prometheus::Registry* r = registry_.get();
  jobs_.family = Gauges(r, "shiftadd_jobs", "Jobs, by state");
  tasks_.family = Gauges(r, "shiftadd_tasks", "Tasks, by kind and state");
  workers_.family = Gauges(r, "shiftadd_workers", "Workers seen in the last hour, by state");
  progress_.family = Gauges(r, "shiftadd_job_progress_ratio", "Progress of running jobs, 0 to 1");
  eta_.family = Gauges(r, "shiftadd_job_eta_seconds", "Time that running jobs still need");
  layer_error_.family = Gauges(r, "shiftadd_layer_output_error_ratio",
                               "Relative output error of the layers of running jobs (mean of the "
                               "layers of a kind in a block), by width");
  layer_bits_.family =
      Gauges(r, "shiftadd_layer_bits", "Width chosen for the layers of running jobs");
  // There from the start, so that the first of them is an increase and none is a zero, not a gap.
  for (const char* reason : {"expired", "lost_blob", "unavailable"}) {
    task_retries_.Add({{"reason", reason}});
  }
}

Observer CoordinatorMetrics::MakeObserver() {
  Observer observer;
  observer.task_done = [this](v1::TaskKind kind, double seconds) {
    task_seconds_.Add({{"kind", Label(kind)}}, metrics::DurationBuckets()).Observe(seconds);
  };
  observer.task_retried = [this](const std::string& cause) {
    task_retries_.Add({{"reason", absl::AsciiStrToLower(cause)}}).Increment();
  };
  observer.lease_expired = [this] { lease_expired_.Increment(); };
  return observer;
}

void CoordinatorMetrics::RpcDone(const std::string& method, int code, double seconds) {
  const auto name = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
  rpc_seconds_.Add({{"method", method}, {"code", name}}, metrics::DurationBuckets())
      .Observe(seconds);
}

StoreTimer CoordinatorMetrics::MakeStoreTimer() {
  return [this](const char* method, absl::StatusCode code, double seconds) {
    store_seconds_
        .Add({{"method", method}, {"code", absl::StatusCodeToString(code)}},
             metrics::DurationBuckets())
        .Observe(seconds);
  };
}

void CoordinatorMetrics::Replace(GaugeSet* set, const std::map<Labels, double>& values) {
  for (auto it = set->gauges.begin(); it != set->gauges.end();) {
    if (values.count(it->first) > 0) {
      ++it;
      continue;
    }
    set->family->Remove(it->second);
    it = set->gauges.erase(it);
  }
  for (const auto& [labels, value] : values) {
    auto [it, fresh] = set->gauges.try_emplace(labels, nullptr);
    if (fresh) it->second = &set->family->Add(labels);
    it->second->Set(value);
  }
}

void CoordinatorMetrics::Refresh(Coordinator* coordinator) {
  std::lock_guard<std::mutex> hold(mutex_);
  std::map<Labels, double> values;
  if (const auto jobs = coordinator->store()->CountJobs(); jobs.ok()) {
    for (const auto& [state, count] : *jobs) values[{{"state", Label(state)}}] = count;
    Replace(&jobs_, values);
  }
  values.clear();
  if (const auto tasks = coordinator->store()->CountTasks(); tasks.ok()) {
    for (const auto& [key, count] : *tasks) {
      values[{{"kind", Label(key.first)}, {"state", TaskStateName(key.second)}}] = count;
    }
    Replace(&tasks_, values);
  }
  values.clear();
  if (const auto workers = coordinator->Workers(); workers.ok()) {
    for (const v1::WorkerInfo& w : *workers) ++values[{{"state", w.state()}}];
    Replace(&workers_, values);
  }
  RefreshJobs(coordinator);
}

void CoordinatorMetrics::RefreshJobs(Coordinator* coordinator) {
  std::map<Labels, double> progress, eta, error, bits;
  std::map<Labels, int> layers;
  const auto jobs = coordinator->store()->JobsNeedingWork();
  if (!jobs.ok()) return;
  for (const std::string& id : *jobs) {
    const auto report = coordinator->Report(id);
    if (!report.ok() || IsTerminal(report->job().state())) continue;
    progress[{{"job", id}}] = report->job().progress().ratio();
    eta[{{"job", id}}] = static_cast<double>(report->job().progress().eta().seconds());
    for (const v1::LayerReport& layer : report->layers()) {
      const Labels place = {{"job", id},
                            {"block", absl::StrCat(layer.layer().block())},
                            {"kind", layer.layer().kind()}};
      for (const v1::CandidateReport& c : layer.candidates()) {
        Labels labels = place;
        labels["bits"] = absl::StrCat(c.bits());
        error[labels] += c.output_error();
        ++layers[labels];
      }
      if (layer.chosen_bits() > 0) bits[place] = layer.chosen_bits();
    }
  }
  for (auto& [labels, value] : error) value /= layers[labels];
  AddEnded(coordinator, &progress);
  Replace(&progress_, progress);
  Replace(&eta_, eta);
  Replace(&layer_error_, error);
  Replace(&layer_bits_, bits);
}

void CoordinatorMetrics::AddEnded(Coordinator* coordinator, std::map<Labels, double>* progress) {
  const absl::Time now = absl::Now();
  for (const auto& [labels, gauge] : progress_.gauges) {
    if (progress->count(labels) > 0) continue;
    const std::string& id = labels.at("job");
    const auto [end, fresh] = ended_.emplace(id, now);
    const auto report = now - end->second < kKeepEnded
                            ? coordinator->Report(id)
                            : absl::StatusOr<v1::JobReport>(absl::NotFoundError(id));
    if (!report.ok() || !IsTerminal(report->job().state())) continue;
    (*progress)[labels] = report->job().progress().ratio();
  }
  for (auto it = ended_.begin(); it != ended_.end();) {
    it = now - it->second < kKeepEnded ? std::next(it) : ended_.erase(it);
  }
}

}  // namespace shiftadd::coordinator
