#include "worker/serve/server_metrics.h"

namespace shiftadd {
namespace {

prometheus::Gauge* NewGauge(prometheus::Registry* r, const char* name, const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(*r).Add({});
}

prometheus::Counter* NewCounter(prometheus::Registry* r, const char* name, const char* help) {
  return &prometheus::BuildCounter().Name(name).Help(help).Register(*r).Add({});
}

prometheus::Histogram* NewHistogram(prometheus::Registry* r, const char* name, const char* help,
                                    prometheus::Histogram::BucketBoundaries buckets) {
  return &prometheus::BuildHistogram().Name(name).Help(help).Register(*r).Add({}, buckets);
}

}  // namespace

ServerMetrics::ServerMetrics(prometheus::Registry* r) {
  const auto seconds = metrics::DurationBuckets();
  time_to_first_token_seconds =
      NewHistogram(r, "shiftadd_time_to_first_token_seconds",
                   "From a sequence's arrival to its first generated token.", seconds);
  time_per_output_token_seconds =
      NewHistogram(r, "shiftadd_time_per_output_token_seconds",
                   "Between two generated tokens of a sequence.", seconds);
  batch_size =
      NewHistogram(r, "shiftadd_batch_size", "Tokens that went through the model in one step.",
                   {1, 2, 4, 8, 16, 32, 64, 128, 256});
  queue_depth =
      NewGauge(r, "shiftadd_queue_depth", "Requests with sequences that wait for a slot.");
  running_sequences = NewGauge(r, "shiftadd_running_sequences", "Sequences that hold a slot.");
  kv_blocks_used = NewGauge(r, "shiftadd_kv_blocks_used", "Cache pages of 32 tokens in use.");
  kv_blocks_total =
      NewGauge(r, "shiftadd_kv_blocks_total", "Cache pages that full slots would use.");
  weight_bytes = NewGauge(r, "shiftadd_weight_bytes", "Resident packed weights.");
  prompt_tokens = NewCounter(r, "shiftadd_prompt_tokens_total", "Prompt tokens processed.");
  generated_tokens = NewCounter(r, "shiftadd_generated_tokens_total", "Tokens generated.");
  request_seconds_ = &prometheus::BuildHistogram()
                          .Name("shiftadd_request_seconds")
                          .Help("A sequence's time from arrival to end.")
                          .Register(*r);
  for (const char* outcome : {"stop", "length", "cancelled", "error"}) RequestSeconds(outcome);
  requests_ = &prometheus::BuildCounter()
                   .Name("shiftadd_requests_total")
                   .Help("Requests answered, by API and status code.")
                   .Register(*r);
  package_info_ = &prometheus::BuildGauge()
                       .Name("shiftadd_package_info")
                       .Help("The package that is served.")
                       .Register(*r);
}

prometheus::Histogram& ServerMetrics::RequestSeconds(const std::string& outcome) {
  return request_seconds_->Add({{"outcome", outcome}}, metrics::DurationBuckets());
}

prometheus::Counter& ServerMetrics::Requests(const std::string& api, int code) {
  return requests_->Add({{"api", api}, {"code", std::to_string(code)}});
}

void ServerMetrics::SetPackage(const std::string& name, const std::string& digest,
                               const std::string& isa) {
  package_info_->Add({{"name", name}, {"digest", digest}, {"isa", isa}}).Set(1);
}

}  // namespace shiftadd
