#include "worker/serve/server_flags.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/build_info.h"
#include "services/access/watched_file.h"
#include "services/base/version.h"
#include "services/flags/values.h"
#include "services/http/listen_address.h"
#include "services/packaging/signature.h"
#include "services/rpc/address_fault.h"
#include "worker/machine/bench_flags.h"
#include "worker/serve/server_device.h"

namespace shiftadd {
namespace {

// Several names with commas in one value are several values. None is empty: what is forgotten
// there would be without effect.
void SplitNames(const char* option, std::vector<std::string>* values) {
  std::vector<std::string> names;
  for (const std::string& value : *values) {
    for (const absl::string_view part : absl::StrSplit(value, ',')) {
      const absl::string_view name = absl::StripAsciiWhitespace(part);
      if (name.empty() && !value.empty()) {
        throw CLI::ValidationError(
            option, absl::StrCat("expected names with commas between them, found \"", value, "\""));
      }
      names.emplace_back(name);
    }
  }
  *values = std::move(names);
}

void AddPackageFlags(CLI::App* app, std::vector<std::string>* packages, PackageLocation* package) {
  app->add_option("--package", *packages,
                  "Package to serve: name:tag (when the tag moves, the new version takes over) or "
                  "name@sha256:…; repeatable: requests choose by \"model\", the first is the "
                  "default")
      ->envname("SHIFTADD_SERVER_PACKAGE")
      ->required();
  auto* packager =
      app->add_option("--packager", package->packager, "Packager to get it from, host:port")
          ->envname("SHIFTADD_SERVER_PACKAGER")
          ->check(rpc::AddressFault);
  app->add_option("--package-dir", package->package_dir,
                  "OCI image layout to read it from instead and to look for new versions in, or "
                  "registry http[s]://HOST[:PORT]/PREFIX: the repository PREFIX/NAME, or PREFIX "
                  "itself")
      ->envname("SHIFTADD_SERVER_PACKAGE_DIR")
      ->excludes(packager);
  app->add_option("--blobs", package->blobs,
                  "OCI image layout or registry to look for blobs in before the packager is asked")
      ->envname("SHIFTADD_SERVER_BLOBS");
}

void AddModelFlags(CLI::App* app, ServerFlags* flags) {
  flags->load.model.half_cache = true;
  using Precision = PackedModelOptions::Precision;
  app->add_option("--threads", flags->load.model.threads,
                  "Threads of the model; 0: one for each usable core")
      ->envname("SHIFTADD_SERVER_THREADS")
      ->check(CLI::Range(0, 1024));
  app->add_option(
         "--device", flags->load.device,
         "What computes: cpu, cuda (the first NVIDIA GPU, or that of CUDA_VISIBLE_DEVICES), "
         "or auto (cuda if it can be used; the log says)")
      ->envname("SHIFTADD_SERVER_DEVICE")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Device>{
          {"cpu", Device::kCpu}, {"cuda", Device::kCuda}, {"auto", Device::kAuto}}))
      ->option_text("cpu|cuda|auto");
  app->add_flag(
         "--batch-invariant", flags->load.batch_invariant,
         "On a GPU: an answer's numbers do not depend on what runs beside it, nor on how much "
         "of its prompt was computed before; prompts take several times as long. On the CPU "
         "that is always so")
      ->envname("SHIFTADD_SERVER_BATCH_INVARIANT");
  app->add_option("--precision", flags->load.model.precision,
                  "Bits of activations: a8, a16, or auto (a8 for rotated matrices, a16 for others)")
      ->envname("SHIFTADD_SERVER_PRECISION")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Precision>{
          {"auto", Precision::kAuto}, {"a8", Precision::kA8}, {"a16", Precision::kA16}}))
      ->option_text("auto|a8|a16");
  app->add_option("--cache-precision", flags->load.model.half_cache,
                  "Keys and values in the CPU's caches: f16, or f32, which takes twice the memory; "
                  "on a GPU always f16")
      ->envname("SHIFTADD_SERVER_CACHE_PRECISION")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, bool>{{"f16", true}, {"f32", false}}))
      ->option_text("f16|f32");
  app->add_option("--context", flags->load.context,
                  "Tokens of prompt and answer together; 0: as trained, at most 8192")
      ->envname("SHIFTADD_SERVER_CONTEXT")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  app->add_option("--sequences", flags->load.sequences, "Sequences that run together")
      ->envname("SHIFTADD_SERVER_SEQUENCES")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app->add_option("--cache-mib", flags->cache_mib,
                  "Memory for the key/value caches of all sequences, kept prefixes among them; a "
                  "whole context always fits. By default 512, or on the CPU what memory leaves if "
                  "that is less; more than it leaves is refused")
      ->envname("SHIFTADD_SERVER_CACHE_MIB")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  app->add_option("--queue", flags->load.queue, "Requests that may wait; beyond: 429")
      ->envname("SHIFTADD_SERVER_QUEUE")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  app->add_option("--client-queue", flags->load.client_queue,
                  "Of these, one client's (by its key, its certificate, else its address: behind a "
                  "proxy all without a key are one); beyond: 429. Half of --queue by default")
      ->envname("SHIFTADD_SERVER_CLIENT_QUEUE")
      ->check(CLI::Range(1, 100000));
}

void AddAccessFlags(CLI::App* app, ServerFlags* flags) {
  NoEmptyVariable(
      app->add_option("--require-signature", flags->require_signature,
                      "File of an Ed25519 public key (PEM): packages that its owner has not signed "
                      "(`shiftadd sign`) are not served")
          ->envname("SHIFTADD_SERVER_REQUIRE_SIGNATURE"));
  NoEmptyVariable(
      app->add_option(
             "--api-key-file", flags->api_key_file,
             "File of API keys, one a line (or sha256:HEX of one); without it everybody who "
             "reaches the server may use it")
          ->envname("SHIFTADD_SERVER_API_KEY_FILE"));
  app->add_option(
         "--client-requests-per-second", flags->client_requests_per_second,
         "Of one client (as --client-queue tells them apart), over HTTP and gRPC, on "
         "average; bursts of five seconds' worth pass; beyond: 429 with Retry-After. 0: no "
         "limit")
      ->envname("SHIFTADD_SERVER_CLIENT_REQUESTS_PER_SECOND")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app->add_option("--cors-origin", flags->cors_origins,
                  "Origin whose web pages may use the server (*: all), repeatable; none by default")
      ->envname("SHIFTADD_SERVER_CORS_ORIGIN");
}

void AddBenchFlags(CLI::App* app, ServerFlags* flags) {
  auto* bench = app->add_flag("--bench", flags->bench,
                              "Measure the first package's speed, print JSON and end");
  AddBenchLengthFlags(app, bench, &flags->bench_options);
}

void AddReplacingFlag(CLI::App* app, ServerFlags* flags) {
  app->add_option(
         "--replace", flags->replacing,
         "When a tag moves: beside (the new version is loaded while the old one serves), "
         "drain (the old one ends its requests and goes first; new requests wait until the new one "
         "is loaded; those that run longer than --drain-seconds end with an error), or auto "
         "(beside if memory allows)")
      ->envname("SHIFTADD_SERVER_REPLACE")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, Replacing>{{"auto", Replacing::kAuto},
                                                                   {"beside", Replacing::kBeside},
                                                                   {"drain", Replacing::kDrain}}))
      ->option_text("auto|beside|drain");
}

void AddListenFlags(CLI::App* app, ServerFlags* flags) {
  app->add_option("--listen", flags->listen, "gRPC address, host:port; port 0 picks one")
      ->envname("SHIFTADD_SERVER_LISTEN")
      ->check(ListenAddressFault)
      ->capture_default_str();
  app->add_option("--http", flags->http, "HTTP address, host:port; port 0 picks one")
      ->envname("SHIFTADD_SERVER_HTTP")
      ->check(ListenAddressFault)
      ->capture_default_str();
  app->add_option(
         "--advertise", flags->advertise,
         "Host at which others reach this server, as `shiftadd status` shows it; by default "
         "that of --http and --listen, or this machine's name if those are all its addresses")
      ->envname("SHIFTADD_SERVER_ADVERTISE");
  app->add_option(
         "--drain-seconds", flags->drain_seconds,
         "How long running requests may go on after SIGTERM, and when their version must go "
         "before the next is loaded")
      ->envname("SHIFTADD_SERVER_DRAIN_SECONDS")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app->add_option(
         "--drain-delay-seconds", flags->drain_delay_seconds,
         "How long /ready says no after SIGTERM while requests are still taken, before the "
         "server drains: as long as what sends it requests may take to notice")
      ->envname("SHIFTADD_SERVER_DRAIN_DELAY_SECONDS")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  AddDaemonFlags(app, "server", &flags->daemon);
}

}  // namespace

std::vector<PackageLocation> ServerFlags::Locations() const {
  std::vector<PackageLocation> out(packages.size(), source);
  for (size_t i = 0; i < packages.size(); ++i) out[i].reference = packages[i];
  return out;
}

std::optional<int> ParseServerFlags(int argc, char** argv, ServerFlags* flags) {
  CLI::App app(
      "shiftadd-server: serves a packed model over an OpenAI-compatible HTTP API and gRPC.\n"
      "Exit codes: 0 ended by a signal, 1 failed, 2 wrong usage.",
      "shiftadd-server");
  app.set_version_flag("--version", VersionLine() + "\n" + kernels::KernelsBuildInfo());
  app.add_flag_callback(
      "--probe",
      [] {
        std::cout << ServerProbe() << std::endl;
        throw CLI::Success();
      },
      "Print what was found and what would be used, as JSON, and end");
  AddPackageFlags(&app, &flags->packages, &flags->source);
  AddModelFlags(&app, flags);
  AddReplacingFlag(&app, flags);
  AddListenFlags(&app, flags);
  AddAccessFlags(&app, flags);
  AddBenchFlags(&app, flags);
  app.callback([flags] {
    SplitNames("--package", &flags->packages);
    SplitNames("--cors-origin", &flags->cors_origins);
    flags->load.cache_bytes = flags->cache_mib << 20;
    if (!flags->require_signature.empty()) {
      auto key = access::ReadSmallFile(flags->require_signature);
      if (!key.ok()) {
        throw CLI::ValidationError("--require-signature", std::string(key.status().message()));
      }
      flags->source.signer_pem = *std::move(key);
      if (flags->source.signer_pem.empty()) {
        throw CLI::ValidationError("--require-signature", flags->require_signature + ": is empty");
      }
      const absl::Status is_key = packaging::CheckPublicKey(flags->source.signer_pem);
      if (!is_key.ok()) {
        throw CLI::ValidationError("--require-signature",
                                   absl::StrCat(flags->require_signature, ": ", is_key.message()));
      }
    }
    if (flags->source.packager.empty() && flags->source.package_dir.empty()) {
      flags->source.packager = "127.0.0.1:7071";
    }
  });
  return ParseFlags(&app, argc, argv);
}

}  // namespace shiftadd
