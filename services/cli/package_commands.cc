#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/proto_json.h"
#include "services/cli/reference.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Stub = PackageClient::Stub;

std::string Time(const google::protobuf::Timestamp& time) { return FormatUnixTime(time.seconds()); }

// Runs `work` with a client and reports how it went.
template <typename Work>
int WithPackages(Context& context, Work work) {
  const absl::StatusOr<PackageClient> client = ConnectPackages(context);
  return Report(context, client.ok() ? work(*client) : client.status());
}

absl::Status ListPackages(Context& context, const PackageClient& client) {
  Table table({"NAME", "TAG", ">SIZE", "PUBLISHED (UTC)", "DIGEST"});
  OrderedJson list = OrderedJson::array();
  v1::ListPackagesRequest request;
  do {
    SA_ASSIGN_OR_RETURN(const v1::ListPackagesResponse response,
                        client.Call(&Stub::ListPackages, request));
    for (const v1::Package& package : response.packages()) {
      list.push_back({{"name", package.name()},
                      {"tag", package.tag()},
                      {"digest", package.digest()},
                      {"bytes", package.bytes()},
                      {"publish_time", ToJson(package.publish_time())}});
      table.Add({package.name(), package.tag(), FormatBytes(package.bytes()),
                 Time(package.publish_time()), package.digest()});
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  if (context.json) {
    context.out << OrderedJson{{"packages", list}}.dump(2) << "\n";
  } else {
    context.out << (list.empty() ? "no packages\n" : table.ToString());
  }
  return absl::OkStatus();
}

// The documents inside, as JSON and not as strings of JSON.
OrderedJson InspectJson(const v1::Package& package) {
  OrderedJson json = ToJson(package);
  for (const char* document : {"config", "manifest", "provenance"}) {
    const std::string field = absl::StrCat(document, "_json");
    const OrderedJson parsed = OrderedJson::parse(json[field].get<std::string>(), nullptr, false);
    json.erase(field);
    if (std::string(document) != "config") {
      if (!parsed.is_discarded()) json[document] = parsed;
    } else if (!parsed.is_discarded()) {
      json["config_document"] = parsed;
    }
  }
  return json;
}

std::string InspectText(const v1::Package& package) {
  std::string text = absl::StrCat(package.name(), package.tag().empty() ? "" : ":", package.tag(),
                                  "\n", "digest     ", package.digest(), "\n", "size       ",
                                  FormatBytes(package.bytes()), "\n", "published  ",
                                  Time(package.publish_time()), " UTC\n");
  const OrderedJson config = OrderedJson::parse(package.config_json(), nullptr, false);
  if (config.is_object()) {
    for (const char* field : {"budget", "recipe", "quality", "device_class", "quantizer_version"}) {
      if (config.contains(field)) absl::StrAppend(&text, field, ": ", config[field].dump(), "\n");
    }
  }
  Table table({"BLOB", ">SIZE", "DIGEST"});
  for (const v1::Descriptor& layer : package.layers()) {
    const auto title = layer.annotations().find("org.opencontainers.image.title");
    table.Add({title == layer.annotations().end() ? layer.media_type() : title->second,
               FormatBytes(layer.size()), layer.digest()});
  }
  return absl::StrCat(text, "\n", table.ToString());
}

absl::Status Inspect(Context& context, const PackageClient& client, const std::string& text) {
  v1::GetPackageRequest request;
  SA_ASSIGN_OR_RETURN(*request.mutable_reference(), NormalizeReference(text));
  SA_ASSIGN_OR_RETURN(const v1::Package package, client.Call(&Stub::GetPackage, request));
  context.out << (context.json ? InspectJson(package).dump(2) + "\n" : InspectText(package));
  return absl::OkStatus();
}

absl::Status Tag(Context& context, const PackageClient& client, const std::string& from,
                 const std::string& to) {
  v1::TagPackageRequest request;
  SA_ASSIGN_OR_RETURN(*request.mutable_source(), NormalizeReference(from));
  SA_ASSIGN_OR_RETURN(*request.mutable_target(), NormalizeReference(to));
  SA_ASSIGN_OR_RETURN(const v1::Package package, client.Call(&Stub::TagPackage, request));
  context.out << request.target() << " is " << package.digest() << "\n";
  return absl::OkStatus();
}

absl::Status Remove(Context& context, const PackageClient& client, const std::string& text) {
  v1::DeletePackageRequest request;
  SA_ASSIGN_OR_RETURN(*request.mutable_reference(), NormalizeReference(text));
  SA_RETURN_IF_ERROR(client.Call(&Stub::DeletePackage, request).status());
  context.out << "removed " << request.reference()
              << "; `shiftadd gc` frees what nothing needs any more\n";
  return absl::OkStatus();
}

absl::Status CollectGarbage(Context& context, const PackageClient& client, bool dry_run) {
  v1::CollectGarbageRequest request;
  request.set_dry_run(dry_run);
  SA_ASSIGN_OR_RETURN(const v1::CollectGarbageResponse response,
                      client.Call(&Stub::CollectGarbage, request, absl::Minutes(10)));
  if (context.json) {
    context.out << ToJson(response).dump(2) << "\n";
  } else {
    context.out << (dry_run ? "would free " : "freed ") << response.blobs() << " blobs, "
                << FormatBytes(response.bytes()) << "\n";
  }
  return absl::OkStatus();
}

}  // namespace

void AddPackageCommands(CLI::App& app, Context& context) {
  auto first = std::make_shared<std::string>();
  auto second = std::make_shared<std::string>();
  auto dry_run = std::make_shared<bool>(false);

  CLI::App* packages = app.add_subcommand("packages", "List published packages");
  AddJsonFlag(packages, context);
  packages->callback([&context] {
    context.action = [&context] {
      return WithPackages(context,
                          [&](const PackageClient& c) { return ListPackages(context, c); });
    };
  });

  CLI::App* inspect = app.add_subcommand("inspect", "Show a package");
  inspect->add_option("package", *first, "NAME[:TAG] or NAME@DIGEST")->required();
  AddJsonFlag(inspect, context);
  inspect->callback([&context, first] {
    context.action = [&context, first] {
      return WithPackages(context,
                          [&](const PackageClient& c) { return Inspect(context, c, *first); });
    };
  });

  CLI::App* tag = app.add_subcommand("tag", "Give a package another name");
  tag->add_option("source", *first, "NAME[:TAG] or NAME@DIGEST")->required();
  tag->add_option("target", *second, "NAME[:TAG]")->required();
  tag->callback([&context, first, second] {
    context.action = [&context, first, second] {
      return WithPackages(context,
                          [&](const PackageClient& c) { return Tag(context, c, *first, *second); });
    };
  });

  CLI::App* rm = app.add_subcommand("rm", "Remove a name of a package");
  rm->add_option("package", *first, "NAME[:TAG]")->required();
  rm->callback([&context, first] {
    context.action = [&context, first] {
      return WithPackages(context,
                          [&](const PackageClient& c) { return Remove(context, c, *first); });
    };
  });

  CLI::App* gc = app.add_subcommand("gc", "Delete blobs that nothing refers to");
  gc->add_flag("--dry-run", *dry_run, "Only say how much it would free");
  AddJsonFlag(gc, context);
  gc->callback([&context, dry_run] {
    context.action = [&context, dry_run] {
      return WithPackages(
          context, [&](const PackageClient& c) { return CollectGarbage(context, c, *dry_run); });
    };
  });

  for (CLI::App* command : {packages, inspect, tag, rm, gc}) AddPackagerFlag(command, context);
}

}  // namespace shiftadd::cli
