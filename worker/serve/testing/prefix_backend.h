// What prefix_reuse_test.cc runs its bodies on: each test program defines it.
#ifndef SHIFTADD_WORKER_SERVE_TESTING_PREFIX_BACKEND_H_
#define SHIFTADD_WORKER_SERVE_TESTING_PREFIX_BACKEND_H_

#include <memory>
#include <string>

#include "worker/serve/packed_model.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd::testing {

// Why there is no executor; empty: there is one.
std::string NoPrefixBackend();
// `fixed`: numbers do not depend on how a prompt is cut, to the bit. Else they are what the server
// has by default, but for 16-bit activations.
std::unique_ptr<PackedModel> LoadPrefixBackend(const TinyPackage& package, bool fixed);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_SERVE_TESTING_PREFIX_BACKEND_H_
