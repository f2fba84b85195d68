// A recipe as YAML and as JSON, with its defaults and faults.
#include "services/cli/recipe.h"

#include <google/protobuf/util/message_differencer.h>

#include "services/job/recipe.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const char* name : {"recipe.yaml", "recipe.json"}) {
    auto recipe = shiftadd::cli::ParseRecipe(text, name);
    if (!recipe.ok()) continue;
    shiftadd::FaultList faults;
    shiftadd::ResolveRecipe(&*recipe, &faults);
    const shiftadd::v1::Recipe once = *recipe;
    shiftadd::ResolveRecipe(&*recipe, &faults);
    shiftadd::fuzz::Require(google::protobuf::util::MessageDifferencer::Equals(once, *recipe),
                            "a resolved recipe resolves to itself");
    shiftadd::RuleFor(*recipe, "blocks.0.attention.query");
  }
  return 0;
}
