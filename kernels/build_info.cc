#include "kernels/build_info.h"

namespace shiftadd::kernels {

const char* KernelsBuildInfo() {
#ifdef SHIFTADD_CUDA_CODE
  return "CUDA kernels: " SHIFTADD_CUDA_CODE;
#else
  return "CUDA kernels: none, this build is for CPUs only";
#endif
}

}  // namespace shiftadd::kernels
