// The models that a server answers for, by name, and which version of each it holds.
#ifndef SHIFTADD_WORKER_SERVE_MODEL_REGISTRY_H_
#define SHIFTADD_WORKER_SERVE_MODEL_REGISTRY_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/engine.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/served_model.h"

namespace shiftadd {

// One version of a package in memory. Whoever answers a request holds it until the answer is out;
// the last one to let go frees it.
struct ModelVersion {
  std::unique_ptr<PackedModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
  ServedModel served;
  std::unique_ptr<Engine> engine;  // first to go: it uses the others
};
using ModelPtr = std::shared_ptr<ModelVersion>;

// What is known of one model, for /health, metrics and the packager.
struct ModelState {
  std::string reference;  // name:tag
  std::string digest;     // of the version that serves; empty: none does now
  std::string state;      // serving, loading (serves the version it has meanwhile), waiting
  std::string error;      // why the newest version is not the one that serves; empty: it is
};

// Thread-safe.
class ModelRegistry {
 public:
  // Puts a version in; replaces the one of the same name.
  void Put(ModelPtr version);
  // Takes the version out, to make room for another: requests for it wait in Find until Put, or
  // until Note says that it is not coming.
  ModelPtr Take(const std::string& reference);
  // Says what happens to a model; empty `state` leaves that as it is. "waiting": no version is on
  // its way now.
  void Note(const std::string& reference, const std::string& state, const std::string& error);

  // By name:tag, or name alone; empty: the first model. Waits for one that is being replaced as
  // long as that goes on and `there`, asked now and then, is true of the client. NOT_FOUND names
  // those that are there; UNAVAILABLE: no version could be loaded; CANCELLED: the client has gone.
  absl::StatusOr<ModelPtr> Find(absl::string_view asked, absl::FunctionRef<bool()> there) const;
  std::vector<ModelPtr> All() const;
  std::vector<ModelState> States() const;
  // References in the order they were put in.
  std::vector<std::string> References() const;

 private:
  struct Slot {
    ModelState state;
    ModelPtr version;
    bool replacing = false;  // taken out, and the next is on its way
  };
  Slot* FindSlot(absl::string_view reference);
  const Slot* Match(absl::string_view asked) const;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Slot> slots_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_MODEL_REGISTRY_H_
