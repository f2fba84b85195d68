#define SHIFTADD_VECTOR_OPS kVectorOpsAvx2
#include "worker/serve/vector_ops_body.inc"
