// The coordinator's metrics: interfaces.md lists them.
#ifndef SHIFTADD_SERVICES_COORDINATOR_COORDINATOR_METRICS_H_
#define SHIFTADD_SERVICES_COORDINATOR_COORDINATOR_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "services/coordinator/coordinator.h"
#include "services/store/timed_job_store.h"

namespace shiftadd::coordinator {

// Thread-safe.
class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(std::shared_ptr<prometheus::Registry> registry);

  // Feeds the counters.
  Observer MakeObserver();
  // Must be outlived by this.
  StoreTimer MakeStoreTimer();
  void RpcDone(const std::string& method, int code, double seconds);
  // Brings the gauges up to date. What a job that has ended leaves is its progress, for as long as
  // a scrape may take to see it at 1 (kKeepEnded); its other series are removed at once.
  void Refresh(Coordinator* coordinator);

 private:
  using Labels = std::map<std::string, std::string>;
  // A family whose set of gauges is replaced as a whole.
  struct GaugeSet {
    prometheus::Family<prometheus::Gauge>* family;
    std::map<Labels, prometheus::Gauge*> gauges;
  };
  void Replace(GaugeSet* set, const std::map<Labels, double>& values);
  void RefreshJobs(Coordinator* coordinator);
  // Adds what jobs that had progress a moment ago, and have ended, came to.
  void AddEnded(Coordinator* coordinator, std::map<Labels, double>* progress);

  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Histogram>& task_seconds_;
  prometheus::Family<prometheus::Counter>& task_retries_;
  prometheus::Counter& lease_expired_;
  prometheus::Family<prometheus::Histogram>& rpc_seconds_;
  prometheus::Family<prometheus::Histogram>& store_seconds_;
  std::mutex mutex_;  // around Refresh
  GaugeSet jobs_, tasks_, workers_, progress_, eta_, layer_error_, layer_bits_;
  std::map<std::string, absl::Time> ended_;  // job -> when it was found to have ended
};

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_COORDINATOR_METRICS_H_
