#define SHIFTADD_VECTOR_OPS kVectorOpsAvx512
#include "worker/serve/vector_ops_body.inc"
