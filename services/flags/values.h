// What every program asks of the values on its command line, beyond what CLI11 asks.
#ifndef SHIFTADD_SERVICES_FLAGS_VALUES_H_
#define SHIFTADD_SERVICES_FLAGS_VALUES_H_

#include <CLI/CLI.hpp>

namespace shiftadd {

// After parsing. Throws a CLI::ValidationError that names the option, of `app` or a subcommand,
//   - whose value is empty, on the command line or in a file: what `--tokens "$UNSET"` becomes must
//     not mean that none were asked for. A variable that is empty counts as one that is not set,
//     but for those of NoEmptyVariable.
//   - whose number is none: CLI::Range lets "nan" through.
void CheckValues(CLI::App* app);

// `option` may be given an empty value. Returns it.
CLI::Option* MayBeEmpty(CLI::Option* option);

// `option` keeps somebody out: an empty variable of it, where nothing else gives it a value, is a
// mistake that names the variable. Returns it.
CLI::Option* NoEmptyVariable(CLI::Option* option);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_FLAGS_VALUES_H_
