#include "kernels/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "kernels/rotation.h"

namespace shiftadd::kernels {
namespace {

// No dimension beyond this: products of two and a plane count stay far inside int64.
constexpr int64_t kMaxDimension = int64_t{1} << 31;
// A scale is an fp16 number: exponents outside this range could leave float's.
constexpr int kMaxExponent = 32;

bool IsBcq(Encoding e) { return e != Encoding::kInt8Group; }

const char* EncodingName(Encoding e) {
  switch (e) {
    case Encoding::kBcqShift:
      return "bcq/shift";
    case Encoding::kBcqFree:
      return "bcq/free";
    case Encoding::kBcqBlock8:
      return "bcq/block8";
    case Encoding::kInt8Group:
      return "int8/group";
  }
  return "unknown";
}

std::string Found(const char* field, int64_t found, const char* expected) {
  return std::string(field) + " is " + std::to_string(found) + ", expected " + expected;
}

std::string Missing(const PackedMatrix& m, const char* field) {
  return std::string(field) + " is null, " + EncodingName(m.encoding) + " needs it";
}

std::string Unexpected(const PackedMatrix& m, const char* field) {
  return std::string(field) + " is set, " + EncodingName(m.encoding) + " has none";
}

std::string ValidateShape(const PackedMatrix& m) {
  if (m.n < 1 || m.n > kMaxDimension) return Found("n", m.n, "1..2^31");
  if (m.k < 1 || m.k > kMaxDimension) return Found("k", m.k, "1..2^31");
  if (m.group < 1 || (m.group % 32 != 0 && m.group < m.k)) {
    return Found("group", m.group, "a positive multiple of 32, or at least k");
  }
  if (m.group > kMaxDimension) return Found("group", m.group, "at most 2^31");
  if (IsBcq(m.encoding) && (m.q < 1 || m.q > kMaxPlanes)) return Found("q", m.q, "1..8");
  if (!IsBcq(m.encoding) && m.q != 0) return Found("q", m.q, "0 for int8/group");
  if (m.encoding == Encoding::kBcqBlock8 && m.block_rows < 1) {
    return Found("block_rows", m.block_rows, "at least 1 for bcq/block8");
  }
  return "";
}

std::string ValidatePointers(const PackedMatrix& m) {
  const bool shift = m.encoding == Encoding::kBcqShift;
  const bool int8 = m.encoding == Encoding::kInt8Group;
  if (IsBcq(m.encoding) && m.planes == nullptr) return Missing(m, "planes");
  if ((shift || int8) && m.scale == nullptr) return Missing(m, "scale");
  if (shift && m.exponents == nullptr) return Missing(m, "exponents");
  if (IsBcq(m.encoding) && !shift && m.alpha == nullptr) return Missing(m, "alpha");
  if (int8 && m.codes == nullptr) return Missing(m, "codes");
  if ((int8 || m.encoding == Encoding::kBcqBlock8) && m.zeta != nullptr) {
    return Unexpected(m, "zeta");
  }
  if (m.rotation == Rotation::kWht128 && m.signs == nullptr) {
    return "signs is null, rotation wht128 needs it";
  }
  return "";
}

std::string ValidateTable(const PackedMatrix& m) {
  const ExponentTable& t = m.table;
  if (t.q != m.q) return Found("table.q", t.q, ("q = " + std::to_string(m.q)).c_str());
  if (t.count < 1 || t.count > kMaxExponentSets) return Found("table.count", t.count, "1..16");
  for (int s = 0; s < t.count; ++s) {
    const std::string field = "table.exponents[" + std::to_string(s) + "]";
    for (int i = 0; i < t.q; ++i) {
      const int8_t e = t.exponents[s][i];
      if (e < -kMaxExponent || e > kMaxExponent) {
        return Found((field + "[" + std::to_string(i) + "]").c_str(), e, "-32..32");
      }
      if (i > 0 && e > t.exponents[s][i - 1]) return field + " is not in descending order";
    }
  }
  const int64_t groups = m.groups();
  const int64_t stride = (groups + 1) / 2;
  for (int64_t row = 0; row < m.n; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int index = (m.exponents[row * stride + g / 2] >> (4 * (g % 2))) & 15;
      if (index >= t.count) {
        return Found(
            ("exponents[" + std::to_string(row) + ", group " + std::to_string(g) + "]").c_str(),
            index, ("below table.count = " + std::to_string(t.count)).c_str());
      }
    }
  }
  return "";
}

int PlaneBit(const PackedMatrix& m, int plane, int64_t row, int64_t col) {
  const uint32_t word = m.planes[(plane * m.n + row) * m.plane_words() + col / 32];
  return static_cast<int>((word >> (col % 32)) & 1u);
}

// alpha_i of one weight, in float64 (exact).
void ScalesAt(const PackedMatrix& m, int64_t row, int64_t col, double* alpha) {
  const int64_t group = col / m.group;
  const int64_t at = row * m.groups() + group;
  for (int i = 0; i < m.q; ++i) {
    if (m.encoding == Encoding::kBcqShift) {
      const int64_t stride = (m.groups() + 1) / 2;
      const int set = (m.exponents[row * stride + group / 2] >> (4 * (group % 2))) & 15;
      alpha[i] =
          std::ldexp(static_cast<double>(HalfToFloat(m.scale[at])), m.table.exponents[set][i]);
    } else if (m.encoding == Encoding::kBcqFree) {
      alpha[i] = HalfToFloat(m.alpha[at * m.q + i]);
    } else {
      const int64_t row_blocks = (m.n + m.block_rows - 1) / m.block_rows;
      alpha[i] = HalfToFloat(m.alpha[((col / 8) * row_blocks + row / m.block_rows) * m.q + i]);
    }
  }
}

void DequantizeRow(const PackedMatrix& m, int64_t row, double* out) {
  double alpha[kMaxPlanes];
  for (int64_t col = 0; col < m.k; ++col) {
    const int64_t at = row * m.groups() + col / m.group;
    if (m.encoding == Encoding::kInt8Group) {
      out[col] = static_cast<double>(HalfToFloat(m.scale[at])) * m.codes[row * m.k + col];
      continue;
    }
    if (col % 8 == 0) ScalesAt(m, row, col, alpha);
    double sum = 0;
    for (int i = 0; i < m.q; ++i) {
      const int p = PlaneBit(m, i, row, col);
      sum += alpha[i] * (m.zeta != nullptr ? 2 * p : 2 * p - 1);
    }
    out[col] = m.zeta != nullptr ? sum + HalfToFloat(m.zeta[at]) : sum;
  }
}

// The same numbers by a table of the 2^q sums of each run of inputs that share their scales.
void DequantizeRowByTable(const PackedMatrix& m, int64_t row, double* out) {
  const bool int8 = m.encoding == Encoding::kInt8Group;
  const int64_t run = m.encoding == Encoding::kBcqBlock8 ? 8 : std::min(m.group, m.k);
  if (!int8 && (int64_t{1} << m.q) > 2 * run) return DequantizeRow(m, row, out);
  const int64_t words = m.plane_words();
  const uint32_t* const planes = int8 ? nullptr : m.planes + row * words;
  double alpha[kMaxPlanes], table[1 << kMaxPlanes];
  for (int64_t begin = 0; begin < m.k; begin += run) {
    const int64_t end = std::min(m.k, begin + run), at = row * m.groups() + begin / m.group;
    if (int8) {
      const double scale = HalfToFloat(m.scale[at]);
      for (int64_t col = begin; col < end; ++col) out[col] = scale * m.codes[row * m.k + col];
      continue;
    }
    ScalesAt(m, row, begin, alpha);
    const double zeta = m.zeta != nullptr ? HalfToFloat(m.zeta[at]) : 0;
    for (int code = 0; code < 1 << m.q; ++code) {
      double sum = 0;
      for (int i = 0; i < m.q; ++i) {
        const int p = (code >> i) & 1;
        sum += alpha[i] * (m.zeta != nullptr ? 2 * p : 2 * p - 1);
      }
      table[code] = m.zeta != nullptr ? sum + zeta : sum;
    }
    for (int64_t col = begin; col < end; ++col) {
      uint32_t code = 0;
      for (int i = 0; i < m.q; ++i)
        code |= ((planes[i * m.n * words + col / 32] >> (col % 32)) & 1u) << i;
      out[col] = table[code];
    }
  }
}

}  // namespace

ExponentTable DefaultExponentTable(int q) {
  static constexpr int8_t kTwo[][2] = {{0, -1}, {0, 0}, {0, -2}};
  static constexpr int8_t kThree[][3] = {{0, -1, -2}, {0, 0, -1}, {0, -1, -1},
                                         {0, -1, -3}, {0, 0, -2}, {0, -2, -3}};
  static constexpr int8_t kFour[][4] = {{0, -1, -2, -3}, {0, 0, -1, -2}, {0, -1, -1, -2},
                                        {0, -1, -2, -2}, {0, 0, -1, -1}, {0, -1, -2, -4},
                                        {0, 0, 0, -1},   {0, -1, -1, -1}};
  ExponentTable t;
  if (q < 1 || q > kMaxPlanes) return t;
  t.q = q;
  const auto fill = [&t, q](const auto& sets) {
    t.count = static_cast<int>(std::size(sets));
    for (int s = 0; s < t.count; ++s) std::copy_n(sets[s], q, t.exponents[s]);
  };
  if (q == 2) {
    fill(kTwo);
  } else if (q == 3) {
    fill(kThree);
  } else if (q == 4) {
    fill(kFour);
  } else {
    t.count = 1;
    for (int i = 0; i < q; ++i) t.exponents[0][i] = static_cast<int8_t>(-i);
  }
  return t;
}

std::string Validate(const PackedMatrix& m) {
  if (std::string error = ValidateShape(m); !error.empty()) return error;
  if (std::string error = ValidatePointers(m); !error.empty()) return error;
  if (m.encoding == Encoding::kBcqShift) return ValidateTable(m);
  return "";
}

uint64_t StoredBytes(const PackedMatrix& m) {
  const uint64_t n = static_cast<uint64_t>(m.n);
  const uint64_t groups = static_cast<uint64_t>(m.groups());
  const uint64_t zeta = m.zeta != nullptr ? 2 * n * groups : 0;
  const uint64_t planes =
      static_cast<uint64_t>(m.q) * n * static_cast<uint64_t>(m.plane_words()) * 4;
  switch (m.encoding) {
    case Encoding::kBcqShift:
      return planes + 2 * n * groups + n * ((groups + 1) / 2) + zeta;
    case Encoding::kBcqFree:
      return planes + 2 * n * groups * static_cast<uint64_t>(m.q) + zeta;
    case Encoding::kBcqBlock8: {
      const int64_t row_blocks = m.block_rows > 0 ? (m.n + m.block_rows - 1) / m.block_rows : 0;
      return planes + 2 * static_cast<uint64_t>((m.k + 7) / 8 * row_blocks * m.q);
    }
    case Encoding::kInt8Group:
      return n * static_cast<uint64_t>(m.k) + 2 * n * groups;
  }
  return 0;
}

void DequantizeRows(const PackedMatrix& m, int64_t row_begin, int64_t row_end, double* out) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    DequantizeRow(m, row, out + (row - row_begin) * m.k);
  }
}

void DequantizeUnrotated(const PackedMatrix& m, int64_t row_begin, int64_t row_end, float* out) {
  std::vector<double> values(static_cast<size_t>(m.k));
  for (int64_t row = row_begin; row < row_end; ++row) {
    DequantizeRowByTable(m, row, values.data());
    // A row of W = W~ D is D^T applied to the row as a column.
    if (m.rotation == Rotation::kWht128) Unrotate(values.data(), m.k, m.signs);
    std::transform(values.begin(), values.end(), out + (row - row_begin) * m.k,
                   [](double v) { return static_cast<float>(v); });
  }
}

}  // namespace shiftadd::kernels
