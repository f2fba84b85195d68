// What the server counts (names: interfaces.md, Metrics).
#ifndef SHIFTADD_WORKER_SERVE_SERVER_METRICS_H_
#define SHIFTADD_WORKER_SERVE_SERVER_METRICS_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "services/metrics/metrics.h"

namespace shiftadd {

struct ModelGauges {
  double queue_depth = 0, running_sequences = 0, kv_blocks_used = 0, kv_blocks_total = 0;
  double kv_block_bytes = 0, weight_bytes = 0;
};

// Thread-safe.
struct ServerMetrics {
  explicit ServerMetrics(prometheus::Registry* registry);

  // By outcome: "stop", "length", "cancelled", "error".
  prometheus::Histogram& RequestSeconds(const std::string& outcome);
  // By API and HTTP or gRPC code.
  prometheus::Counter& Requests(const std::string& api, int code);
  // What `model` (name:tag) is now; replaces what was said of it before.
  void SetPackage(const std::string& model, const std::string& digest, const std::string& isa);
  // A gauge of one served model.
  void SetModel(const std::string& model, const ModelGauges& values);
  // By outcome: "loaded", "failed".
  prometheus::Counter& Loads(const std::string& model, const std::string& outcome);

  prometheus::Histogram* time_to_first_token_seconds;
  prometheus::Histogram* time_per_output_token_seconds;
  prometheus::Histogram* batch_size;
  prometheus::Counter* prompt_tokens;
  prometheus::Counter* generated_tokens;
  prometheus::Counter* reused_tokens;
  prometheus::Counter* preemptions;
  prometheus::Counter* rate_limited;
  // Joules of the device; DeviceMetrics counts them.
  prometheus::Family<prometheus::Counter>* energy;

 private:
  prometheus::Family<prometheus::Histogram>* request_seconds_;
  prometheus::Family<prometheus::Counter>* requests_;
  prometheus::Family<prometheus::Counter>* loads_;
  prometheus::Family<prometheus::Gauge>* package_info_;
  prometheus::Family<prometheus::Gauge>* queue_depth_;
  prometheus::Family<prometheus::Gauge>* running_sequences_;
  prometheus::Family<prometheus::Gauge>* kv_blocks_used_;
  prometheus::Family<prometheus::Gauge>* kv_blocks_total_;
  prometheus::Family<prometheus::Gauge>* kv_block_bytes_;
  prometheus::Family<prometheus::Gauge>* weight_bytes_;
  std::mutex mutex_;
  std::map<std::string, prometheus::Gauge*> packages_;  // by model
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVER_METRICS_H_
