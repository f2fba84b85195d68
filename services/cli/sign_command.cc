#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/files.h"
#include "services/cli/reference.h"
#include "services/packaging/package_format.h"
#include "services/packaging/signature.h"

namespace shiftadd::cli {
namespace {

constexpr size_t kMaxKeyBytes = 1 << 16;

struct SignFlags {
  std::string package, key;
  bool deep = false;
};

absl::Status Sign(Context& context, const SignFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(flags.package));
  SA_ASSIGN_OR_RETURN(const std::string pem, ReadFile(flags.key, kMaxKeyBytes));
  SA_ASSIGN_OR_RETURN(const auto client, ConnectPackages(context));
  SA_ASSIGN_OR_RETURN(const std::string digest, client->Resolve(reference));
  const absl::StatusOr<std::string> document = packaging::SignDigest(pem, digest);
  if (!document.ok()) return Annotate(document.status(), flags.key);
  // By its digest: a tag may move meanwhile.
  const std::string name = reference.substr(0, reference.find_first_of("@:"));
  SA_RETURN_IF_ERROR(
      client->Attach(absl::StrCat(name, "@", digest), kSignatureArtifactType, *document).status());
  context.out << "signed " << reference << " (" << digest << ")\n";
  return absl::OkStatus();
}

absl::Status CheckDigest(const std::string& what, const std::string& expected,
                         const std::string& bytes) {
  const std::string found = Sha256Digest(bytes);
  if (found == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(what, ": expected digest ", expected, ", found ", found));
}

absl::Status Verify(Context& context, const SignFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(flags.package));
  SA_ASSIGN_OR_RETURN(const std::string pem, ReadFile(flags.key, kMaxKeyBytes));
  SA_ASSIGN_OR_RETURN(const auto client, ConnectPackages(context));
  SA_ASSIGN_OR_RETURN(const v1::Package package, client->Get(reference));
  SA_RETURN_IF_ERROR(CheckDigest("manifest", package.digest(), package.manifest_json()));
  SA_RETURN_IF_ERROR(CheckDigest("config", package.config().digest(), package.config_json()));
  SA_RETURN_IF_ERROR(Annotate(packaging::CheckPublicKey(pem), flags.key));
  SA_RETURN_IF_ERROR(Annotate(packaging::VerifySignatures({package.signature_json().begin(),
                                                           package.signature_json().end()},
                                                          package.digest(), pem),
                              reference));
  for (const v1::Descriptor& layer : package.layers()) {
    if (!flags.deep) break;
    SA_RETURN_IF_ERROR(
        client->ReadBlob(layer.digest(), [](absl::string_view) { return absl::OkStatus(); }));
  }
  context.out << reference << " (" << package.digest() << ") is signed by this key"
              << (flags.deep ? ", and every blob is as it was" : "") << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddSignCommands(CLI::App& app, Context& context) {
  auto flags = std::make_shared<SignFlags>();
  CLI::App* sign = app.add_subcommand("sign", "Vouch for a package with an Ed25519 key");
  sign->add_option("package", flags->package, "NAME[:TAG] or NAME@DIGEST")->required();
  sign->add_option("--key", flags->key,
                   "File of the private key (openssl genpkey -algorithm ed25519)")
      ->required();
  AddPackagerFlag(sign, context);
  sign->callback([&context, flags] {
    context.action = [&context, flags] { return Report(context, Sign(context, *flags)); };
  });

  CLI::App* verify = app.add_subcommand("verify", "Check who vouches for a package");
  verify->add_option("package", flags->package, "NAME[:TAG] or NAME@DIGEST")->required();
  verify->add_option("--key", flags->key, "File of the public key (openssl pkey -pubout)")
      ->required();
  verify->add_flag("--deep", flags->deep, "Read every blob as well and compare its digest");
  AddPackagerFlag(verify, context);
  verify->callback([&context, flags] {
    context.action = [&context, flags] { return Report(context, Verify(context, *flags)); };
  });
}

}  // namespace shiftadd::cli
