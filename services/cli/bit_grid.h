// Widths of layers as a grid: a row a block, a column a kind of layer.
#ifndef SHIFTADD_SERVICES_CLI_BIT_GRID_H_
#define SHIFTADD_SERVICES_CLI_BIT_GRID_H_

#include <cstdint>
#include <string>
#include <vector>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// The layers may come in any order; a layer that is not there shows as '-'. Not thread-safe.
class BitGrid {
 public:
  // `bits` 0: stays as it is, shows as '-' and counts in no mean.
  void Add(const v1::LayerPlan& layer, uint32_t bits);
  bool empty() const { return cells_.empty(); }
  // With the mean planes of each block and each kind, by weights. Kinds in the order they came in.
  std::string ToString() const;

 private:
  struct Cell {
    uint32_t block = 0;
    size_t kind = 0;  // index
    uint32_t bits = 0;
    double weights = 0;
  };
  std::vector<std::string> kinds_;
  std::vector<Cell> cells_;
};

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_BIT_GRID_H_
