#include "worker/tasks/made_boundaries.h"

#include <algorithm>
#include <utility>

namespace shiftadd {
namespace {

uint64_t Bytes(const MadeBoundary& boundary) {
  const HiddenStates& h = boundary.hidden;
  return static_cast<uint64_t>(h.count) * h.length * h.hidden * sizeof(float);
}

}  // namespace

void MadeBoundaries::Keep(const std::string& digest, MadeBoundary boundary) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t added = Bytes(boundary);
  const bool there = std::any_of(kept_.begin(), kept_.end(),
                                 [&](const auto& kept) { return kept.first == digest; });
  if (there || added > most_) return;
  for (; bytes_ + added > most_; kept_.pop_front()) bytes_ -= Bytes(kept_.front().second);
  bytes_ += added;
  kept_.emplace_back(digest, std::move(boundary));
}

MadeBoundary MadeBoundaries::Find(const std::string& digest) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [name, boundary] : kept_) {
    if (name == digest) return boundary;
  }
  return {};
}

}  // namespace shiftadd
