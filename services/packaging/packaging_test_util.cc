#include "services/packaging/packaging_test_util.h"

#include <cstdlib>
#include <filesystem>

#include "services/base/digest.h"
#include "services/packaging/package_format.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;

const char* const kTitles[] = {"block.0.attention.q", "head", "unquantized", "tokenizer.json"};

std::string Content(const std::string& title, const std::string& variant) {
  // Everything but the layer is the same for all variants, as tokenizers are.
  return title == kTitles[0] ? "planes " + variant : "content of " + title;
}

Descriptor Layer(const std::string& title, const std::string& variant) {
  const std::string content = Content(title, variant);
  return {title == "tokenizer.json" ? kDocumentMediaType : kWeightsMediaType,
          Sha256Digest(content),
          content.size(),
          {{kTitleAnnotation, title}}};
}

}  // namespace

void PackagerFixture::SetUp() {
  std::string pattern = testing::TempDir() + "/packager-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  dir_ = pattern;
  options_.clock = &clock_;
  Restart();
}

void PackagerFixture::TearDown() {
  packager_.reset();
  store_.reset();
  blobs_.reset();
  std::filesystem::remove_all(dir_);
}

void PackagerFixture::Restart() {
  packager_.reset();
  store_.reset();
  blobs_ = OpenOciLayout(dir_ + "/blobs").value();
  store_ = OpenTestPackageStore(dir_).value();
  packager_ = Packager::Start(store_.get(), blobs_.get(), options_).value();
}

PublishSpec PackagerFixture::SpecOnly(const std::string& reference, const std::string& variant) {
  PublishSpec spec;
  spec.reference = reference;
  for (const char* title : kTitles) spec.layers.push_back(Layer(title, variant));
  spec.config_json = json{
      {"format", {{"major", 1}, {"minor", 0}}},
      {"architecture", {{"family", "llama"}}},
      {"recipe", {{"method", "rtn"}}},
      {"budget", {{"planes", 3}}},
      {"layers",
       {{{"name", kTitles[0]},
         {"bits", 3},
         {"rows", 8},
         {"cols", 8},
         {"digest", spec.layers[0].digest}}}},
      {"head", spec.layers[1].digest},
      {"unquantized", spec.layers[2].digest},
      {"tokenizer", spec.layers[3].digest},
      {"quantizer_version", "1"},
      {"device_class",
       "cpu-avx2"}}.dump();
  spec.provenance_json = R"({"job":"job-1"})";
  return spec;
}

PublishSpec PackagerFixture::Spec(const std::string& reference, const std::string& variant) {
  for (const char* title : kTitles) EXPECT_TRUE(blobs_->Put(Content(title, variant)).ok());
  return SpecOnly(reference, variant);
}

std::string PackagerFixture::LayerDigest(const std::string& variant) const {
  return Sha256Digest(Content(kTitles[0], variant));
}

void PackagerFixture::AgeBlobs() {
  for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/blobs/blobs/sha256")) {
    std::filesystem::last_write_time(
        entry.path(), std::filesystem::file_time_type::clock::now() - std::chrono::hours(2));
  }
}

std::string PackagerFixture::Mirrored(const std::string& reference) {
  const auto tags = blobs_->ListTags().value();
  const auto found = tags.find(reference);
  return found == tags.end() ? "" : found->second.value("digest", "");
}

}  // namespace shiftadd::packaging
