// GenerateService over an Engine. Translates, calls, translates back.
#ifndef SHIFTADD_WORKER_SERVE_GENERATE_SERVICE_H_
#define SHIFTADD_WORKER_SERVE_GENERATE_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "worker/serve/engine.h"
#include "worker/serve/served_model.h"
#include "worker/serve/server_metrics.h"

namespace shiftadd {

// All must outlive the service; `metrics` may be null. Thread-safe.
std::unique_ptr<grpc::Service> NewGenerateService(const ServedModel* served, Engine* engine,
                                                  ServerMetrics* metrics);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_GENERATE_SERVICE_H_
