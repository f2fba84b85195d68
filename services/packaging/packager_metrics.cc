#include "services/packaging/packager_metrics.h"

namespace shiftadd::packaging {
namespace {

prometheus::Gauge& AddGauge(prometheus::Registry* registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add({});
}

prometheus::Counter& AddCounter(prometheus::Registry* registry, const char* name,
                                const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry).Add({});
}

}  // namespace

PackagerMetrics::PackagerMetrics(prometheus::Registry* r)
    : packages(AddGauge(r, "shiftadd_packages", "Tags of published packages.")),
      blobs(AddGauge(r, "shiftadd_blobs", "Blobs in the store, without scratch.")),
      blob_bytes(AddGauge(r, "shiftadd_blob_bytes", "Bytes of all blobs, without scratch.")),
      store_size(AddGauge(r, "shiftadd_blob_store_size_bytes",
                          "Size of the disk that the blob store is on; 0 for a registry.")),
      store_available(AddGauge(r, "shiftadd_blob_store_available_bytes",
                               "Bytes of that disk that are free for us.")),
      published(AddCounter(r, "shiftadd_packages_published_total",
                           "Packages published; repeats of the same content do not count.")),
      gc_freed_blobs(AddCounter(r, "shiftadd_gc_freed_blobs_total", "Blobs that GC deleted.")),
      gc_freed_bytes(
          AddCounter(r, "shiftadd_gc_freed_bytes_total", "Bytes of blobs that GC deleted.")) {}

}  // namespace shiftadd::packaging
