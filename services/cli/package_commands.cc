#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/evaluation_format.h"
#include "services/cli/proto_json.h"
#include "services/cli/quality_format.h"
#include "services/cli/reference.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string Time(const google::protobuf::Timestamp& time) { return FormatUnixTime(time.seconds()); }

// Runs `work` with a client and reports how it went.
template <typename Work>
int WithPackages(Context& context, Work work, absl::Duration timeout = absl::Seconds(30)) {
  const auto client = ConnectPackages(context, timeout);
  return Report(context, client.ok() ? work(**client) : client.status());
}

absl::Status ListPackages(Context& context, PackageClient& client) {
  SA_ASSIGN_OR_RETURN(const std::vector<v1::Package> packages, client.List());
  Table table({"NAME", "TAG", ">SIZE", "PUBLISHED (UTC)", "DIGEST"});
  OrderedJson list = OrderedJson::array();
  for (const v1::Package& package : packages) {
    list.push_back({{"name", package.name()},
                    {"tag", package.tag()},
                    {"digest", package.digest()},
                    {"owner", package.owner()},
                    {"bytes", package.bytes()},
                    {"publish_time", ToJson(package.publish_time())}});
    table.Add({package.name(), package.tag(), FormatBytes(package.bytes()),
               Time(package.publish_time()), package.digest()});
  }
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
  json.erase("evaluation_json");
  json["evaluations"] = OrderedJson::array();
  for (const std::string& document : package.evaluation_json()) {
    const OrderedJson parsed = OrderedJson::parse(document, nullptr, false);
    if (!parsed.is_discarded()) json["evaluations"].push_back(parsed);
  }
  return json;
}

// Planes by layer, as the config names them.
std::map<std::string, std::string> BitsOf(const OrderedJson& config) {
  std::map<std::string, std::string> bits;
  if (!config.is_object() || !config.contains("layers")) return bits;
  for (const OrderedJson& layer : config["layers"]) {
    if (!layer.is_object() || !layer.contains("name") || !layer.contains("bits")) continue;
    bits[layer["name"].get<std::string>()] =
        layer["bits"] == 0 ? std::string("raw") : layer["bits"].dump();
  }
  return bits;
}

std::string InspectText(const v1::Package& package) {
  std::string text = absl::StrCat(package.name(), package.tag().empty() ? "" : ":", package.tag(),
                                  "\n", "digest     ", package.digest(), "\n", "size       ",
                                  FormatBytes(package.bytes()), "\n", "published  ",
                                  Time(package.publish_time()), " UTC\n");
  if (!package.owner().empty()) absl::StrAppend(&text, "owner      ", package.owner(), "\n");
  const OrderedJson config = OrderedJson::parse(package.config_json(), nullptr, false);
  if (config.is_object()) {
    for (const char* field : {"architecture", "budget", "recipe", "quality", "device_class",
                              "quantizer_version", "inputs"}) {
      if (config.contains(field)) absl::StrAppend(&text, field, ": ", config[field].dump(), "\n");
    }
  }
  if (config.is_object() && config.value("simulated", false)) {
    absl::StrAppend(&text, kSimulated, "\n");
  }
  absl::StrAppend(
      &text, "provenance: ", package.provenance_json().empty() ? "none" : package.provenance_json(),
      "\nsignatures: ", package.signature_json_size(), "\n");
  for (const v1::PackageEvaluation& evaluation : ParseEvaluations(package.evaluation_json())) {
    absl::StrAppend(&text, "\nevaluation\n", FormatEvaluation(evaluation));
  }
  const std::map<std::string, std::string> bits = BitsOf(config);
  Table table({"BLOB", ">BITS", ">SIZE", "DIGEST"});
  for (const v1::Descriptor& layer : package.layers()) {
    const auto title = layer.annotations().find("org.opencontainers.image.title");
    const std::string name =
        title == layer.annotations().end() ? layer.media_type() : title->second;
    const auto width = bits.find(name);
    table.Add({name, width == bits.end() ? "" : width->second, FormatBytes(layer.size()),
               layer.digest()});
  }
  return absl::StrCat(text, "\n", table.ToString());
}

absl::Status Inspect(Context& context, PackageClient& client, const std::string& text) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(text));
  SA_ASSIGN_OR_RETURN(const v1::Package package, client.Get(reference));
  context.out << (context.json ? InspectJson(package).dump(2) + "\n" : InspectText(package));
  return absl::OkStatus();
}

absl::Status Tag(Context& context, PackageClient& client, const std::string& from,
                 const std::string& to, const std::string& owner) {
  SA_ASSIGN_OR_RETURN(const std::string source, NormalizeReference(from));
  SA_ASSIGN_OR_RETURN(const std::string target, NormalizeReference(to));
  SA_ASSIGN_OR_RETURN(const v1::Package package, client.Tag(source, target, "", owner));
  context.out << target << " is " << package.digest();
  if (!package.owner().empty()) context.out << ", owned by " << package.owner();
  context.out << "\n";
  return absl::OkStatus();
}

absl::Status Remove(Context& context, PackageClient& client, const std::string& text) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(text));
  SA_RETURN_IF_ERROR(client.Delete(reference));
  context.out << "removed " << reference << "; `shiftadd gc` frees what nothing needs any more\n";
  return absl::OkStatus();
}

absl::Status CollectGarbage(Context& context, PackageClient& client, bool dry_run) {
  SA_ASSIGN_OR_RETURN(const v1::CollectGarbageResponse response, client.CollectGarbage(dry_run));
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
  auto owner = std::make_shared<std::string>();
  auto dry_run = std::make_shared<bool>(false);

  CLI::App* packages = app.add_subcommand("packages", "List published packages");
  AddJsonFlag(packages, context);
  packages->callback([&context] {
    context.action = [&context] {
      return WithPackages(context, [&](PackageClient& c) { return ListPackages(context, c); });
    };
  });

  CLI::App* inspect = app.add_subcommand("inspect", "Show a package");
  inspect->add_option("package", *first, "NAME[:TAG] or NAME@DIGEST")->required();
  AddJsonFlag(inspect, context);
  inspect->callback([&context, first] {
    context.action = [&context, first] {
      return WithPackages(context, [&](PackageClient& c) { return Inspect(context, c, *first); });
    };
  });

  CLI::App* tag = app.add_subcommand("tag", "Give a package another name");
  tag->add_option("source", *first, "NAME[:TAG] or NAME@DIGEST")->required();
  tag->add_option("target", *second, "NAME[:TAG]")->required();
  tag->add_option("--owner", *owner, "Whose the name is from now on (admins only)");
  tag->callback([&context, first, second, owner] {
    context.action = [&context, first, second, owner] {
      return WithPackages(
          context, [&](PackageClient& c) { return Tag(context, c, *first, *second, *owner); });
    };
  });

  CLI::App* rm = app.add_subcommand("rm", "Remove a name of a package");
  rm->add_option("package", *first, "NAME[:TAG]")->required();
  rm->callback([&context, first] {
    context.action = [&context, first] {
      return WithPackages(context, [&](PackageClient& c) { return Remove(context, c, *first); });
    };
  });

  CLI::App* gc = app.add_subcommand("gc", "Delete blobs that nothing refers to");
  gc->add_flag("--dry-run", *dry_run, "Only say how much it would free");
  AddJsonFlag(gc, context);
  gc->callback([&context, dry_run] {
    context.action = [&context, dry_run] {
      return WithPackages(
          context, [&](PackageClient& c) { return CollectGarbage(context, c, *dry_run); },
          absl::Minutes(10));
    };
  });

  for (CLI::App* command : {packages, inspect, tag, rm, gc}) AddPackagerFlag(command, context);
}

}  // namespace shiftadd::cli
