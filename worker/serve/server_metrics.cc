#include "worker/serve/server_metrics.h"

namespace shiftadd {
namespace {

prometheus::Family<prometheus::Gauge>* NewGauges(prometheus::Registry* r, const char* name,
                                                 const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(*r);
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
  queue_depth_ =
      NewGauges(r, "shiftadd_queue_depth", "Requests with sequences that wait for a slot.");
  running_sequences_ = NewGauges(r, "shiftadd_running_sequences", "Sequences that hold a slot.");
  kv_blocks_used_ = NewGauges(r, "shiftadd_kv_blocks_used",
                              "Cache pages of 32 tokens in use, kept prefixes among them.");
  kv_blocks_total_ = NewGauges(r, "shiftadd_kv_blocks", "Cache pages that may be used.");
  kv_block_bytes_ = NewGauges(r, "shiftadd_kv_block_bytes", "Memory of a cache page.");
  weight_bytes_ = NewGauges(r, "shiftadd_weight_bytes", "Resident packed weights.");
  prompt_tokens = NewCounter(r, "shiftadd_prompt_tokens_total", "Prompt tokens processed.");
  generated_tokens = NewCounter(r, "shiftadd_generated_tokens_total", "Tokens generated.");
  reused_tokens = NewCounter(r, "shiftadd_prompt_tokens_reused_total",
                             "Prompt tokens that the cache of an earlier sequence gave.");
  preemptions = NewCounter(r, "shiftadd_preemptions_total",
                           "Sequences that gave up their cache for older ones.");
  rate_limited = NewCounter(r, "shiftadd_rate_limited_requests_total",
                            "Requests refused since their client had sent too many a second.");
  energy = &prometheus::BuildCounter()
                .Name("shiftadd_server_energy_joules_total")
                .Help(
                    "Joules of the device since the server started, by the device's own meter, "
                    "whoever used them.")
                .Register(*r);
  request_seconds_ = &prometheus::BuildHistogram()
                          .Name("shiftadd_request_seconds")
                          .Help("A sequence's time from arrival to end.")
                          .Register(*r);
  for (const char* outcome : {"stop", "length", "cancelled", "error"}) RequestSeconds(outcome);
  requests_ = &prometheus::BuildCounter()
                   .Name("shiftadd_requests_total")
                   .Help("Requests answered, by API and status code.")
                   .Register(*r);
  loads_ = &prometheus::BuildCounter()
                .Name("shiftadd_package_loads_total")
                .Help("Versions of packages loaded, or not, by model.")
                .Register(*r);
  package_info_ = NewGauges(r, "shiftadd_package_info", "The packages that are served.");
}

prometheus::Histogram& ServerMetrics::RequestSeconds(const std::string& outcome) {
  return request_seconds_->Add({{"outcome", outcome}}, metrics::DurationBuckets());
}

prometheus::Counter& ServerMetrics::Requests(const std::string& api, int code) {
  return requests_->Add({{"api", api}, {"code", std::to_string(code)}});
}

prometheus::Counter& ServerMetrics::Loads(const std::string& model, const std::string& outcome) {
  return loads_->Add({{"model", model}, {"outcome", outcome}});
}

void ServerMetrics::SetPackage(const std::string& model, const std::string& digest,
                               const std::string& isa) {
  const std::lock_guard<std::mutex> lock(mutex_);
  prometheus::Gauge*& gauge = packages_[model];
  if (gauge != nullptr) package_info_->Remove(gauge);
  gauge = &package_info_->Add({{"name", model}, {"digest", digest}, {"isa", isa}});
  gauge->Set(1);
}

void ServerMetrics::SetModel(const std::string& model, const ModelGauges& values) {
  const prometheus::Labels labels = {{"model", model}};
  queue_depth_->Add(labels).Set(values.queue_depth);
  running_sequences_->Add(labels).Set(values.running_sequences);
  kv_blocks_used_->Add(labels).Set(values.kv_blocks_used);
  kv_blocks_total_->Add(labels).Set(values.kv_blocks_total);
  kv_block_bytes_->Add(labels).Set(values.kv_block_bytes);
  weight_bytes_->Add(labels).Set(values.weight_bytes);
}

}  // namespace shiftadd
