// What a package must be before it is published.
#ifndef SHIFTADD_SERVICES_PACKAGING_PUBLISH_CHECK_H_
#define SHIFTADD_SERVICES_PACKAGING_PUBLISH_CHECK_H_

#include <string>
#include <vector>

#include "services/packaging/agreement.h"
#include "services/packaging/manifest.h"
#include "services/packaging/package_store.h"

namespace shiftadd::packaging {

struct PublishSpec {
  std::string reference;    // name:tag
  std::string config_json;  // package_format.h
  std::vector<Descriptor> layers;
  std::string provenance_json;  // an object; empty: none
  std::string expected_digest;  // what the tag points at now; empty: anything
  TagMover mover = {};
  // More documents about it; objects.
  std::vector<std::string> signatures_json = {}, evaluations_json = {};
};

// The faults of the request itself, the first few of many (INVALID_ARGUMENT); whether blobs are
// there is not looked at.
std::vector<Fault> CheckPublish(const PublishSpec& spec);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_PUBLISH_CHECK_H_
