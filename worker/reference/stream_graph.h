// A CUDA graph of what LibTorch launches. ATen types: include from .cc files of worker/reference
// only.
#ifndef SHIFTADD_WORKER_REFERENCE_STREAM_GRAPH_H_
#define SHIFTADD_WORKER_REFERENCE_STREAM_GRAPH_H_

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <functional>
#include <string>

namespace shiftadd::reference {

// Work of this thread goes to a stream of its own while this lives. CUDA's runtime is the one that
// LibTorch has loaded; nothing is linked.
class StreamGraph {
 public:
  explicit StreamGraph(c10::Device device);
  ~StreamGraph();
  StreamGraph(const StreamGraph&) = delete;
  StreamGraph& operator=(const StreamGraph&) = delete;

  // Captures what `work` launches. `work` must have run before, so that LibTorch's allocator has
  // all that it asks for, and between Capture and the last Launch nothing else may be allocated on
  // the device. False, with fault(): launch it kernel by kernel.
  bool Capture(const std::function<void()>& work);
  void Launch();  // does not wait; throws if it fails
  const std::string& fault() const { return fault_; }

 private:
  c10::impl::VirtualGuardImpl guard_;
  c10::Stream stream_, before_;
  void* graph_ = nullptr;  // cudaGraphExec_t
  int (*launch_)(void*, void*) = nullptr;
  std::string fault_;
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_STREAM_GRAPH_H_
