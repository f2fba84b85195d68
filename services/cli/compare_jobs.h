// Runs recipes as jobs, one after another, and measures each at every width.
#ifndef SHIFTADD_SERVICES_CLI_COMPARE_JOBS_H_
#define SHIFTADD_SERVICES_CLI_COMPARE_JOBS_H_

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cli/clients.h"
#include "services/cli/comparison.h"
#include "services/cli/context.h"
#include "services/cli/interrupt.h"

namespace shiftadd::cli {

struct NamedRecipe {
  std::string name;
  v1::Recipe recipe;
};

struct ComparisonPlan {
  std::vector<NamedRecipe> recipes;  // names differ
  std::vector<uint32_t> bits;        // ascending
  v1::JobSpec spec;                  // what all jobs share: source, calibration, evaluation, labels
  std::string package;               // name without a tag
  absl::Duration poll = absl::Milliseconds(500);
  absl::Duration patience = absl::Minutes(2);  // without an answer, before giving up
};

// While it lives, Ctrl-C and SIGTERM cancel the jobs that run and start no more. Not thread-safe.
class ComparisonRun {
 public:
  ComparisonRun(Context& context, const JobClient& jobs, ComparisonPlan plan);

  // A row for every recipe and width, in that order. What goes wrong with one recipe stands in its
  // rows and stops no other. Says on `err` what it is at.
  std::vector<ComparisonRow> Run();
  bool interrupted() const { return guard_.interrupted(); }

  // Removes the packages of rows with figures, and their jobs with the candidates.
  absl::Status Remove(PackageClient& packages, const std::vector<ComparisonRow>& rows);

 private:
  // One job with a candidate for every width, and a child for every width but its own.
  void RunShared(const NamedRecipe& recipe, std::vector<ComparisonRow*> rows);
  // A job of its own for each width: what REFINING makes fits one allocation only.
  void RunApart(const NamedRecipe& recipe, const std::vector<ComparisonRow*>& rows);

  absl::StatusOr<v1::Job> Submit(const NamedRecipe& recipe, const std::vector<uint32_t>& widths,
                                 ComparisonRow* row);
  absl::StatusOr<v1::Job> Publish(const std::string& parent, ComparisonRow* row);
  // `call` once more while a daemon cannot be reached, as when it restarts. It must be one that may
  // be made twice, which a request_id sees to.
  absl::StatusOr<v1::Job> Patiently(const std::function<absl::StatusOr<v1::Job>()>& call) const;
  // Until the job has ended. CANCELLED after Ctrl-C; FAILED_PRECONDITION if it did not succeed.
  absl::StatusOr<v1::Job> Await(const ComparisonRow& row);
  // Waits for the row's job and fills in its figures or its error.
  void Finish(ComparisonRow* row, double seconds);
  double QuantizingSeconds(const std::string& job_id) const;
  void CancelRunning();
  std::string Package(const ComparisonRow& row) const;

  Context& context_;
  const JobClient& jobs_;
  const ComparisonPlan plan_;
  std::set<std::string> running_;  // jobs that were started and have not been seen to end
  InterruptGuard guard_;
};

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_COMPARE_JOBS_H_
