#define SHIFTADD_VECTOR_OPS kVectorOpsPortable
#include "worker/serve/vector_ops_body.inc"
