#include "services/coordinator/simulated_refine.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"

namespace shiftadd::coordinator {
namespace {

class Simulation {
 public:
  Simulation(const v1::Task& task, BlobStore* scratch)
      : t_(task.refine()), context_(task.context()), scratch_(scratch) {}

  absl::StatusOr<v1::RefineResult> Run() const {
    switch (t_.step()) {
      case v1::REFINE_STEP_HESSIAN:
        return Hessian();
      case v1::REFINE_STEP_FIT:
        return Fit();
      case v1::REFINE_STEP_JOIN:
        return Join();
      default:
        return absl::InvalidArgumentError("refine task without a step");
    }
  }

 private:
  absl::StatusOr<std::string> Get(const std::string& digest) const {
    return scratch_->GetScratch(context_.job_id(), digest);
  }
  absl::StatusOr<std::string> Put(const std::string& text) const {
    return scratch_->PutScratch(context_.job_id(), text);
  }

  // layer -> what it was made from; an error if its shards are not all its rows, in order.
  absl::StatusOr<std::map<std::string, std::string>> Layers() const {
    std::map<std::string, std::string> made;
    std::map<std::string, uint64_t> rows;
    for (const v1::RefinedShard& s : t_.shards()) {
      SA_ASSIGN_OR_RETURN(const std::string text, Get(s.digest()));
      const std::string content = text.substr(text.find(' ') + 1);
      const auto [it, first] = made.emplace(s.layer(), content);
      if (s.row_begin() != rows[s.layer()] || it->second != content) {
        return absl::InternalError(absl::StrCat("shard of ", s.layer(), " at ", s.row_begin(),
                                                ", expected ", rows[s.layer()]));
      }
      rows[s.layer()] = s.row_end();
    }
    for (const auto& [layer, count] : rows) {
      if (count != kRows) return absl::InternalError(absl::StrCat(layer, ": ", count, " rows"));
    }
    return made;
  }

  absl::StatusOr<v1::RefineResult> Hessian() const {
    v1::RefineResult result;
    std::string input = t_.tokens_digest();
    if (input.empty()) {
      SA_ASSIGN_OR_RETURN(input, Get(t_.boundary().digest()));
      const uint32_t from = t_.block() - (t_.input() == 0 ? 1 : 0);
      if (t_.boundary().block() != from || t_.boundary().part() != t_.part()) {
        return absl::InternalError(absl::StrCat("boundary of block ", t_.boundary().block(),
                                                " part ", t_.boundary().part()));
      }
    }
    SA_ASSIGN_OR_RETURN(const auto layers, Layers());
    for (const auto& [layer, content] : layers) absl::StrAppend(&input, "|", layer, ":", content);
    const std::string state = Sha256Digest(input);
    if (t_.input() == 0) {
      result.mutable_boundary()->set_block(t_.block());
      result.mutable_boundary()->set_part(t_.part());
      SA_ASSIGN_OR_RETURN(*result.mutable_boundary()->mutable_digest(), Put(state));
    }
    const bool guided = context_.recipe().hessian() == v1::HESSIAN_GUIDED;
    if (guided && (t_.token_weights().block() != t_.block() ||
                   t_.token_weights().part() != t_.part() || t_.other_token_weights_size() != 2)) {
      return absl::InternalError("token weights of three parts are missing");
    }
    for (const v1::LayerPlan& layer : t_.layers()) {
      if (!guided && result.hessians_size() > 0) break;
      v1::PartialHessian* h = result.add_hessians();
      if (guided) h->set_layer(layer.name());
      h->set_part(t_.part());
      SA_ASSIGN_OR_RETURN(*h->mutable_digest(),
                          Put(absl::StrCat("H ", t_.input(), " ", h->layer(), " of ", state)));
    }
    return result;
  }

  absl::StatusOr<v1::RefineResult> Fit() const {
    v1::RefineResult result;
    for (int i = 0; i < t_.layers_size(); ++i) {
      std::vector<std::string> sums;
      for (const v1::PartialHessian& h : t_.hessians()) {
        if (!h.layer().empty() && h.layer() != t_.layers(i).name()) continue;
        if (h.part() != sums.size()) return absl::InternalError("parts are not in order");
        SA_ASSIGN_OR_RETURN(sums.emplace_back(), Get(h.digest()));
      }
      if (sums.empty()) return absl::InternalError("a layer without a Hessian");
      v1::RefinedShard* s = result.add_shards();
      s->set_layer(t_.layers(i).name());
      s->set_row_begin(t_.layers(i).rows() * t_.shard() / t_.shards_total());
      s->set_row_end(t_.layers(i).rows() * (t_.shard() + 1) / t_.shards_total());
      const std::string content =
          Sha256Digest(absl::StrCat(s->layer(), "@", t_.bits(i), " ", absl::StrJoin(sums, " ")));
      SA_ASSIGN_OR_RETURN(*s->mutable_digest(),
                          Put(absl::StrCat(s->row_begin(), "-", s->row_end(), " ", content)));
    }
    return result;
  }

  absl::StatusOr<v1::RefineResult> Join() const {
    v1::RefineResult result;
    SA_ASSIGN_OR_RETURN(const auto layers, Layers());
    for (int i = 0; i < t_.layers_size(); ++i) {
      v1::LayerReport* report = result.add_layers();
      *report->mutable_layer() = t_.layers(i);
      v1::CandidateReport* c = report->add_candidates();
      c->set_bits(t_.bits(i));
      const auto made = layers.find(t_.layers(i).name());
      if (made == layers.end()) return absl::InternalError("a layer without shards");
      c->set_digest(made->second);
      if (i == 0) report->set_note("refining: plain Hessian");
    }
    return result;
  }

  static constexpr uint64_t kRows = 256;  // of every layer of the simulated model
  const v1::RefineTask& t_;
  const v1::TaskContext& context_;
  BlobStore* const scratch_;
};

}  // namespace

absl::StatusOr<v1::RefineResult> SimulateRefine(const v1::Task& task, BlobStore* scratch) {
  return Simulation(task, scratch).Run();
}

}  // namespace shiftadd::coordinator
