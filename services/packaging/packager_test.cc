#include "services/packaging/packager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/packaging/package_format.h"
#include "services/packaging/packaging_test_util.h"
#include "services/packaging/reference.h"

namespace shiftadd::packaging {
namespace {

using absl::StatusCode;
using nlohmann::json;
using testing::HasSubstr;

class PackagerTest : public PackagerFixture {};

TEST_F(PackagerTest, PublishWritesAnOciManifest) {
  const PackageInfo info = packager_->Publish(Spec("m:latest")).value();
  const std::string text = blobs_->Get(info.digest).value();
  const json manifest = json::parse(text);
  EXPECT_EQ(manifest.dump(), text);  // canonical: sorted keys, no spaces
  EXPECT_EQ(manifest["schemaVersion"], 2);
  EXPECT_EQ(manifest["mediaType"], kManifestMediaType);
  EXPECT_EQ(manifest["artifactType"], kPackageArtifactType);
  EXPECT_EQ(manifest["config"]["mediaType"], kConfigMediaType);
  EXPECT_EQ(manifest["layers"].size(), 4u);
  EXPECT_EQ(manifest["layers"][0]["digest"], LayerDigest(""));
  EXPECT_EQ(info.layers[3].annotations.at(kTitleAnnotation), "tokenizer.json");
  EXPECT_EQ(Mirrored("m:latest"), info.digest);
  uint64_t bytes = info.config.size;
  for (const Descriptor& layer : info.layers) bytes += layer.size;
  EXPECT_EQ(info.bytes, bytes);
}

TEST_F(PackagerTest, ProvenanceRefersToThePackage) {
  const PackageInfo info = packager_->Publish(Spec("m:latest")).value();
  const std::string index_digest = Mirrored("m:" + ReferrersTag(info.digest));
  const json index = json::parse(blobs_->Get(index_digest).value());
  ASSERT_EQ(index["manifests"].size(), 1u);
  EXPECT_EQ(index["manifests"][0]["artifactType"], kProvenanceArtifactType);
  const json manifest = json::parse(blobs_->Get(index["manifests"][0]["digest"]).value());
  EXPECT_EQ(manifest["subject"]["digest"], info.digest);
  EXPECT_EQ(manifest["artifactType"], kProvenanceArtifactType);
  for (const json& named : {manifest["config"], manifest["layers"][0]}) {
    EXPECT_EQ(blobs_->Stat(named["digest"]).value(), named["size"].get<uint64_t>());
  }
  EXPECT_EQ(packager_->Get("m:latest")->provenance_json, R"({"job":"job-1"})");
}

TEST_F(PackagerTest, EvaluationsStayWithThePackage) {
  const PackageInfo info = packager_->Publish(Spec("m:latest")).value();
  const std::string digest =
      packager_->Attach("m@" + info.digest, kEvaluationArtifactType, R"({"b":1,"a":2})").value();
  ASSERT_TRUE(packager_->Attach("m:latest", kEvaluationArtifactType, R"({"a":3})").ok());
  EXPECT_EQ(packager_->Attach("m:latest", kEvaluationArtifactType, R"({"a":2,"b":1})").value(),
            digest);
  const PackageDetails details = packager_->Get("m:latest").value();
  EXPECT_EQ(details.evaluations_json, (std::vector<std::string>{R"({"a":2,"b":1})", R"({"a":3})"}));
  EXPECT_EQ(details.provenance_json, R"({"job":"job-1"})");
  EXPECT_EQ(details.info.digest, info.digest);
  const json index = json::parse(blobs_->Get(Mirrored("m:" + ReferrersTag(info.digest))).value());
  EXPECT_EQ(index["manifests"].size(), 3u);
  const absl::Status other = packager_->Attach("m:latest", "text/plain", "{}").status();
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(other.message(), HasSubstr(kEvaluationArtifactType));
  EXPECT_EQ(packager_->Attach("m:latest", kEvaluationArtifactType, "[]").status().code(),
            StatusCode::kInvalidArgument);
}

TEST_F(PackagerTest, TheDigestDependsOnContentAlone) {
  const PackageInfo first = packager_->Publish(Spec("m:latest")).value();
  clock_.Advance(absl::Hours(5));
  PublishSpec other = Spec("n/x:v1");
  other.config_json = json::parse(other.config_json).dump(4);  // the same, written otherwise
  other.provenance_json = R"({"job":"job-2"})";
  EXPECT_EQ(packager_->Publish(other)->digest, first.digest);
  EXPECT_NE(packager_->Publish(Spec("m:latest", "changed"))->digest, first.digest);
}

TEST_F(PackagerTest, PublishingAgainChangesNothing) {
  const PackageInfo first = packager_->Publish(Spec("m:latest")).value();
  const size_t blobs = blobs_->List()->size();
  clock_.Advance(absl::Hours(5));
  const PackageInfo again = packager_->Publish(Spec("m:latest")).value();
  EXPECT_EQ(again.digest, first.digest);
  EXPECT_LT(absl::AbsDuration(again.publish_time - first.publish_time), absl::Milliseconds(1));
  EXPECT_EQ(blobs_->List()->size(), blobs);
  EXPECT_EQ(store_->ListProvenance("m", first.digest)->size(), 1u);
}

TEST_F(PackagerTest, AnotherRunsProvenanceIsAdded) {
  PublishSpec spec = Spec("m:latest");
  const std::string digest = packager_->Publish(spec)->digest;
  spec.provenance_json = R"({"job":"job-2"})";
  ASSERT_TRUE(packager_->Publish(spec).ok());
  EXPECT_EQ(packager_->Get("m:latest")->provenance_json, R"({"job":"job-2"})");
  const json index = json::parse(blobs_->Get(Mirrored("m:" + ReferrersTag(digest))).value());
  EXPECT_EQ(index["manifests"].size(), 2u);
  spec.provenance_json = "";
  EXPECT_TRUE(packager_->Publish(spec).ok());
}

TEST_F(PackagerTest, MissingBlobsAreNamedAtOnce) {
  const PublishSpec spec = SpecOnly("m:latest", "absent");
  const absl::Status status = packager_->Publish(spec).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  for (const Descriptor& layer : spec.layers) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(layer.digest));
  }
  EXPECT_TRUE(blobs_->List()->empty());
  PublishSpec wrong_size = Spec("m:latest");
  wrong_size.layers[0].size += 1;
  EXPECT_EQ(packager_->Publish(wrong_size).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(packager_->Resolve("m:latest").status().code(), StatusCode::kNotFound);
}

TEST_F(PackagerTest, MalformedRequestsNameEveryFault) {
  struct Case {
    const char* field;
    std::function<void(PublishSpec*)> damage;
  };
  const auto edit = [](const char* key, const json& value) {
    return [key, value](PublishSpec* s) {
      json config = json::parse(s->config_json);
      config[json::json_pointer(key)] = value;
      s->config_json = config.dump();
    };
  };
  const std::string stranger = Sha256Digest("stranger");
  const Case cases[] = {
      {"reference", [](PublishSpec* s) { s->reference = "M:latest"; }},
      {"expected_digest", [](PublishSpec* s) { s->expected_digest = "sha256:1"; }},
      {"config_json", [](PublishSpec* s) { s->config_json = "{"; }},
      {"config_json", [](PublishSpec* s) { s->config_json = "[]"; }},
      {"config_json", [](PublishSpec* s) { s->config_json = std::string(100'000, '['); }},
      {"config_json",
       [](PublishSpec* s) {  // deep enough to end the stack of who prints it
         s->config_json.replace(
             s->config_json.size() - 1, 1,
             ",\"x\":" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}");
       }},
      {"provenance_json", [](PublishSpec* s) { s->provenance_json = "1"; }},
      {"signature_json[1]",
       [](PublishSpec* s) {
         s->signatures_json = {"{}", "[]"};
       }},
      {"evaluation_json[0]", [](PublishSpec* s) { s->evaluations_json = {"{"}; }},
      {"config_json.format.major", edit("/format/major", 2)},
      {"config_json.format.major", edit("/format", "1")},
      {"config_json.architecture", edit("/architecture", "llama")},
      {"config_json.quantizer_version", edit("/quantizer_version", 1)},
      {"config_json.head", edit("/head", stranger)},
      {"config_json.tokenizer", edit("/tokenizer", "x")},
      {"config_json.layers[0].digest", edit("/layers/0/digest", stranger)},
      {"config_json.layers[0]", edit("/layers/0", 7)},
      {"layers", [](PublishSpec* s) { s->layers.clear(); }},
      {"layers[1].digest", [](PublishSpec* s) { s->layers[1].digest = "sha256:../x"; }},
      {"layers[0].media_type", [](PublishSpec* s) { s->layers[0].media_type = ""; }},
      {"layers[0].annotations", [](PublishSpec* s) { s->layers[0].annotations.clear(); }},
      {"layers[2].annotations",
       [](PublishSpec* s) { s->layers[2].annotations[kTitleAnnotation] = "head"; }},
  };
  for (const Case& c : cases) {
    PublishSpec spec = Spec("m:latest");
    c.damage(&spec);
    const absl::Status status = packager_->Publish(spec).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat(c.field, ": ")));
  }
  PublishSpec both = Spec("m:latest");
  both.reference = "";
  both.provenance_json = "x";
  EXPECT_EQ(CheckPublish(both).size(), 2u);
  // More faults than an answer's headers hold.
  PublishSpec many = Spec("m:latest");
  json config = json::parse(many.config_json);
  for (int i = 0; i < 5000; ++i) config["layers"].push_back(i);
  many.config_json = config.dump();
  EXPECT_EQ(CheckPublish(many).size(), 17u);
  EXPECT_THAT(std::string(packager_->Publish(many).status().message()),
              HasSubstr("and 4984 more faults"));
  EXPECT_TRUE(packager_->List(0, "")->packages.empty());
}

TEST_F(PackagerTest, CompareAndSwap) {
  const std::string a = packager_->Publish(Spec("m:latest", "a"))->digest;
  PublishSpec b = Spec("m:latest", "b");
  b.expected_digest = Sha256Digest("other");
  const absl::Status lost = packager_->Publish(b).status();
  EXPECT_EQ(lost.code(), StatusCode::kAborted);
  EXPECT_THAT(std::string(lost.message()), HasSubstr(a));
  EXPECT_EQ(packager_->Resolve("m:latest").value(), a);
  b.expected_digest = a;
  const std::string b_digest = packager_->Publish(b)->digest;
  EXPECT_EQ(packager_->Resolve("m:latest").value(), b_digest);
  EXPECT_EQ(packager_->Resolve("m@" + a).value(), a);  // still there by digest
  PublishSpec fresh = Spec("m:new", "b");
  fresh.expected_digest = a;
  EXPECT_EQ(packager_->Publish(fresh).status().code(), StatusCode::kAborted);
}

TEST_F(PackagerTest, ATagIsMovedByItsOwnerAlone) {
  const TagMover ann{"ann", /*any=*/false}, bob{"bob", /*any=*/false}, admin{"root", /*any=*/true};
  PublishSpec spec = Spec("m:latest", "a");
  spec.mover = ann;
  const PackageInfo mine = packager_->Publish(spec).value();
  EXPECT_EQ(mine.owner, "ann");
  PublishSpec other = Spec("m:latest", "b");
  other.mover = bob;
  const absl::Status refused = packager_->Publish(other).status();
  EXPECT_EQ(refused.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(refused.message()),
              testing::AllOf(HasSubstr("m:latest belongs to ann"), HasSubstr("bob")));
  EXPECT_EQ(packager_->Resolve("m:latest").value(), mine.digest);
  // Reading and naming it otherwise is everybody's; the new name is his who gave it.
  EXPECT_EQ(packager_->Tag("m:latest", "n:v1", "", bob)->owner, "bob");
  EXPECT_EQ(packager_->Tag("m:latest", "n:v1", "", ann).status().code(),
            StatusCode::kPermissionDenied);
  // The owner is asked before what the tag points at, which is nobody else's business.
  EXPECT_EQ(packager_->Tag("n:v1", "m:latest", Sha256Digest("x"), bob).status().code(),
            StatusCode::kPermissionDenied);
  // An admin moves it, and it stays hers; what he gives away is another's.
  other.mover = admin;
  EXPECT_EQ(packager_->Publish(other)->owner, "ann");
  spec.mover = ann;
  EXPECT_EQ(packager_->Publish(spec)->digest, mine.digest);
  EXPECT_EQ(packager_->Tag("m:latest", "m:latest", "", {"bob", true, /*give=*/true})->owner, "bob");
  EXPECT_EQ(packager_->Publish(spec).status().code(), StatusCode::kPermissionDenied);
  Restart();
  EXPECT_EQ(packager_->Get("m:latest")->info.owner, "bob");
  EXPECT_EQ(packager_->Get("m@" + mine.digest)->info.owner, "");  // by no tag
  EXPECT_EQ(packager_->List(10, "")->packages[1].owner, "bob");
}

TEST_F(PackagerTest, ATagThatNobodyOwnsIsHisWhoMovesIt) {
  ASSERT_EQ(packager_->Publish(Spec("m:latest", "a"))->owner, "");
  EXPECT_EQ(packager_->Tag("m:latest", "m:latest", "", {"ann", /*any=*/false})->owner, "ann");
  EXPECT_EQ(packager_->Tag("m:latest", "m:latest", "", {"", /*any=*/false}).status().code(),
            StatusCode::kPermissionDenied);
  // And who is not asked who he is moves everything, and owns nothing by it.
  EXPECT_EQ(packager_->Publish(Spec("m:latest", "b"))->owner, "ann");
  // A tag that was removed leaves no owner behind.
  ASSERT_TRUE(packager_->Delete("m:latest").ok());
  PublishSpec spec = Spec("m:latest", "b");
  spec.mover = {"bob", /*any=*/false};
  EXPECT_EQ(packager_->Publish(spec)->owner, "bob");
}

TEST_F(PackagerTest, TagsMoveAcrossNames) {
  const std::string digest = packager_->Publish(Spec("m:latest"))->digest;
  const PackageInfo tagged = packager_->Tag("m@" + digest, "org/n:stable", "").value();
  EXPECT_EQ(tagged.name, "org/n");
  EXPECT_EQ(tagged.tag, "stable");
  EXPECT_EQ(packager_->Get("org/n:stable")->provenance_json, R"({"job":"job-1"})");
  EXPECT_EQ(Mirrored("org/n:stable"), digest);
  EXPECT_NE(Mirrored("org/n:" + ReferrersTag(digest)), "");
  EXPECT_EQ(packager_->Tag("m:nope", "m:x", "").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(packager_->Tag("m:latest", "m@" + digest, "").status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(packager_->Tag("m:latest", "m:x", digest).status().code(), StatusCode::kAborted);
  EXPECT_EQ(packager_->Tag("m:latest", "m:x", "zzz").status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(packager_->Tag("m:latest", "org/n:stable", digest).ok());
}

TEST_F(PackagerTest, DeleteRemovesTheTagOnly) {
  const std::string digest = packager_->Publish(Spec("m:latest"))->digest;
  ASSERT_TRUE(packager_->Delete("m:latest").ok());
  EXPECT_EQ(packager_->Delete("m:latest").code(), StatusCode::kNotFound);
  EXPECT_EQ(packager_->Delete("m@" + digest).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Mirrored("m:latest"), "");
  EXPECT_TRUE(blobs_->Stat(digest).ok());
}

TEST_F(PackagerTest, ListGivesEveryTagOnceInOrder) {
  for (int i = 0; i < 7; ++i) {
    ASSERT_TRUE(packager_->Publish(Spec(absl::StrCat("m:t", i))).ok());
    ASSERT_TRUE(packager_->Tag(absl::StrCat("m:t", i), absl::StrCat("a/b:t", i), "").ok());
  }
  std::vector<std::string> seen;
  std::string token;
  int pages = 0;
  do {
    const PackagePage page = packager_->List(3, token).value();
    EXPECT_LE(page.packages.size(), 3u);
    for (const PackageInfo& p : page.packages) seen.push_back(p.name + ":" + p.tag);
    token = page.next_page_token;
    ++pages;
  } while (!token.empty());
  EXPECT_EQ(pages, 5);
  EXPECT_EQ(seen.size(), 14u);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(packager_->List(-1, "").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(packager_->List(1, "garbage").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(packager_->List(1, "\xff").status().code(), StatusCode::kInvalidArgument);
}

TEST_F(PackagerTest, ConcurrentPublishesAgree) {
  std::vector<PublishSpec> specs;
  for (int t = 0; t < 4; ++t) specs.push_back(Spec("m:latest", absl::StrCat(t)));
  const std::string start = packager_->Publish(Spec("m:latest", "start"))->digest;
  std::atomic<int> won{0}, lost{0};
  std::vector<std::thread> threads;
  for (PublishSpec& spec : specs) {
    spec.expected_digest = start;
    threads.emplace_back([&] {
      const auto result = packager_->Publish(spec);
      if (result.ok()) ++won;
      if (absl::IsAborted(result.status())) ++lost;
      EXPECT_TRUE(packager_->Publish(Spec("m:same", "same")).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(won, 1);
  EXPECT_EQ(lost, 3);
  EXPECT_EQ(Mirrored("m:latest"), packager_->Resolve("m:latest").value());
}

TEST_F(PackagerTest, ACrashAtAnyStepLeavesTheOldOrTheNew) {
  const std::string old_digest = packager_->Publish(Spec("m:latest", "old"))->digest;
  for (const std::string step : {"start", "config", "manifest", "provenance", "row", "referrers"}) {
    bool reached = false;
    options_.fail_at = [&](const char* at) {
      if (step != at) return absl::OkStatus();
      reached = true;
      return absl::UnavailableError("crash");
    };
    Restart();
    const PublishSpec spec = Spec("m:latest", step);
    EXPECT_FALSE(packager_->Publish(spec).ok());
    EXPECT_TRUE(reached) << step;
    options_.fail_at = nullptr;
    Restart();
    const PackageDetails found = packager_->Get("m:latest").value();  // whole, whichever it is
    EXPECT_EQ(Mirrored("m:latest"), found.info.digest) << step;
    EXPECT_NE(Mirrored("m:" + ReferrersTag(found.info.digest)), "") << step;
    for (const Descriptor& layer : found.info.layers) EXPECT_TRUE(blobs_->Get(layer.digest).ok());
    const bool committed = step == "row" || step == "referrers";
    EXPECT_EQ(found.info.digest != old_digest, committed) << step;
    EXPECT_TRUE(packager_->Publish(spec).ok()) << step;  // the retry succeeds
    ASSERT_TRUE(packager_->Publish(Spec("m:latest", "old")).ok());
  }
}

TEST_F(PackagerTest, DocumentsAreThereWhenTheTagMoves) {
  PublishSpec spec;
  for (const std::string step : {"provenance", "row", "referrers"}) {
    options_.fail_at = [&](const char* at) {
      return step == at ? absl::UnavailableError("crash") : absl::OkStatus();
    };
    Restart();
    spec = Spec("m:" + step, step);
    spec.signatures_json = {R"({"by":"a"})", R"({"by":"b"})"};
    spec.evaluations_json = {R"({"kl":1})"};
    EXPECT_FALSE(packager_->Publish(spec).ok());
    // As others see it before this packager is started again and mends the index.
    const absl::StatusOr<PackageDetails> found = packager_->Get(spec.reference);
    EXPECT_EQ(found.ok(), step != "provenance") << step;
    if (!found.ok()) continue;
    EXPECT_EQ(found->signatures_json, spec.signatures_json) << step;
    EXPECT_EQ(found->evaluations_json, spec.evaluations_json) << step;
    EXPECT_EQ(found->provenance_json, spec.provenance_json) << step;
    EXPECT_EQ(Mirrored(spec.reference), "") << step;
    EXPECT_EQ(Mirrored("m:" + ReferrersTag(found->info.digest)) != "", step == "referrers");
  }
  options_.fail_at = nullptr;
  Restart();
  ASSERT_TRUE(packager_->Publish(spec).ok());  // again: nothing is there twice
  EXPECT_EQ(packager_->Get(spec.reference)->signatures_json.size(), 2u);
}

TEST_F(PackagerTest, StartMendsTheIndex) {
  const std::string digest = packager_->Publish(Spec("m:latest"))->digest;
  const json foreign = {{"mediaType", kManifestMediaType}, {"digest", digest}, {"size", 1}};
  json stale = foreign;
  stale["artifactType"] = kPackageArtifactType;
  ASSERT_TRUE(blobs_->PutTag("foreign:1", foreign).ok());
  ASSERT_TRUE(blobs_->PutTag("m:deleted", stale).ok());
  ASSERT_TRUE(blobs_->DeleteTag("m:latest").ok());
  Restart();
  EXPECT_EQ(Mirrored("m:latest"), digest);
  EXPECT_EQ(Mirrored("m:deleted"), "");
  EXPECT_EQ(Mirrored("foreign:1"), digest);
}

TEST_F(PackagerTest, OnePackagerAStore) {
  EXPECT_EQ(OpenTestPackageStore(dir_).status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace shiftadd::packaging
