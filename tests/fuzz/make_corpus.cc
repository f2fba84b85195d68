// Writes the corpora of the fuzz targets that are more than text: run once, and again when formats
// change; what a fuzzer found on the way lies beside them.
//   make_fuzz_corpus FOLDER GOLDEN_FOLDER
//   make_fuzz_corpus --check FOLDER    fails unless every RPC has its requests in FOLDER/rpc
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "shiftadd/v1/generate.pb.h"
#include "shiftadd/v1/job.pb.h"
#include "shiftadd/v1/package.pb.h"
#include "shiftadd/v1/task.pb.h"

namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MessageFactory;

void Write(const std::string& path, const std::string& bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string TextFor(const FieldDescriptor& field) {
  const std::string& name = field.name();
  if (name == "job_id" || name == "parent_job_id") return "JOB_ID";
  if (name == "task_id") return "TASK_ID";
  if (absl::StrContains(name, "digest")) return absl::StrCat("sha256:", std::string(64, '0'));
  if (absl::EndsWith(name, "json")) return R"({"a": [1, null, "b"]})";
  if (name == "reference" || name == "source" || name == "target" || name == "output") return "a:b";
  return "x";
}

// Every field is set, nested ones to a depth.
void Fill(Message* message, int depth) {
  const google::protobuf::Reflection* reflection = message->GetReflection();
  const Descriptor* type = message->GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* f = type->field(i);
    const bool many = f->is_repeated();
    if (f->real_containing_oneof() != nullptr &&
        reflection->HasOneof(*message, f->real_containing_oneof()))
      continue;
    switch (f->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        if (depth > 0) {
          Fill(many ? reflection->AddMessage(message, f) : reflection->MutableMessage(message, f),
               depth - 1);
        }
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        many ? reflection->AddString(message, f, TextFor(*f))
             : reflection->SetString(message, f, TextFor(*f));
        break;
      case FieldDescriptor::CPPTYPE_INT32:
        many ? reflection->AddInt32(message, f, 3) : reflection->SetInt32(message, f, 3);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        many ? reflection->AddInt64(message, f, 3) : reflection->SetInt64(message, f, 3);
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        many ? reflection->AddUInt32(message, f, 3) : reflection->SetUInt32(message, f, 3);
        break;
      case FieldDescriptor::CPPTYPE_UINT64: {
        const uint64_t value = f->name() == "lease_epoch" ? 1 : 3;
        many ? reflection->AddUInt64(message, f, value) : reflection->SetUInt64(message, f, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_DOUBLE:
        many ? reflection->AddDouble(message, f, 0.5) : reflection->SetDouble(message, f, 0.5);
        break;
      case FieldDescriptor::CPPTYPE_FLOAT:
        many ? reflection->AddFloat(message, f, 0.5F) : reflection->SetFloat(message, f, 0.5F);
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        many ? reflection->AddBool(message, f, true) : reflection->SetBool(message, f, true);
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        many ? reflection->AddEnumValue(message, f, 1) : reflection->SetEnumValue(message, f, 1);
        break;
    }
  }
}

// Every method and the byte that stands for it, in the order of rpc.cc.
template <typename Use>
void ForEachMethod(Use use) {
  int index = 0;
  for (const google::protobuf::FileDescriptor* file :
       {shiftadd::v1::Job::descriptor()->file(), shiftadd::v1::Task::descriptor()->file(),
        shiftadd::v1::Package::descriptor()->file(),
        shiftadd::v1::ModelInfo::descriptor()->file()}) {
    const google::protobuf::ServiceDescriptor& service = *file->service(0);
    for (int m = 0; m < service.method_count(); ++m, ++index) {
      use(*service.method(m), static_cast<char>(index));
    }
  }
}

void WriteRpc(const std::string& dir) {
  ForEachMethod([&](const google::protobuf::MethodDescriptor& method, char head) {
    const std::unique_ptr<Message> message(
        MessageFactory::generated_factory()->GetPrototype(method.input_type())->New());
    Write(absl::StrCat(dir, "/", method.name(), "-empty"), std::string(1, head));
    Fill(message.get(), 4);
    Write(absl::StrCat(dir, "/", method.name()), head + message->SerializeAsString());
  });
}

// A method that is added moves those behind it: the corpus must be made anew.
int CheckRpc(const std::string& dir) {
  int faults = 0;
  ForEachMethod([&](const google::protobuf::MethodDescriptor& method, char head) {
    for (const char* suffix : {"", "-empty"}) {
      const std::string path = absl::StrCat(dir, "/", method.name(), suffix);
      std::ifstream in(path, std::ios::binary);
      if (in.get() == static_cast<unsigned char>(head)) continue;
      std::fprintf(stderr, "%s: expected it to begin with byte %d: run make_fuzz_corpus\n",
                   path.c_str(), head);
      ++faults;
    }
  });
  return faults == 0 ? 0 : 1;
}

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER GOLDEN_FOLDER\n", argv[0]);
    return 2;
  }
  if (std::string(argv[1]) == "--check") return CheckRpc(std::string(argv[2]) + "/rpc");
  const std::string dir = argv[1], golden = argv[2];
  WriteRpc(dir + "/rpc");
  const nlohmann::json chats = ReadJson(golden + "/chat_templates.json"),
                       tokenizers = ReadJson(golden + "/tokenizers.json");
  for (const auto& [name, text] : chats["templates"].items()) {
    Write(dir + "/chat_template/" + name, text.get<std::string>());
  }
  for (const nlohmann::json& entry : tokenizers["entries"]) {
    const nlohmann::json& tokenizer = entry["tokenizer"];
    Write(dir + "/tokenizer/" + entry["name"].get<std::string>(),
          tokenizer.is_string() ? tokenizer.get<std::string>() : tokenizer.dump());
  }
  return 0;
}
