// What kernels this build has.
#ifndef SHIFTADD_KERNELS_BUILD_INFO_H_
#define SHIFTADD_KERNELS_BUILD_INFO_H_

namespace shiftadd::kernels {

// The CUDA architectures there is code for and which of them were never run, or that there is none;
// one line, for --version.
const char* KernelsBuildInfo();

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_BUILD_INFO_H_
