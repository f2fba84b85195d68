#include "worker/serve/model_registry.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shiftadd {
namespace {

constexpr size_t kShownName = 200;  // of a name that a client made up
// How often a client that waits is looked for.
constexpr std::chrono::milliseconds kLook(200);

}  // namespace

ModelRegistry::Slot* ModelRegistry::FindSlot(absl::string_view reference) {
  for (Slot& slot : slots_) {
    if (slot.state.reference == reference) return &slot;
  }
  return nullptr;
}

const ModelRegistry::Slot* ModelRegistry::Match(absl::string_view asked) const {
  for (const Slot& slot : slots_) {
    if (asked.empty() || asked == slot.state.reference) return &slot;
  }
  for (const Slot& slot : slots_) {
    if (IsNameOf(asked, slot.state.reference)) return &slot;
  }
  return nullptr;
}

void ModelRegistry::Put(ModelPtr version) {
  ModelPtr old;  // let go after the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  Slot* slot = FindSlot(version->served.name);
  if (slot == nullptr) slot = &slots_.emplace_back();
  slot->state = {version->served.name, version->served.digest, "serving", ""};
  old = std::exchange(slot->version, std::move(version));
  slot->replacing = false;
  changed_.notify_all();
}

ModelPtr ModelRegistry::Take(const std::string& reference) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Slot* slot = FindSlot(reference);
  if (slot == nullptr) return nullptr;
  slot->state.digest.clear();
  slot->state.state = "waiting";
  slot->replacing = true;
  return std::move(slot->version);
}

void ModelRegistry::Note(const std::string& reference, const std::string& state,
                         const std::string& error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Slot* slot = FindSlot(reference);
  if (slot == nullptr) return;
  if (!state.empty()) slot->state.state = state;
  slot->state.error = error;
  if (state == "waiting") slot->replacing = false;
  changed_.notify_all();
}

absl::StatusOr<ModelPtr> ModelRegistry::Find(absl::string_view asked,
                                             absl::FunctionRef<bool()> there) const {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const Slot* slot = Match(asked);
    if (slot == nullptr) {
      const auto quoted = [](std::string* out, const Slot& s) {
        absl::StrAppend(out, "\"", s.state.reference, "\"");
      };
      return absl::NotFoundError(absl::StrCat(
          "model \"", asked.substr(0, kShownName), asked.size() > kShownName ? "..." : "",
          "\" is not served here; this server ", "has ", absl::StrJoin(slots_, ", ", quoted)));
    }
    if (slot->version != nullptr) return slot->version;
    if (!slot->replacing) {
      return absl::UnavailableError(
          absl::StrCat("model \"", slot->state.reference, "\": no version is loaded",
                       slot->state.error.empty() ? "" : ": " + slot->state.error));
    }
    if (changed_.wait_for(lock, kLook) != std::cv_status::timeout) continue;
    lock.unlock();
    if (!there()) return absl::CancelledError("the client has gone, or the server shuts down");
    lock.lock();
  }
}

std::vector<ModelPtr> ModelRegistry::All() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ModelPtr> out;
  for (const Slot& slot : slots_) {
    if (slot.version != nullptr) out.push_back(slot.version);
  }
  return out;
}

std::vector<ModelState> ModelRegistry::States() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ModelState> out;
  for (const Slot& slot : slots_) out.push_back(slot.state);
  return out;
}

std::vector<std::string> ModelRegistry::References() const {
  std::vector<std::string> out;
  for (const ModelState& state : States()) out.push_back(state.reference);
  return out;
}

}  // namespace shiftadd
