#include "worker/reference/stream_graph.h"

#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <exception>

#include "absl/strings/str_cat.h"

namespace shiftadd::reference {
namespace {

constexpr int kRelaxed = 2;  // cudaStreamCaptureModeRelaxed

template <typename Function>
Function* Find(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

StreamGraph::StreamGraph(c10::Device device)
    : guard_(device.type()),
      stream_(guard_.getStreamFromGlobalPool(guard_.getDevice(), /*isHighPriority=*/false)),
      before_(guard_.exchangeStream(stream_)) {}

StreamGraph::~StreamGraph() { guard_.exchangeStream(before_); }

bool StreamGraph::Capture(const std::function<void()>& work) {
  void* const runtime = dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
  auto* const begin = Find<int(void*, int)>(runtime, "cudaStreamBeginCapture");
  auto* const end = Find<int(void*, void**)>(runtime, "cudaStreamEndCapture");
  auto* const instantiate =
      Find<int(void**, void*, unsigned long long)>(runtime, "cudaGraphInstantiateWithFlags");
  launch_ = Find<int(void*, void*)>(runtime, "cudaGraphLaunch");
  if (begin == nullptr || end == nullptr || instantiate == nullptr || launch_ == nullptr) {
    fault_ = "LibTorch's CUDA runtime was not found";
    return false;
  }
  void* const stream = stream_.native_handle();
  void* captured = nullptr;
  int error = begin(stream, kRelaxed);
  if (error == 0) {
    try {
      work();
    } catch (const std::exception& e) {
      const std::string what = e.what();
      fault_ = what.substr(0, what.find('\n'));
    }
    error = end(stream, &captured);
  }
  if (fault_.empty() && error == 0) error = instantiate(&graph_, captured, 0);
  if (fault_.empty() && error != 0) fault_ = absl::StrCat("CUDA error ", error);
  return fault_.empty();
}

void StreamGraph::Launch() {
  const int error = launch_(graph_, stream_.native_handle());
  TORCH_CHECK(error == 0, "launching a CUDA graph: CUDA error ", error);
}

}  // namespace shiftadd::reference
