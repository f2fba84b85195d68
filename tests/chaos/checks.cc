#include "tests/chaos/checks.h"

#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/blob/blob_store.h"
#include "services/packaging/manifest.h"

namespace shiftadd::testing {
namespace {

using packaging::Descriptor;

std::string StateName(v1::JobState state) { return v1::JobState_Name(state); }

bool IsEnd(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

// Everything that `digest` leads to, itself included; what is missing or damaged goes to `faults`.
void Follow(BlobStore* store, const std::string& digest, std::set<std::string>* reached,
            Faults* faults) {
  if (!reached->insert(digest).second) return;
  const auto data = store->Get(digest);
  if (!data.ok()) {
    faults->push_back(data.status().ToString());
    return;
  }
  const nlohmann::json document = nlohmann::json::parse(*data, nullptr, false);
  if (!document.is_object() || !document.contains("schemaVersion")) return;
  for (const Descriptor& d : packaging::DescriptorsIn(*data)) {
    Follow(store, d.digest, reached, faults);
  }
}

std::unique_ptr<BlobStore> Open(const std::string& dir, Faults* faults) {
  auto store = OpenOciLayout(dir);
  if (store.ok()) return *std::move(store);
  faults->push_back(store.status().ToString());
  return nullptr;
}

}  // namespace

Faults CheckEvents(const std::vector<v1::JobEvent>& events) {
  Faults faults;
  std::map<std::string, std::string> done;  // task -> by whom
  for (size_t i = 0; i < events.size(); ++i) {
    const v1::JobEvent& event = events[i];
    if (event.sequence() != i + 1) {
      faults.push_back(absl::StrCat("event ", i + 1, " has sequence ", event.sequence()));
    }
    if (event.event_case() == v1::JobEvent::kState &&
        IsEnd(event.state()) != (i + 1 == events.size())) {
      faults.push_back(
          absl::StrCat("event ", i + 1, " of ", events.size(), " says ", StateName(event.state())));
    }
    if (event.event_case() != v1::JobEvent::kTask) continue;
    const v1::TaskEvent& task = event.task();
    const auto known = done.find(task.task_id());
    if (known != done.end()) {
      faults.push_back(absl::StrCat(task.kind(), " ", task.task_id(), ", done by ", known->second,
                                    ": then ", task.change(), " by ", task.worker()));
    } else if (task.change() == "done") {
      done[task.task_id()] = task.worker();
    }
  }
  const bool ended = !events.empty() && events.back().event_case() == v1::JobEvent::kState &&
                     IsEnd(events.back().state());
  if (!ended) faults.push_back("the last event is no end");
  if (done.empty()) faults.push_back("no task was done");
  return faults;
}

Faults CheckBlobs(const std::string& dir, const std::string& reference,
                  const std::string& package_digest) {
  Faults faults;
  const auto store = Open(dir, &faults);
  if (store == nullptr) return faults;
  const auto digests = store->List();
  if (!digests.ok()) return {digests.status().ToString()};
  for (const std::string& digest : *digests) {
    if (const auto data = store->Get(digest); !data.ok()) {
      faults.push_back(data.status().ToString());
    }
  }
  const auto tags = store->ListTags();
  if (!tags.ok()) return {tags.status().ToString()};
  const auto tag = tags->find(reference);
  if (tag == tags->end()) {
    faults.push_back(absl::StrCat("there is no tag ", reference));
    return faults;
  }
  const std::string found = tag->second.value("digest", "");
  if (found != package_digest) {
    faults.push_back(absl::StrCat(reference, " is ", found, ", expected ", package_digest));
  }
  std::set<std::string> reached;
  Follow(store.get(), found, &reached, &faults);
  // The manifest, its configuration and layers; fewer would mean that nothing was followed.
  if (reached.size() < 4) faults.push_back(absl::StrCat(reference, " leads to nothing"));
  return faults;
}

Faults CheckNoOrphans(const std::string& dir) {
  Faults faults;
  // A writer may live as long as a minute without touching its file: make all of them older.
  const auto old = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  for (const auto& entry : std::filesystem::directory_iterator(dir + "/tmp")) {
    std::filesystem::last_write_time(entry.path(), old);
  }
  const auto store = Open(dir, &faults);
  if (store == nullptr) return faults;
  for (const char* folder : {"tmp", "scratch"}) {
    for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat(dir, "/", folder))) {
      faults.push_back(absl::StrCat("left over: ", entry.path().string()));
    }
  }
  const auto tags = store->ListTags();
  const auto digests = store->List();
  if (!tags.ok() || !digests.ok()) return {tags.status().ToString(), digests.status().ToString()};
  std::set<std::string> reached;
  for (const auto& [reference, descriptor] : *tags) {
    Follow(store.get(), descriptor.value("digest", ""), &reached, &faults);
  }
  for (const std::string& digest : *digests) {
    if (reached.count(digest) == 0) faults.push_back(absl::StrCat("orphan: ", digest));
  }
  return faults;
}

}  // namespace shiftadd::testing
