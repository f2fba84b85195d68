// A model in its source format: an ArchitectureSpec, weights under canonical names, a tokenizer.
#ifndef SHIFTADD_WORKER_MODEL_MODEL_SOURCE_H_
#define SHIFTADD_WORKER_MODEL_MODEL_SOURCE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/architecture_spec.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {

struct RawTensor {
  DType dtype = DType::kF32;
  absl::string_view bytes;
};

// Weights under canonical names (architecture_spec.h). Thread-safe.
class WeightProvider {
 public:
  virtual ~WeightProvider() = default;
  virtual const ArchitectureSpec& spec() const = 0;
  virtual bool Has(const std::string& name) const = 0;
  // The whole tensor as float32, row-major, finite. NOT_FOUND names what is missing.
  virtual absl::StatusOr<std::vector<float>> Read(const std::string& name) const = 0;
  // Whether ReadRows of the matrix costs no more than the rows: no Read of all of it.
  virtual bool HasRows(const std::string&) const { return false; }
  // Rows [begin, end) of a matrix [rows, cols], as Read gives them. Costs a Read, unless HasRows.
  // INVALID_ARGUMENT: it has another size.
  virtual absl::Status ReadRows(const std::string& name, int64_t rows, int64_t cols, int64_t begin,
                                int64_t end, float* out) const {
    const absl::StatusOr<std::vector<float>> all = Read(name);
    if (!all.ok()) return all.status();
    if (static_cast<int64_t>(all->size()) != rows * cols) {
      return absl::InvalidArgumentError("tensor " + name + ": found " +
                                        std::to_string(all->size()) + " values, expected " +
                                        std::to_string(rows) + " x " + std::to_string(cols));
    }
    std::copy(all->begin() + begin * cols, all->begin() + end * cols, out);
    return absl::OkStatus();
  }
  // The tensor as its file has it, where that is F32, F16 or BF16 in the order that Read gives;
  // nothing otherwise, or if it is missing. Valid while this lives; numbers may not be finite.
  virtual std::optional<RawTensor> Raw(const std::string&) const { return std::nullopt; }
};

// One canonical tensor and where it comes from.
struct SourceTensor {
  std::string name;  // canonical
  TensorInfo info;   // in the source
};

class ModelSource : public WeightProvider {
 public:
  // `path`: a .gguf file or a directory with config.json, *.safetensors and tokenizer.json.
  // Checks every tensor's presence, shape and type; reports all faults in one INVALID_ARGUMENT, one
  // a line. An unsupported architecture is UNIMPLEMENTED and lists those that are supported.
  static absl::StatusOr<std::unique_ptr<ModelSource>> Open(const std::string& path);

  virtual const std::vector<SourceTensor>& tensors() const = 0;
  virtual uint64_t source_bytes() const = 0;
  virtual const std::vector<std::string>& files() const = 0;  // absolute, weights and metadata
  // Canonical documents, the same for GGUF and Hugging Face sources of one model as far as they say
  // the same:
  virtual std::string config_json() const = 0;  // Hugging Face's config.json form
  virtual std::string tokenizer_json()
      const = 0;  // Hugging Face's tokenizer.json form, plus "shiftadd" {chat_template, bos, eos}
  virtual std::string generation_config_json() const = 0;  // eos_token_id, bos_token_id
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_MODEL_SOURCE_H_
