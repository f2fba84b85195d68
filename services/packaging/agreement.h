// What a package's config and its layers owe each other, wherever a package comes from.
#ifndef SHIFTADD_SERVICES_PACKAGING_AGREEMENT_H_
#define SHIFTADD_SERVICES_PACKAGING_AGREEMENT_H_

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "services/packaging/manifest.h"

namespace shiftadd::packaging {

struct Fault {
  std::string field, description;
};

// No layers; a title that two of them have; a blob that the config (an object) names and that is
// none of them. Fields of the config are there to be named only: what else it must hold is not
// looked at.
std::vector<Fault> CheckAgreement(const nlohmann::json& config,
                                  const std::vector<Descriptor>& layers);

// The first few, and how many more there are: a status has to fit an answer's headers.
void KeepFirst(std::vector<Fault>* faults);
// "field: description; ...".
std::string Joined(const std::vector<Fault>& faults);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_AGREEMENT_H_
