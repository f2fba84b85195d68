#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/endpoints.h"
#include "services/cli/reference.h"
#include "services/cli/servers.h"
#include "services/flags/values.h"
#include "services/rpc/address_fault.h"

namespace shiftadd::cli {
namespace {

struct GenerateOptions {
  std::string package;
  std::string prompt;
  std::string system;
  std::string server;
  bool chat = false;
  uint32_t max_tokens = 128;
  double temperature = 0;
  double top_p = 1;
  uint32_t top_k = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

// --server, then SHIFTADD_SERVER, then a server of that package that `serve` has started.
absl::StatusOr<std::string> ServerAddress(const Context& context, const GenerateOptions& options,
                                          const std::string& reference) {
  const char* variable = std::getenv("SHIFTADD_SERVER");
  const bool set = variable != nullptr && *variable != '\0';
  if (!options.server.empty() || set) {
    const std::string address = options.server.empty() ? variable : options.server;
    const std::string fault = rpc::AddressFault(address);
    if (fault.empty()) return address;
    return absl::InvalidArgumentError(
        absl::StrCat(options.server.empty() ? "SHIFTADD_SERVER" : "--server", ": ", fault));
  }
  for (const ServerInfo& server : RunningServers(DataDir(context))) {
    if (server.reference == reference) return server.grpc;
  }
  return absl::UnavailableError(
      absl::StrCat("nothing serves ", reference, " here: run `shiftadd serve ", reference,
                   " --detach`, or name a server's gRPC port with --server HOST:PORT"));
}

v1::GenerateRequest MakeRequest(const GenerateOptions& options) {
  v1::GenerateRequest request;
  if (options.chat) {
    if (!options.system.empty()) {
      v1::ChatMessage* system = request.mutable_chat()->add_messages();
      system->set_role("system");
      system->set_content(options.system);
    }
    v1::ChatMessage* user = request.mutable_chat()->add_messages();
    user->set_role("user");
    user->set_content(options.prompt);
  } else {
    request.set_text(options.prompt);
  }
  request.set_max_tokens(options.max_tokens);
  request.mutable_sampling()->set_temperature(options.temperature);
  request.mutable_sampling()->set_top_p(options.top_p);
  request.mutable_sampling()->set_top_k(options.top_k);
  request.mutable_sampling()->set_seed(options.seed);
  for (const std::string& stop : options.stop) request.add_stop(stop);
  request.set_ignore_eos(options.ignore_eos);
  return request;
}

// Writes text as it comes; figures go to err at the end.
absl::Status Stream(Context& context, const GenerateClient& client,
                    const GenerateOptions& options) {
  grpc::ClientContext call;
  const absl::Time start = absl::Now();
  absl::Time first = start;
  auto reader = client.target().stub->Generate(&call, MakeRequest(options));
  v1::GenerateResponse piece, last;
  while (reader->Read(&piece)) {
    if (first == start) first = absl::Now();
    context.out << piece.text() << std::flush;
    last = piece;
  }
  context.out << "\n";
  SA_RETURN_IF_ERROR(client.Explain(rpc::FromGrpc(reader->Finish())));
  const double decode = absl::ToDoubleSeconds(absl::Now() - first);
  std::string rate;
  if (last.generated_tokens() > 1 && decode > 0) {
    rate =
        absl::StrFormat(", %.1f tokens/s after the first", (last.generated_tokens() - 1) / decode);
  }
  context.err << absl::StrFormat("[%d prompt tokens, %d new tokens, %s; first after %.2f s%s]\n",
                                 last.prompt_tokens(), last.generated_tokens(),
                                 last.finish_reason(), absl::ToDoubleSeconds(first - start), rate);
  return absl::OkStatus();
}

absl::Status Generate(Context& context, const GenerateOptions& options) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(options.package));
  SA_ASSIGN_OR_RETURN(const std::string address, ServerAddress(context, options, reference));
  const GenerateClient client("server", address);
  SA_ASSIGN_OR_RETURN(const v1::ModelInfo info,
                      client.Call(&GenerateClient::Stub::GetModelInfo, v1::GetModelInfoRequest()));
  if (info.name() != reference) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the server at ", client.address(), " serves ", info.name(), ", not ", reference));
  }
  return Stream(context, client, options);
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Let a served package write (gRPC)");
  command->add_option("package", options->package, "NAME[:TAG]")->required();
  MayBeEmpty(command->add_option("-p,--prompt", options->prompt, "What to go on from"))->required();
  auto* chat = command->add_flag("--chat", options->chat,
                                 "The prompt is a user's message in the model's chat template");
  command->add_option("--system", options->system, "System message")->needs(chat);
  command->add_option("--max-tokens", options->max_tokens, "At most so many new tokens")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--temperature", options->temperature, "0: greedy")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  command->add_option("--top-p", options->top_p, "In (0, 1]")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  command->add_option("--top-k", options->top_k, "0: all")->capture_default_str();
  command->add_option("--seed", options->seed, "The same seed gives the same text")
      ->capture_default_str();
  command->add_option("--stop", options->stop, "End before this text, repeatable")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after the end-of-text token");
  command->add_option("--server", options->server,
                      "HOST:PORT of the server's gRPC (else SHIFTADD_SERVER, else the local one)");
  AddDataDirFlag(command, context);
  command->callback([&context, options] {
    context.action = [&context, options] { return Report(context, Generate(context, *options)); };
  });
}

}  // namespace shiftadd::cli
