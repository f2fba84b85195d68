#include "worker/packed/packed_blob.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/rotation.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {
namespace {

using kernels::FloatToHalf;
using kernels::HalfToFloat;
using ::testing::HasSubstr;

constexpr int64_t kRows = 3, kCols = 150, kGroups = 2, kWords = 5;  // groups of 128 and 22

ArchitectureSpec TinySpec() {
  ArchitectureSpec s;
  s.vocab = 5;
  s.hidden = 6;
  s.intermediate = 7;
  s.blocks = 1;
  s.heads = 2;
  s.kv_heads = 1;
  s.head_dim = 4;
  return s;
}

// A blob under construction: tests change one thing and look at the message.
struct Draft {
  struct Tensor {
    DType dtype;
    std::vector<int64_t> shape;
    std::string data;
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;

  template <typename T>
  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape,
           const std::vector<T>& values) {
    tensors[name] = {
        dtype, std::move(shape),
        std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
  }
  std::string Write() const {
    std::vector<TensorToWrite> out;
    for (const auto& [name, t] : tensors) out.push_back({name, t.dtype, t.shape, t.data});
    return WriteSafetensors(out, metadata).value();
  }
};

Draft ShiftLayer(int q = 2) {
  std::mt19937 random(1);
  Draft d;
  d.metadata = {{"layer", "blocks.0.attn.q"},
                {"encoding", "bcq/shift"},
                {"q", std::to_string(q)},
                {"rows", "3"},
                {"cols", "150"},
                {"group", "128"},
                {"rotation", "none"}};
  std::vector<uint32_t> planes(q * kRows * kWords);
  for (size_t i = 0; i < planes.size(); ++i)
    planes[i] = random() & (i % kWords == kWords - 1 ? 0x3fffffu : ~0u);
  d.Add("planes", DType::kU32, {q, kRows, kWords}, planes);
  std::vector<uint16_t> scale;
  for (int i = 0; i < kRows * kGroups; ++i) scale.push_back(FloatToHalf(0.25f + 0.125f * i));
  d.Add("scale", DType::kF16, {kRows, kGroups}, scale);
  d.Add("exponents", DType::kU8, {kRows, 1}, std::vector<uint8_t>{0x10, 0x02, 0x21});
  return d;
}

absl::StatusOr<PackedLayer> Parse(const Draft& d, const PackedContext& context = {}) {
  return ParsePackedLayer(d.Write(), "blocks.0.attn.q", kRows, kCols, context, "sha256:abc");
}

std::string Why(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("sha256:abc"));
  return std::string(status.message());
}

std::shared_ptr<UnquantizedTensors> Signs(uint32_t seed) {
  std::mt19937 random(seed);
  auto u = std::make_shared<UnquantizedTensors>();
  for (int i = 0; i < kWords; ++i) u->signs[kCols].push_back(random());
  return u;
}

TEST(PackedLayer, ShiftIsWhatTheFormatSays) {
  const Draft d = ShiftLayer();
  const PackedLayer layer = Parse(d).value();
  EXPECT_FALSE(layer.raw);
  std::vector<float> w(kRows * kCols);
  DequantizeLayerRows(layer, 0, kRows, w.data());
  const auto* planes = reinterpret_cast<const uint32_t*>(d.tensors.at("planes").data.data());
  const int index[kRows][kGroups] = {{0, 1}, {2, 0}, {1, 2}};
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t k = 0; k < kCols; ++k) {
      double expected = 0;
      for (int i = 0; i < 2; ++i) {
        const bool plus = planes[(i * kRows + n) * kWords + k / 32] >> (k % 32) & 1;
        const int e = kernels::DefaultExponentTable(2).exponents[index[n][k / 128]][i];
        expected += std::ldexp(0.25 + 0.125 * (n * kGroups + k / 128), e) * (plus ? 1 : -1);
      }
      ASSERT_EQ(w[n * kCols + k], static_cast<float>(expected)) << n << ", " << k;
    }
  }
  // A package's own exponent sets come before the default.
  PackedContext context;
  context.exponent_sets[2] = kernels::DefaultExponentTable(2);
  context.exponent_sets[2].count = 2;
  EXPECT_THAT(Why(Parse(d, context).status()), HasSubstr("exponents[1, group 0] is 2"));
}

TEST(PackedLayer, RotationTakesItsSignsFromThePackage) {
  Draft d = ShiftLayer();
  const PackedLayer plain = Parse(d).value();
  d.metadata["rotation"] = "wht128";
  EXPECT_THAT(Why(Parse(d).status()), HasSubstr("'signs.150'"));
  PackedContext context;
  context.unquantized = Signs(2);
  PackedLayer rotated = Parse(d, context).value();
  const PackedLayer copy = rotated;
  const std::vector<uint32_t> signs = context.unquantized->signs.at(kCols);
  rotated = PackedLayer();
  context = PackedContext();  // the copy keeps alive what it points into
  std::vector<float> expected(kRows * kCols), found(kRows * kCols);
  DequantizeLayerRows(plain, 0, kRows, expected.data());
  DequantizeLayerRows(copy, 0, kRows, found.data());
  EXPECT_NE(found, expected);
  for (int64_t n = 0; n < kRows; ++n)
    kernels::Unrotate(expected.data() + n * kCols, kCols, signs.data());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-5);
}

TEST(PackedLayer, FreeBlockAndOffset) {
  Draft d = ShiftLayer();
  d.metadata["encoding"] = "bcq/free";
  d.tensors.erase("scale");
  d.tensors.erase("exponents");
  d.Add("alpha", DType::kF16, {kRows, kGroups, 2},
        std::vector<uint16_t>(kRows * kGroups * 2, FloatToHalf(0.5f)));
  EXPECT_EQ(Parse(d).value().matrix.zeta, nullptr);
  d.Add("zeta", DType::kF16, {kRows, kGroups},
        std::vector<uint16_t>(kRows * kGroups, FloatToHalf(-1.0f)));
  const PackedLayer free = Parse(d).value();
  std::vector<float> w(kCols);
  DequantizeLayerRows(free, 1, 2, w.data());
  for (float x : w) EXPECT_TRUE(x == -1 || x == 0 || x == 1) << x;

  d.metadata["encoding"] = "bcq/block8";
  d.metadata["block_rows"] = "2";
  EXPECT_THAT(Why(Parse(d).status()),
              HasSubstr("'alpha' has shape [3, 2, 2], expected [19, 2, 2]"));
  d.Add("alpha", DType::kF16, {19, 2, 2}, std::vector<uint16_t>(76, FloatToHalf(0.5f)));
  EXPECT_THAT(Why(Parse(d).status()), HasSubstr("'zeta' does not belong here"));
  d.tensors.erase("zeta");
  EXPECT_EQ(Parse(d).value().matrix.block_rows, 2);
  d.metadata["block_rows"] = "0";
  EXPECT_THAT(Why(Parse(d).status()), HasSubstr("'block_rows' is '0'"));
}

TEST(PackedLayer, Raw) {
  Draft d;
  d.metadata = {{"layer", "blocks.0.attn.q"}, {"encoding", "raw"}, {"rows", "3"}, {"cols", "150"}};
  std::vector<uint16_t> half(kRows * kCols);
  for (size_t i = 0; i < half.size(); ++i) half[i] = FloatToHalf(0.01f * i);
  d.Add("weight", DType::kF16, {kRows, kCols}, half);
  const PackedLayer layer = Parse(d).value();
  ASSERT_TRUE(layer.raw);
  std::vector<float> row(kCols);
  DequantizeLayerRows(layer, 2, 3, row.data());
  for (int64_t k = 0; k < kCols; ++k) EXPECT_EQ(row[k], HalfToFloat(half[2 * kCols + k]));
  half[7] = 0x7c00;
  d.Add("weight", DType::kF16, {kRows, kCols}, half);
  EXPECT_THAT(Why(Parse(d).status()), HasSubstr("weight"));
}

TEST(PackedLayer, SaysWhatIsWrong) {
  const auto broken = [](const std::function<void(Draft*)>& change) {
    Draft d = ShiftLayer();
    change(&d);
    return Why(Parse(d).status());
  };
  const auto meta = [&](const std::string& key, const std::string& value) {
    return broken([&](Draft* d) { d->metadata[key] = value; });
  };
  EXPECT_THAT(meta("layer", "blocks.1.attn.q"),
              HasSubstr("'blocks.1.attn.q', expected 'blocks.0.attn.q'"));
  EXPECT_THAT(meta("rows", "4"), HasSubstr("'rows' is '4', expected '3'"));
  EXPECT_THAT(meta("cols", "-1"), HasSubstr("'cols'"));
  EXPECT_THAT(meta("q", "9"), HasSubstr("'q' is '9', expected a whole number from 1 to 8"));
  EXPECT_THAT(meta("q", "two"), HasSubstr("'q' is 'two'"));
  EXPECT_THAT(meta("q", "3"), HasSubstr("'planes' has shape [2, 3, 5], expected [3, 3, 5]"));
  EXPECT_THAT(meta("group", "100"), HasSubstr("group is 100"));
  EXPECT_THAT(meta("group", "99999999999999999999"), HasSubstr("'group'"));
  EXPECT_THAT(meta("encoding", "int8/group"), HasSubstr("'encoding' is 'int8/group'"));
  EXPECT_THAT(meta("rotation", "dct"), HasSubstr("'rotation' is 'dct'"));
  EXPECT_THAT(broken([](Draft* d) { d->metadata.erase("encoding"); }),
              HasSubstr("'encoding' is missing"));
  EXPECT_THAT(broken([](Draft* d) { d->tensors.erase("scale"); }), HasSubstr("'scale' is missing"));
  EXPECT_THAT(broken([](Draft* d) { d->tensors["extra"] = d->tensors["scale"]; }),
              HasSubstr("'extra'"));
  EXPECT_THAT(broken([](Draft* d) { d->tensors["planes"].dtype = DType::kI32; }),
              HasSubstr("'planes' is I32"));
  EXPECT_THAT(broken([](Draft* d) { d->tensors["exponents"].data[2] = '\xff'; }),
              HasSubstr("exponents[2, group 0]"));
  EXPECT_THAT(broken([](Draft* d) { d->tensors["scale"].data[3] = '\x7c'; }),
              HasSubstr("'scale', element 1"));
}

TEST(PackedLayer, NoPrefixAndNoFlippedByteCrashes) {
  const std::string whole = ShiftLayer().Write();
  for (size_t size = 0; size < whole.size(); size += 7) {
    EXPECT_FALSE(
        ParsePackedLayer(whole.substr(0, size), "blocks.0.attn.q", kRows, kCols, {}, "x").ok())
        << size;
  }
  std::vector<float> w(kRows * kCols);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x41);
    const auto layer = ParsePackedLayer(flipped, "blocks.0.attn.q", kRows, kCols, {}, "x");
    if (layer.ok()) DequantizeLayerRows(*layer, 0, kRows, w.data());
  }
}

Draft HeadBlob(bool tied) {
  Draft d;
  for (const std::string name : {"embed", "head"}) {
    if (tied && name == "head") continue;
    std::vector<int8_t> codes(30);
    for (int i = 0; i < 30; ++i) codes[i] = static_cast<int8_t>(i - 15);
    d.Add(name + ".codes", DType::kI8, {5, 6}, codes);
    d.Add(name + ".scale", DType::kF16, {5, 1}, std::vector<uint16_t>(5, FloatToHalf(0.5f)));
    d.metadata[name + ".encoding"] = "int8/group";
    d.metadata[name + ".group"] = "128";
  }
  return d;
}

TEST(PackedHead, Int8RawAndTied) {
  ArchitectureSpec s = TinySpec();
  Draft d = HeadBlob(false);
  const PackedHead both = ParsePackedHead(d.Write(), s, "sha256:abc").value();
  ASSERT_TRUE(both.head.has_value());
  std::vector<float> row(6);
  DequantizeLayerRows(*both.head, 4, 5, row.data());
  EXPECT_EQ(row[5], 7.0f);

  s.tied_embeddings = true;
  EXPECT_THAT(Why(ParsePackedHead(d.Write(), s, "sha256:abc").status()),
              HasSubstr("'head.codes' does not belong"));
  EXPECT_FALSE(ParsePackedHead(HeadBlob(true).Write(), s, "sha256:abc").value().head.has_value());
  s.tied_embeddings = false;
  EXPECT_THAT(Why(ParsePackedHead(HeadBlob(true).Write(), s, "sha256:abc").status()),
              HasSubstr("'head.encoding'"));

  d.tensors.erase("head.codes");
  d.tensors.erase("head.scale");
  d.metadata["head.encoding"] = "raw";
  d.Add("head", DType::kF32, {5, 6}, std::vector<float>(30, 1.5f));
  EXPECT_TRUE(ParsePackedHead(d.Write(), s, "sha256:abc").value().head->raw);
  s.vocab = 6;
  EXPECT_THAT(Why(ParsePackedHead(d.Write(), s, "sha256:abc").status()),
              HasSubstr("[5, 6], expected [6, 6]"));
  d.metadata["head.encoding"] = "bcq/free";
  s.vocab = 5;
  EXPECT_THAT(Why(ParsePackedHead(d.Write(), s, "sha256:abc").status()),
              HasSubstr("'head.encoding' is 'bcq/free'"));
}

TEST(Unquantized, NormsBiasesAndSigns) {
  ArchitectureSpec s = TinySpec();
  s.qkv_bias = s.o_bias = s.mlp_bias = true;
  Draft d;
  for (const auto& [name, size] : UnquantizedShapes(s))
    d.Add(name, DType::kF32, {size}, std::vector<float>(size, 2.0f));
  EXPECT_EQ(d.tensors.size(), 10u);
  d.Add("signs.6", DType::kU32, {1}, std::vector<uint32_t>{5});
  d.Add("signs.40", DType::kU32, {2}, std::vector<uint32_t>{1, 2});
  const auto u = ParseUnquantized(d.Write(), s, "sha256:abc").value();
  EXPECT_EQ(u->values.at("blocks.0.attn.q.bias").size(), 8u);
  EXPECT_EQ(u->values.at("blocks.0.attn.k.bias").size(), 4u);
  EXPECT_EQ(u->values.at("blocks.0.mlp.up.bias").size(), 7u);
  EXPECT_EQ(u->signs.at(40), (std::vector<uint32_t>{1, 2}));

  const auto broken = [&](const std::function<void(Draft*)>& change) {
    Draft copy = d;
    change(&copy);
    return Why(ParseUnquantized(copy.Write(), s, "sha256:abc").status());
  };
  EXPECT_THAT(broken([](Draft* x) { x->tensors.erase("final_norm"); }),
              HasSubstr("'final_norm' is missing"));
  EXPECT_THAT(broken([](Draft* x) { x->tensors["mystery"] = x->tensors["final_norm"]; }),
              HasSubstr("'mystery'"));
  EXPECT_THAT(broken([](Draft* x) { x->tensors["signs.70"] = x->tensors["signs.40"]; }),
              HasSubstr("expected [3]"));
  EXPECT_THAT(broken([](Draft* x) { x->tensors["signs.x"] = x->tensors["signs.40"]; }),
              HasSubstr("'signs.x'"));
  s.o_bias = false;
  EXPECT_THAT(Why(ParseUnquantized(d.Write(), s, "sha256:abc").status()),
              HasSubstr("'blocks.0.attn.o.bias'"));
}

}  // namespace
}  // namespace shiftadd
