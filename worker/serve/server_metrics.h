// What the server counts (names: interfaces.md, Metrics).
#ifndef SHIFTADD_WORKER_SERVE_SERVER_METRICS_H_
#define SHIFTADD_WORKER_SERVE_SERVER_METRICS_H_

#include <memory>
#include <string>

#include "services/metrics/metrics.h"

namespace shiftadd {

// Thread-safe.
struct ServerMetrics {
  explicit ServerMetrics(prometheus::Registry* registry);

  // By outcome: "stop", "length", "cancelled", "error".
  prometheus::Histogram& RequestSeconds(const std::string& outcome);
  // By API and HTTP or gRPC code.
  prometheus::Counter& Requests(const std::string& api, int code);
  void SetPackage(const std::string& name, const std::string& digest, const std::string& isa);

  prometheus::Histogram* time_to_first_token_seconds;
  prometheus::Histogram* time_per_output_token_seconds;
  prometheus::Histogram* batch_size;
  prometheus::Gauge* queue_depth;
  prometheus::Gauge* running_sequences;
  prometheus::Gauge* kv_blocks_used;
  prometheus::Gauge* kv_blocks_total;
  prometheus::Gauge* weight_bytes;
  prometheus::Counter* prompt_tokens;
  prometheus::Counter* generated_tokens;

 private:
  prometheus::Family<prometheus::Histogram>* request_seconds_;
  prometheus::Family<prometheus::Counter>* requests_;
  prometheus::Family<prometheus::Gauge>* package_info_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVER_METRICS_H_
