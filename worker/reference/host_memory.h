// Memory of the host that a GPU reads and writes by itself ("pinned"), and moves that nobody waits
// for. Elsewhere: plain memory and plain copies. ATen types: include from .cc files of
// worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_HOST_MEMORY_H_
#define SHIFTADD_WORKER_REFERENCE_HOST_MEMORY_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>

#include "worker/reference/reference_model.h"

namespace shiftadd::reference {

// A tensor on the host, not initialized, no inference tensor: pinned if `device` is a GPU and there
// is enough of that memory, else pageable, which is slower to move and nothing else.
at::Tensor HostEmpty(at::IntArrayRef shape, at::ScalarType type, at::Device device);

// x, whose memory is freed without throwing. Pinned memory that a device has used asks the device
// for an event when it is freed; once the device is lost that throws, out of a destructor, and the
// process would end before it has reported its task. What cannot be freed then is left.
at::Tensor FreedQuietly(at::Tensor x);

// x, which is on `device`, on the host, in HostEmpty's memory if `pinned`, or x itself if `device`
// is the CPU. What this thread queues on the device afterwards may read it at once, the host only
// after Settle.
at::Tensor MoveToHost(const at::Tensor& x, at::Device device, bool pinned);
// x on `device`, for what this thread queues there. x may be on its way to the host.
at::Tensor MoveToDevice(const at::Tensor& x, at::Device device);
// Waits for all that this thread has queued on the device.
void Settle(at::Device device);
// Whether so much memory may be pinned: a quarter of what the machine and this process's control
// groups allow, as nothing else has use of it until FreePinned.
bool MayPin(int64_t bytes);
// Gives free pinned memory, which LibTorch keeps, back to the system.
void FreePinned(at::Device device);

// The tensor of some states on a device, or of some that wait on the host: Add's.
using StatesTensor = at::Tensor (*)(const HiddenStates&);
// HostCopy of [count * length, hidden] fp32.
std::unique_ptr<HostCopy> NewTensorHostCopy(int64_t count, int64_t length, int64_t hidden,
                                            at::Device device, StatesTensor tensor);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_HOST_MEMORY_H_
