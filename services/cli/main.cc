// The command line of shiftadd.
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "services/cli/commands.h"

namespace {

// Whether all that was printed has arrived. A reader that left (`| head`) had what it wanted.
bool Arrived() {
  std::cout.flush();
  if (std::cout.good()) return true;
  pollfd reader = {STDOUT_FILENO, 0, 0};
  return poll(&reader, 1, 0) == 1 && (reader.revents & POLLERR) != 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that leaves ends the output, not the job
  setenv("GRPC_VERBOSITY", "none", /*overwrite=*/0);  // what fails is said once, in our words
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  shiftadd::cli::Context context{std::cout, std::cerr};
  context.terminal = isatty(STDOUT_FILENO) == 1 && term != nullptr && std::string(term) != "dumb";
  context.color = context.terminal && (no_color == nullptr || *no_color == '\0');
  try {
    const int code = shiftadd::cli::Run(std::vector<std::string>(argv + 1, argv + argc), context);
    if (Arrived()) return code;
    std::cerr << "shiftadd: not all of the output could be written\n";
    return code == shiftadd::cli::kExitOk ? shiftadd::cli::kExitFailed : code;
  } catch (const std::exception& e) {
    std::cerr << "shiftadd: " << e.what() << "\n";
    return shiftadd::cli::kExitFailed;
  }
}
