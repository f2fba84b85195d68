// shiftadd-export: a package as a model that other programs load.
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>

#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/base/version.h"
#include "services/flags/values.h"
#include "services/rpc/address_fault.h"
#include "worker/export/export.h"

namespace shiftadd {
namespace {

constexpr int kOk = 0, kFailed = 1, kUsage = 2, kUnreachable = 3;

struct Flags {
  PackageLocation source;
  ExportOptions options;
  std::string dir;
};

void Define(CLI::App* app, Flags* flags) {
  app->set_version_flag("--version", VersionLine());
  app->add_option("package", flags->source.reference, "NAME[:TAG] or NAME@sha256:…")->required();
  app->add_option("dir", flags->dir, "New or empty folder to write to")->required();
  app->add_option("--format", flags->options.format,
                  "hf-fp16: a Hugging Face directory; gguf: one F16 file for llama.cpp")
      ->transform(CLI::CheckedTransformer(std::map<std::string, ExportFormat>{
          {"hf-fp16", ExportFormat::kHuggingFace}, {"gguf", ExportFormat::kGguf}}))
      ->option_text("hf-fp16|gguf")
      ->required();
  auto* packager =
      app->add_option("--packager", flags->source.packager, "Packager to get it from, host:port")
          ->check(rpc::AddressFault);
  app->add_option(
         "--package-dir", flags->source.package_dir,
         "OCI image layout to read it from instead, or registry http[s]://HOST[:PORT]/PREFIX: the "
         "repository PREFIX/NAME, or PREFIX itself")
      ->excludes(packager);
  app->add_option("--blobs", flags->source.blobs,
                  "OCI image layout or registry to look for blobs in before the packager is asked");
}

absl::Status Run(const Flags& flags) {
  SA_ASSIGN_OR_RETURN(ResolvedPackage package, ResolvePackage(flags.source));
  SA_ASSIGN_OR_RETURN(const auto weights, PackageWeights::Open(std::move(package)));
  SA_RETURN_IF_ERROR(ExportPackage(weights.get(), flags.options, flags.dir));
  std::cout << weights->name() << " (" << weights->digest() << ") is in " << flags.dir << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Writes a package as a model that other programs load.", "shiftadd-export");
  Flags flags;
  Define(&app, &flags);
  try {
    app.parse(argc, argv);
    CheckValues(&app);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kOk : kUsage;
  }
  if (flags.source.packager.empty() && flags.source.package_dir.empty()) {
    flags.source.packager = "127.0.0.1:7071";
  }
  InitLogging("shiftadd-export", "warn");
  const absl::Status status = Run(flags);
  if (status.ok()) return kOk;
  std::cerr << "shiftadd-export: " << status.message() << "\n";
  return absl::IsUnavailable(status) ? kUnreachable : kFailed;
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) { return shiftadd::Main(argc, argv); }
