// What every JobStore must do. A store's test instantiates JobStoreConformance with a factory.
#ifndef SHIFTADD_SERVICES_STORE_JOB_STORE_CONFORMANCE_H_
#define SHIFTADD_SERVICES_STORE_JOB_STORE_CONFORMANCE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "services/base/clock.h"
#include "services/store/job_store.h"

namespace shiftadd {

// Opens the store of one test: called again with the same `place`, it must find what was written
// before.
struct JobStoreFactory {
  std::string name;
  bool shared;  // several may be open at one place
  std::function<absl::StatusOr<std::unique_ptr<JobStore>>(
      const std::string& place, std::shared_ptr<const Clock> clock, const StorePolicy& policy)>
      open;
};

class JobStoreConformance : public testing::TestWithParam<JobStoreFactory> {
 protected:
  void SetUp() override;
  void TearDown() override;
  void Reopen();
  // What a second coordinator of the place works with: a store of its own where that can be.
  std::shared_ptr<JobStore> Another();

  JobRecord Create(const std::string& job_id, const std::string& owner = "local", int priority = 0);
  // Moves the job to PROFILING with `count` PROFILE tasks.
  JobRecord Plan(const JobRecord& job, int count);
  LeaseQuery Worker(const std::string& name, const std::string& device = "cpu-avx2");
  // A lease that must be granted.
  TaskRecord Lease(const LeaseQuery& query);
  static LeaseKey KeyOf(const TaskRecord& task);
  void ExpectNoGaps(const std::string& job_id);

  std::string place_;
  std::shared_ptr<FakeClock> clock_ = std::make_shared<FakeClock>();
  std::shared_ptr<JobStore> store_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_JOB_STORE_CONFORMANCE_H_
