// Metrics over prometheus-cpp's core. Every daemon owns one Registry; each defines a typed struct
// of its metrics on it.
#ifndef SHIFTADD_SERVICES_METRICS_METRICS_H_
#define SHIFTADD_SERVICES_METRICS_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/http/http_server.h"

namespace shiftadd::metrics {

// The text exposition format of everything in `registry`.
std::string Expose(const prometheus::Registry& registry);

// Buckets for durations in seconds: 1 ms to 1000 s, about four a decade.
prometheus::Histogram::BucketBoundaries DurationBuckets();

// GET /metrics, /health (always 200 while the process lives) and /ready (`ready` decides: empty =
// ready, otherwise 503 with the reason). `before_scrape` may refresh gauges; may be null.
http::HttpServer::Routes DaemonRoutes(std::shared_ptr<prometheus::Registry> registry,
                                      std::function<std::string()> ready,
                                      std::function<void()> before_scrape);

// Adds shiftadd_build_info{process,version,commit} = 1.
void AddBuildInfo(prometheus::Registry* registry, const std::string& process);

}  // namespace shiftadd::metrics

#endif  // SHIFTADD_SERVICES_METRICS_METRICS_H_
