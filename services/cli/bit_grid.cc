#include "services/cli/bit_grid.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

struct Mean {
  double planes = 0;  // sum over weights
  double weights = 0;
  void Add(double bits, double count) {
    planes += bits * count;
    weights += count;
  }
  std::string ToString() const { return weights > 0 ? FormatFixed(planes / weights, 2) : "-"; }
};

}  // namespace

void BitGrid::Add(const v1::LayerPlan& layer, uint32_t bits) {
  const auto kind = std::find(kinds_.begin(), kinds_.end(), layer.kind());
  Cell cell;
  cell.block = layer.block();
  cell.kind = static_cast<size_t>(kind - kinds_.begin());
  cell.bits = bits;
  if (bits > 0) {
    cell.weights = static_cast<double>(layer.rows()) * static_cast<double>(layer.cols());
  }
  if (kind == kinds_.end()) kinds_.push_back(layer.kind());
  cells_.push_back(cell);
}

std::string BitGrid::ToString() const {
  std::vector<std::string> headers = {">block"};
  for (const std::string& kind : kinds_) headers.push_back(">" + kind);
  headers.push_back(">mean");
  Table table(headers);
  std::map<uint32_t, std::vector<std::string>> rows;
  std::map<uint32_t, Mean> by_block;
  std::vector<Mean> by_kind(kinds_.size());
  Mean all;
  for (const Cell& cell : cells_) {
    std::vector<std::string>& row = rows[cell.block];
    row.resize(kinds_.size(), "-");
    if (cell.bits == 0) continue;
    row[cell.kind] = absl::StrCat(cell.bits);
    for (Mean* mean : {&by_block[cell.block], &by_kind[cell.kind], &all}) {
      mean->Add(cell.bits, cell.weights);
    }
  }
  for (auto& [block, row] : rows) {
    row.insert(row.begin(), absl::StrCat(block));
    row.push_back(by_block[block].ToString());
    table.Add(row);
  }
  std::vector<std::string> last = {"mean"};
  for (const Mean& mean : by_kind) last.push_back(mean.ToString());
  last.push_back(all.ToString());
  table.Add(last);
  return table.ToString();
}

}  // namespace shiftadd::cli
