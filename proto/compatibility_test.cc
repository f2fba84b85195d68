// Guards the wire: everything in the committed descriptor set must still be there with the same
// number and type. After an addition that has been released, renew it:
//   protoc -Iproto --include_imports --descriptor_set_out=proto/baseline.binpb
//   proto/shiftadd/v1/*.proto
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <fstream>

#include "shiftadd/v1/generate.pb.h"
#include "shiftadd/v1/job.pb.h"
#include "shiftadd/v1/package.pb.h"
#include "shiftadd/v1/task.pb.h"

namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::MethodDescriptor;

// Linked-in descriptors register when their file is used.
void LinkAllFiles() {
  shiftadd::v1::Job::descriptor();
  shiftadd::v1::Task::descriptor();
  shiftadd::v1::Package::descriptor();
  shiftadd::v1::GenerateRequest::descriptor();
}

std::string TypeOf(const FieldDescriptor& field) {
  std::string type = field.type_name();
  if (field.message_type() != nullptr) type += " " + field.message_type()->full_name();
  if (field.enum_type() != nullptr) type += " " + field.enum_type()->full_name();
  return type + (field.is_repeated() ? " repeated" : "");
}

void CheckMessage(const Descriptor& old) {
  const Descriptor* now = DescriptorPool::generated_pool()->FindMessageTypeByName(old.full_name());
  ASSERT_NE(now, nullptr) << old.full_name() << " is gone";
  for (int i = 0; i < old.field_count(); ++i) {
    const FieldDescriptor& field = *old.field(i);
    const FieldDescriptor* same = now->FindFieldByNumber(field.number());
    ASSERT_NE(same, nullptr) << field.full_name() << " = " << field.number() << " is gone";
    EXPECT_EQ(same->name(), field.name()) << field.full_name();
    EXPECT_EQ(TypeOf(*same), TypeOf(field)) << field.full_name();
  }
  for (int i = 0; i < old.nested_type_count(); ++i) CheckMessage(*old.nested_type(i));
}

void CheckEnum(const EnumDescriptor& old) {
  const EnumDescriptor* now = DescriptorPool::generated_pool()->FindEnumTypeByName(old.full_name());
  ASSERT_NE(now, nullptr) << old.full_name() << " is gone";
  for (int i = 0; i < old.value_count(); ++i) {
    const auto* value = now->FindValueByNumber(old.value(i)->number());
    ASSERT_NE(value, nullptr) << old.value(i)->full_name() << " is gone";
    EXPECT_EQ(value->name(), old.value(i)->name());
  }
}

void CheckFile(const FileDescriptor& old) {
  for (int i = 0; i < old.message_type_count(); ++i) CheckMessage(*old.message_type(i));
  for (int i = 0; i < old.enum_type_count(); ++i) CheckEnum(*old.enum_type(i));
  for (int s = 0; s < old.service_count(); ++s) {
    for (int m = 0; m < old.service(s)->method_count(); ++m) {
      const MethodDescriptor& method = *old.service(s)->method(m);
      const MethodDescriptor* now =
          DescriptorPool::generated_pool()->FindMethodByName(method.full_name());
      ASSERT_NE(now, nullptr) << method.full_name() << " is gone";
      EXPECT_EQ(now->input_type()->full_name(), method.input_type()->full_name())
          << method.full_name();
      EXPECT_EQ(now->output_type()->full_name(), method.output_type()->full_name())
          << method.full_name();
      EXPECT_EQ(now->client_streaming(), method.client_streaming()) << method.full_name();
      EXPECT_EQ(now->server_streaming(), method.server_streaming()) << method.full_name();
    }
  }
}

TEST(Compatibility, NothingOfTheBaselineIsGoneOrChanged) {
  LinkAllFiles();
  std::ifstream in(SHIFTADD_SOURCE_DIR "/proto/baseline.binpb", std::ios::binary);
  google::protobuf::FileDescriptorSet set;
  ASSERT_TRUE(set.ParseFromIstream(&in));
  DescriptorPool pool;
  int checked = 0;
  for (const auto& file : set.file()) {
    const FileDescriptor* old = pool.BuildFile(file);
    ASSERT_NE(old, nullptr) << file.name();
    if (old->package() != "shiftadd.v1") continue;
    CheckFile(*old);
    ++checked;
  }
  EXPECT_EQ(checked, 4);
}

}  // namespace
