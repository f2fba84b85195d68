// The packager's metrics.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGER_METRICS_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGER_METRICS_H_

#include "services/metrics/metrics.h"

namespace shiftadd::packaging {

// Thread-safe, as prometheus-cpp's metrics are.
struct PackagerMetrics {
  explicit PackagerMetrics(prometheus::Registry* registry);
  prometheus::Gauge& packages;          // shiftadd_packages
  prometheus::Gauge& blobs;             // shiftadd_blobs
  prometheus::Gauge& blob_bytes;        // shiftadd_blob_bytes
  prometheus::Gauge& store_size;        // shiftadd_blob_store_size_bytes
  prometheus::Gauge& store_available;   // shiftadd_blob_store_available_bytes
  prometheus::Counter& published;       // shiftadd_packages_published_total
  prometheus::Counter& gc_freed_blobs;  // shiftadd_gc_freed_blobs_total
  prometheus::Counter& gc_freed_bytes;  // shiftadd_gc_freed_bytes_total
};

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGER_METRICS_H_
