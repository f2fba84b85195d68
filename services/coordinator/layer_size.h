// What a layer costs at a width, by its shape alone.
#ifndef SHIFTADD_SERVICES_COORDINATOR_LAYER_SIZE_H_
#define SHIFTADD_SERVICES_COORDINATOR_LAYER_SIZE_H_

#include <cstdint>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::coordinator {

// Bytes of planes, scales, exponents and offsets of one layer at q planes under a resolved recipe:
// what kernels::StoredBytes says of the packed layer. acc: what its packed form would take, as the
// paper counts (fp16 scales). q = 0: skipped, at most 4 bytes a weight.
uint64_t EstimateStoredBytes(const v1::Recipe& recipe, const v1::LayerPlan& layer, uint32_t q);

// Bytes that the layer adds to a package: its blob, which holds raw weights with acc, and its line
// in the config. An estimate from above.
uint64_t EstimatePackageBytes(const v1::Recipe& recipe, const v1::LayerPlan& layer, uint32_t q);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_LAYER_SIZE_H_
