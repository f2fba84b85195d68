// serve_load: streaming clients against shiftadd-server for a bounded time. Starts a server of its
// own (a tiny package, or --package from --package-dir), or goes to one that runs (--port).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tests/cluster.h"
#include "tests/load/load.h"
#include "tests/serving.h"

namespace shiftadd::testing {
namespace {

constexpr int64_t kMegabyte = 1'000'000;

struct Flags {
  LoadOptions load;
  double seconds = 30;
  std::string package, package_dir;
  std::vector<std::string> server;  // more flags of the server
  int64_t max_growth = -1;          // MB; -1: not looked at
};

int Parse(int argc, char** argv, Flags* flags) {
  CLI::App app(
      "Streaming clients against shiftadd-server. Ends with 1 if a request failed (429 with "
      "Retry-After is no failure), or if memory grew too much.",
      "serve_load");
  app.add_option("--clients", flags->load.clients, "Parallel clients")->capture_default_str();
  app.add_option("--seconds", flags->seconds, "How long they ask")->capture_default_str();
  app.add_option("--max-tokens", flags->load.max_tokens, "Of each answer")->capture_default_str();
  app.add_option("--prompt-words", flags->load.prompt_words, "Words of each prompt")
      ->capture_default_str();
  app.add_option("--port", flags->load.port, "HTTP port of a server that runs");
  app.add_option("--pid", flags->load.pid, "That server's process, to see its memory");
  app.add_option("--package", flags->package, "Reference of the package to serve");
  app.add_option("--package-dir", flags->package_dir, "OCI image layout that holds it");
  app.add_option("--server-flag", flags->server, "A flag for the server, repeatable: --queue=64");
  app.add_option("--max-growth-mb", flags->max_growth,
                 "Fail if resident memory without key/value caches grows by more between the "
                 "second and last quarter");
  CLI11_PARSE(app, argc, argv);
  flags->load.duration = absl::Seconds(flags->seconds);
  return -1;
}

// A server of a package from a layout.
Process StartServer(const Flags& flags, const std::string& dir, int* port) {
  std::vector<std::string> argv = {Binary("shiftadd-server"), "--package", flags.package,
                                   "--package-dir", flags.package_dir, "--listen", "127.0.0.1:0",
                                   "--http", "127.0.0.1:0", "--port-file", dir + "/ports",
                                   // All its clients come from one address.
                                   "--client-queue", "64"};
  argv.insert(argv.end(), flags.server.begin(), flags.server.end());
  Process server(argv, dir + "/server.log");
  *port = WaitForPorts(dir + "/ports", &server, dir + "/server.log", absl::Seconds(120))[1];
  return server;
}

int Run(Flags flags) {
  const std::string dir = NewTempDir("load");
  std::unique_ptr<Serving> tiny;
  Process server;
  if (flags.load.port == 0 && flags.package_dir.empty()) {
    tiny = std::make_unique<Serving>();
    tiny->Publish("tiny:load", 1);
    tiny->StartServer({"tiny:load"}, flags.server);
    flags.load.port = tiny->http_port();
    flags.load.pid = tiny->server().pid();
  } else if (flags.load.port == 0) {
    server = StartServer(flags, dir, &flags.load.port);
    flags.load.pid = server.pid();
  }
  const LoadReport report = RunLoad(flags.load);
  std::printf("%d clients, %d tokens each, %d prompt words, %.0f s\n%s", flags.load.clients,
              flags.load.max_tokens, flags.load.prompt_words, flags.seconds,
              report.ToString().c_str());
  std::filesystem::remove_all(dir);
  const bool grew = flags.max_growth >= 0 && report.rss_growth() > flags.max_growth * kMegabyte;
  if (grew) std::printf("memory grew by more than %d MB\n", static_cast<int>(flags.max_growth));
  return report.failed() > 0 || report.answered == 0 || grew ? 1 : 0;
}

}  // namespace
}  // namespace shiftadd::testing

int main(int argc, char** argv) {
  shiftadd::testing::Flags flags;
  if (const int code = shiftadd::testing::Parse(argc, argv, &flags); code >= 0) return code;
  return shiftadd::testing::Run(std::move(flags));
}
