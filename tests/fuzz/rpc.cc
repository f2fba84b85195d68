// The request of every RPC, as bytes on a real server: the first byte says which method, the rest
// is the message. JOB_ID in it stands for a job that is there, TASK_ID for a task that worker "x"
// has leased.
#include "services/rpc/rpc.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/base/logging.h"
#include "services/coordinator/services.h"
#include "services/packaging/package_service.h"
#include "services/store/job_store.h"
#include "shiftadd/v1/generate.pb.h"
#include "shiftadd/v1/package.pb.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/temp_dir.h"
#include "worker/serve/generate_service.h"
#include "worker/serve/testing/tiny_server.h"

namespace {

using namespace shiftadd;  // NOLINT: of everything a little

template <typename T>
T OrDie(absl::StatusOr<T> value, const char* what) {
  if (!value.ok()) std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  fuzz::Require(value.ok(), what);
  return *std::move(value);
}

// Publishes to nobody; every blob is there.
class NoPublisher : public coordinator::Publisher {
 public:
  absl::StatusOr<std::string> Publish(const v1::PublishPackageRequest&) override {
    return std::string("sha256:") + std::string(64, '0');
  }
  absl::StatusOr<v1::Package> GetPackage(const std::string&) override {
    return absl::NotFoundError("no package is there");
  }
  absl::Status Attach(const std::string&, const std::string&, const std::string&) override {
    return absl::OkStatus();
  }
  absl::Status Pin(const std::string&, const std::vector<std::string>&) override {
    return absl::OkStatus();
  }
  absl::Status Unpin(const std::string&) override { return absl::OkStatus(); }
  absl::StatusOr<uint64_t> BlobSize(const std::string&) override { return 1000; }
};

struct Method {
  std::string path;
  bool waits;  // may answer late by its nature
};

// All daemons' services in one process.
class Daemons {
 public:
  Daemons() : dir_("fuzz-rpc"), metrics_(std::make_shared<prometheus::Registry>()) {
    spdlog::set_level(spdlog::level::off);
    store_ = OrDie(OpenSqliteJobStore(dir_.path() + "/jobs.db", std::make_shared<SystemClock>()),
                   "a job store opens");
    clock_ = std::make_unique<StoreClock>(store_.get());
    core_ = std::make_unique<coordinator::Coordinator>(store_.get(), &publisher_, nullptr,
                                                       clock_.get());
    jobs_ = std::make_unique<coordinator::JobServiceHandler>(core_.get(), &metrics_, &stop_);
    tasks_ = std::make_unique<coordinator::TaskServiceHandler>(core_.get(), &metrics_, &stop_);
    blobs_ = OrDie(OpenOciLayout(dir_.path() + "/blobs"), "a blob store opens");
    packages_ =
        OrDie(packaging::OpenSqlitePackageStore(dir_.path() + "/packages.db"), "a store opens");
    packager_ =
        OrDie(packaging::Packager::Start(packages_.get(), blobs_.get(), {}), "a packager starts");
    package_service_ = packaging::MakePackageService(packager_.get());
    generate_service_ = NewGenerateService(&tiny_.registry, nullptr, nullptr);
    server_ = OrDie(
        rpc::Server::Start({"127.0.0.1:0"}, {jobs_.get(), tasks_.get(), package_service_.get(),
                                             generate_service_.get()}),
        "a server starts");
    channel_ = rpc::MakeChannel(absl::StrCat("127.0.0.1:", server_->port()));
    AddMethods();
  }

  void Call(uint8_t which, std::string body) {
    // Some calls end the job or its task: what the corpus names is there again after a while.
    if (calls_++ % kRenewal == 0) AddJob();
    const Method& method = methods_[which % methods_.size()];
    absl::StrReplaceAll({{"JOB_ID", job_id_}, {"TASK_ID", task_id_}}, &body);
    grpc::ClientContext context;
    rpc::SetDeadline(&context, method.waits ? absl::Milliseconds(50) : absl::Seconds(20));
    grpc::CompletionQueue queue;
    grpc::GenericStub stub(channel_);
    const auto call = stub.PrepareCall(&context, method.path, &queue);
    int tag = 0;
    void* done = nullptr;
    bool ok = false;
    const auto next = [&] { return queue.Next(&done, &ok) && ok; };
    call->StartCall(&tag);
    next();
    const grpc::Slice slice(body);
    const grpc::ByteBuffer request(&slice, 1);
    call->Write(request, &tag);
    if (next()) {
      call->WritesDone(&tag);
      next();
    }
    grpc::ByteBuffer response;
    do {
      response.Clear();
      call->Read(&response, &tag);
    } while (next());
    grpc::Status status;
    call->Finish(&status, &tag);
    next();
    fuzz::Require(method.waits || status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED,
                  "an answer comes");
    fuzz::Require(status.error_code() != grpc::StatusCode::UNKNOWN, "no handler throws");
  }

 private:
  static constexpr int kRenewal = 64;

  void AddJob() {
    v1::SubmitJobRequest request;
    request.mutable_spec()->set_source("file:///model");
    request.mutable_spec()->set_output("a:b");
    request.mutable_spec()->mutable_budget()->set_planes(3);
    std::vector<FieldFault> faults;
    job_id_ = OrDie(core_->Submit(request, "local", &faults), "a job is taken").job_id();
    fuzz::Require(core_->Tick().ok(), "a job is planned");
    v1::DrainWorkerRequest active;
    active.set_worker_id("x");
    active.set_standing(v1::WORKER_STANDING_ACTIVE);
    core_->DrainWorker(active).IgnoreError();
    v1::LeaseTaskRequest lease;
    lease.set_worker_id("x");
    lease.set_device_class("cpu-avx2");
    const v1::LeaseTaskResponse leased =
        OrDie(core_->Lease(lease, [] { return false; }), "a worker is answered");
    if (leased.has_task()) task_id_ = leased.task().task_id();
  }

  void AddMethods() {
    for (const google::protobuf::FileDescriptor* file :
         {v1::Job::descriptor()->file(), v1::Task::descriptor()->file(),
          v1::Package::descriptor()->file(), v1::ModelInfo::descriptor()->file()}) {
      const google::protobuf::ServiceDescriptor& service = *file->service(0);
      for (int m = 0; m < service.method_count(); ++m) {
        const std::string& name = service.method(m)->name();
        methods_.push_back({absl::StrCat("/", service.full_name(), "/", name),
                            absl::StartsWith(name, "Watch") || name == "LeaseTask" ||
                                name == "Generate" || name == "Score"});
      }
    }
  }

  fuzz::TempDir dir_;
  NoPublisher publisher_;
  coordinator::CoordinatorMetrics metrics_;
  coordinator::StopFlag stop_ = false;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<StoreClock> clock_;
  std::unique_ptr<coordinator::Coordinator> core_;
  std::unique_ptr<coordinator::JobServiceHandler> jobs_;
  std::unique_ptr<coordinator::TaskServiceHandler> tasks_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<packaging::PackageStore> packages_;
  std::unique_ptr<packaging::Packager> packager_;
  std::unique_ptr<grpc::Service> package_service_, generate_service_;
  testing::TinyServer tiny_;
  std::unique_ptr<rpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::vector<Method> methods_;
  std::string job_id_, task_id_;
  int calls_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Daemons& daemons = *new Daemons;
  if (size == 0) return 0;
  daemons.Call(data[0], std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
