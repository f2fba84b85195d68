// OCI manifests and indexes: a package's, a referrer's, and a layout's index.json.
#include <fstream>
#include <string>

#include "services/blob/oci_index.h"
#include "services/packaging/manifest.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/temp_dir.h"

namespace {

// One folder for the life of the process.
const std::string& Layout() {
  static const auto& dir = *new shiftadd::fuzz::TempDir("fuzz-oci");
  static const bool made = shiftadd::blob::InitLayout(dir.path(), dir.path()).ok();
  shiftadd::fuzz::Require(made, "a layout can be made");
  return dir.path();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  shiftadd::packaging::ParseManifest(text).status().IgnoreError();
  shiftadd::packaging::DescriptorsIn(text);
  shiftadd::packaging::ArtifactTypeOf(text);
  std::ofstream(Layout() + "/index.json", std::ios::trunc) << text;
  shiftadd::blob::OciIndex index(Layout(), Layout());
  if (index.List().ok()) {
    // What it can read it can also write: nothing is lost by it.
    shiftadd::fuzz::Require(
        index
            .Put("a:b",
                 {{"mediaType", "m"}, {"digest", "sha256:" + std::string(64, '0')}, {"size", 1}})
            .ok(),
        "an index takes a tag");
    const auto list = index.List();
    shiftadd::fuzz::Require(list.ok() && list->count("a:b") == 1, "the tag is there");
  }
  return 0;
}
