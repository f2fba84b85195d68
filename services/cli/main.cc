// The command line of shiftadd.
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "services/cli/commands.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that leaves ends the output, not the job
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  shiftadd::cli::Context context{std::cout, std::cerr};
  context.terminal = isatty(STDOUT_FILENO) == 1 && term != nullptr && std::string(term) != "dumb";
  context.color = context.terminal && (no_color == nullptr || *no_color == '\0');
  try {
    return shiftadd::cli::Run(std::vector<std::string>(argv + 1, argv + argc), context);
  } catch (const std::exception& e) {
    std::cerr << "shiftadd: " << e.what() << "\n";
    return shiftadd::cli::kExitFailed;
  }
}
