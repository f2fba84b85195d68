// GenerateService over the models of a registry. Translates, calls, translates back.
#ifndef SHIFTADD_WORKER_SERVE_GENERATE_SERVICE_H_
#define SHIFTADD_WORKER_SERVE_GENERATE_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "services/access/rate_limit.h"
#include "worker/serve/api_keys.h"
#include "worker/serve/model_registry.h"
#include "worker/serve/server_metrics.h"

namespace shiftadd {

// All must outlive the service; `keys` (null: everybody may) and `metrics` may be null.
// Thread-safe. `keys_checked`: every call's authorization was checked before it comes here, which
// tells clients apart as `keys` do; else addresses do. `rates`: how often one client may call;
// null: as often as he likes.
std::unique_ptr<grpc::Service> NewGenerateService(const ModelRegistry* registry,
                                                  const ApiKeys* keys, ServerMetrics* metrics,
                                                  bool keys_checked = false,
                                                  access::RateLimit* rates = nullptr);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_GENERATE_SERVICE_H_
