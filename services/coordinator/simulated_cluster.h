// For tests: a coordinator over a real SQLite file with workers whose results are computed instead
// of measured.
#ifndef SHIFTADD_SERVICES_COORDINATOR_SIMULATED_CLUSTER_H_
#define SHIFTADD_SERVICES_COORDINATOR_SIMULATED_CLUSTER_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "services/coordinator/coordinator.h"

namespace shiftadd::coordinator {

// Remembers what it was asked; every blob is 1000 bytes.
class RecordingPublisher : public Publisher {
 public:
  absl::StatusOr<std::string> Publish(const v1::PublishPackageRequest& request) override;
  absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests) override;
  absl::Status Unpin(const std::string& owner) override;
  absl::StatusOr<uint64_t> BlobSize(const std::string& digest) override;
  // The last one that was published, whatever the reference; "NAME@DIGEST" must be its own.
  absl::StatusOr<v1::Package> GetPackage(const std::string& reference) override;
  absl::Status Attach(const std::string& reference, const std::string& media_type,
                      const std::string& document_json) override;

  absl::Status fault;          // answered by everything while it is not OK
  std::set<std::string> gone;  // blobs that have been collected
  std::vector<v1::PublishPackageRequest> published;
  std::vector<std::pair<std::string, std::string>> attached;  // reference, document
  std::map<std::string, std::vector<std::string>> pins;
};

struct SimulatedModel {
  uint32_t blocks = 6;
  uint32_t text_windows = 1000;  // that an uploaded text gives
  double uniform_kl = 0.5;       // a window's, for any "uniform" variant; "mixed": 0.25
  double refined_kl = 0.125;     // for any "refined" one
};

class SimulatedCluster {
 public:
  explicit SimulatedCluster(SimulatedModel model = {});
  ~SimulatedCluster();

  // Closes the database and opens it again, as a coordinator that was killed would.
  void Restart(const std::string& quantizer_version = QuantizerVersion());

  // shiftadd with hessian rms, 3 planes, three parts of calibration and two of held-out windows.
  static v1::SubmitJobRequest Request();
  v1::Job Submit(const v1::SubmitJobRequest& request);
  v1::Job Get(const std::string& job_id);

  // A task for the worker, if there is one now.
  std::optional<v1::Task> Lease(const std::string& worker, const std::string& device = "cpu-avx2");
  std::string idle_reason() const { return idle_reason_; }
  v1::TaskResult Answer(const v1::Task& task) const;
  absl::Status Complete(const std::string& worker, const v1::Task& task);
  absl::Status Fail(const std::string& worker, const v1::Task& task, absl::StatusCode code,
                    const std::string& message);
  absl::StatusOr<bool> Renew(const std::string& worker, const v1::Task& task);  // cancel?

  // Lets `workers` work in turn until nothing is left to do, or `before` says stop.
  void Run(int workers, const std::function<bool()>& before = nullptr);
  // Until the job is in `state` (or has ended).
  void RunTo(const std::string& job_id, v1::JobState state, int workers = 1);

  std::vector<v1::JobEvent> Events(const std::string& job_id);

  std::shared_ptr<FakeClock> clock = std::make_shared<FakeClock>();
  RecordingPublisher publisher;
  std::string source_content;              // what HASH finds in every file of the source
  std::map<std::string, int> store_calls;  // by method, of the test's own thread
  std::unique_ptr<JobStore> store;
  std::unique_ptr<BlobStore> scratch;
  std::unique_ptr<Coordinator> core;
  std::string dir;

 private:
  v1::Plan MakePlan() const;
  const SimulatedModel model_;
  std::string idle_reason_;
};

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_SIMULATED_CLUSTER_H_
