// What a recipe may ask for, and what it means where it says nothing.
//
// A field that a method does not use must be unset, or say what the method does anyway. The first
// value of a field is the default; "-": not used.
//
//                  shiftadd              lat        acc                optq           rtn
//   scales         shift, free           -          -                  shift          shift
//   offset         false, true           -          -                  -              -
//   rotation       wht128, none          none       none, butterfly    none           none
//   hessian        guided, rms, plain    plain      plain              plain          plain
//   chunks         1..16 if guided       1          1                  1              1
//   order          natural, gar (*)      -          -                  gar, natural   natural
//   group_size     256, 128, 64, 32      128 … 32   128 … 32           128, 256, …    128, 256, …
//   whole_row      a row                 8 x N/8    a column           a row          a row
//   damping        0.01, 1e-6..1         as left    as left            as left        -
//   rounds         15, 1..200            50         50                 -              -
//   inner_rounds   4, 1..32 (**)         -          -                  -              -
//   sweeps         2, 0..16 (**)         -          -                  -              -
//   effort         full, fast            -          -                  -              -
//   additive_terms -                     3, 0..4    3, 0..4            -              -
//   propagate      full, quantized       as left    as left            as left        full
//   head           int8, raw             raw, int8  raw, int8          int8, raw      int8, raw
//
//   (*)  gar, natural with a plain Hessian.
//   (**) effort fast: 1 and 1. A field that is set wins.
//
// group_size counts inputs of a row; lat shares a scale among 8 inputs x group_size/8 rows, acc
// among group_size rows of a column. Planes are stored in words of 32 inputs, so bcq/shift and
// bcq/free hold groups of whole words only. With wht128 and groups of 256 the rotation stays 128
// wide. Why 256: at equal stored bits it has 5 to 6 % less KL than 128 on SmolLM2-135M,
// Gemma-3-270M and Qwen2.5-0.5B (tests/results/groups.md). candidate_bits (2, 3, 4 by default) and
// seed belong to every method. lat, acc: ShiftAddLLM (arXiv 2406.05981); optq: OPTQ (2210.17323).
#ifndef SHIFTADD_SERVICES_JOB_RECIPE_H_
#define SHIFTADD_SERVICES_JOB_RECIPE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "services/job/field_faults.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd {

// Fills every default of `recipe` in place and adds all faults. A resolved recipe resolves to
// itself.
void ResolveRecipe(v1::Recipe* recipe, FaultList* faults);

// True if `glob` (* any run, ? one character) matches all of `name`.
bool GlobMatches(absl::string_view glob, absl::string_view name);

// What the overrides say about one layer; the last one that matches counts.
struct LayerRule {
  bool skip = false;
  uint32_t bits = 0;  // 0 = the recipe's candidates
};
LayerRule RuleFor(const v1::Recipe& recipe, absl::string_view layer);

// What only the model's shapes can refuse.
std::vector<FieldFault> CheckShapes(const v1::Recipe& recipe, const v1::Plan& plan);

// The recipe with its overrides written out, one for each layer that has one, by its exact name:
// what tasks get, so that workers need no pattern. INVALID faults for a glob that matches no layer.
std::vector<FieldFault> ExpandOverrides(v1::Recipe* recipe, const v1::Plan& plan);

// The recipe as the package's config shows it: only what the method uses, and nothing that is only
// a shorthand (effort), so that equal work has equal digests.
nlohmann::json RecipeJson(const v1::Recipe& recipe);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_JOB_RECIPE_H_
