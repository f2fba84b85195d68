#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/progress_view.h"
#include "services/cli/proto_json.h"
#include "services/cli/table.h"
#include "services/cli/units.h"
#include "services/cli/watch.h"

namespace shiftadd::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string Time(const google::protobuf::Timestamp& time) { return FormatUnixTime(time.seconds()); }

int ListJobs(Context& context, int limit) {
  const absl::StatusOr<JobClient> client = ConnectJobs(context);
  if (!client.ok()) return Report(context, client.status());
  Table table({"JOB", "STATE", ">DONE", "CREATED (UTC)", "OUTPUT", "SOURCE"});
  OrderedJson list = OrderedJson::array();
  v1::ListJobsRequest request;
  do {
    request.set_page_size(std::min(limit - static_cast<int>(list.size()), 500));
    const auto response = client->Call(&JobClient::Stub::ListJobs, request);
    if (!response.ok()) return Report(context, response.status());
    for (const v1::Job& job : response->jobs()) {
      list.push_back(ToJson(job));
      table.Add({job.job_id(), StateName(job.state()),
                 absl::StrFormat("%.0f %%", job.progress().ratio() * 100), Time(job.create_time()),
                 job.spec().output(), job.spec().source()});
    }
    request.set_page_token(response->next_page_token());
  } while (!request.page_token().empty() && static_cast<int>(list.size()) < limit);
  if (context.json) {
    context.out << OrderedJson{{"jobs", list}}.dump(2) << "\n";
  } else if (list.empty()) {
    context.out << "no jobs\n";
  } else {
    context.out << table.ToString();
  }
  return kExitOk;
}

int ListWorkers(Context& context) {
  const absl::StatusOr<JobClient> client = ConnectJobs(context);
  if (!client.ok()) return Report(context, client.status());
  const auto response = client->Call(&JobClient::Stub::ListWorkers, v1::ListWorkersRequest());
  if (!response.ok()) return Report(context, response.status());
  if (context.json) {
    context.out << ToJson(*response).dump(2) << "\n";
    return kExitOk;
  }
  Table table({"WORKER", "STATE", "DEVICE", ">MEMORY", "TASK", "LAST SEEN (UTC)"});
  for (const v1::WorkerInfo& worker : response->workers()) {
    const std::string task = worker.task_id().empty()
                                 ? "-"
                                 : absl::StrCat(worker.task_id(), " (", worker.task_kind(), ")");
    table.Add({worker.worker_id(), worker.state(), worker.device_class(),
               FormatBytes(worker.memory_bytes()), task, Time(worker.last_seen())});
  }
  context.out << (response->workers().empty() ? "no workers\n" : table.ToString());
  return kExitOk;
}

int DrainWorker(Context& context, const std::string& worker, v1::WorkerStanding standing) {
  const absl::StatusOr<JobClient> client = ConnectJobs(context);
  if (!client.ok()) return Report(context, client.status());
  v1::DrainWorkerRequest request;
  request.set_worker_id(worker);
  request.set_standing(standing);
  return Report(context, client->Call(&JobClient::Stub::DrainWorker, request).status());
}

// Cancel and retry: one call that answers with the job.
template <typename Request>
int ChangeJob(Context& context, const std::string& job_id,
              grpc::Status (JobClient::Stub::*method)(grpc::ClientContext*, const Request&,
                                                      v1::Job*)) {
  const absl::StatusOr<JobClient> client = ConnectJobs(context);
  if (!client.ok()) return Report(context, client.status());
  Request request;
  request.set_job_id(job_id);
  const absl::StatusOr<v1::Job> job = client->Call(method, request);
  if (!job.ok()) return Report(context, job.status());
  context.out << job->job_id() << " " << StateName(job->state()) << "\n";
  return kExitOk;
}

int Watch(Context& context, const std::string& job_id) {
  const absl::StatusOr<JobClient> client = ConnectJobs(context);
  if (!client.ok()) return Report(context, client.status());
  return WatchJob(context, *client, job_id);
}

// A subcommand whose one argument is a job's id.
CLI::App* AddOnJob(CLI::App& app, Context& context, const char* name, const char* help,
                   int (*action)(Context&, const std::string&)) {
  auto job_id = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("job", *job_id, "The job's id")->required();
  AddCoordinatorFlag(command, context);
  command->callback([&context, job_id, action] {
    context.action = [&context, job_id, action] { return action(context, *job_id); };
  });
  return command;
}

}  // namespace

void AddJobCommands(CLI::App& app, Context& context) {
  auto limit = std::make_shared<int>(50);
  CLI::App* jobs = app.add_subcommand("jobs", "List jobs, newest first");
  jobs->add_option("--limit", *limit, "At most so many")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  AddCoordinatorFlag(jobs, context);
  AddJsonFlag(jobs, context);
  jobs->callback([&context, limit] {
    context.action = [&context, limit] { return ListJobs(context, *limit); };
  });

  AddOnJob(app, context, "watch", "Follow a job; Ctrl-C detaches", Watch);
  AddOnJob(app, context, "cancel", "Cancel a job", [](Context& c, const std::string& id) {
    return ChangeJob<v1::CancelJobRequest>(c, id, &JobClient::Stub::CancelJob);
  });
  AddOnJob(app, context, "retry", "Let a failed job go on where it was",
           [](Context& c, const std::string& id) {
             return ChangeJob<v1::RetryJobRequest>(c, id, &JobClient::Stub::RetryJob);
           });
  CLI::App* workers = app.add_subcommand("workers", "List workers");
  AddCoordinatorFlag(workers, context);
  AddJsonFlag(workers, context);
  workers->callback([&context] { context.action = [&context] { return ListWorkers(context); }; });

  auto worker = std::make_shared<std::string>();
  auto standing = std::make_shared<v1::WorkerStanding>(v1::WORKER_STANDING_DRAINED);
  CLI::App* drain = app.add_subcommand(
      "drain", "Take a worker out of work: it gives its task back and gets no other");
  drain->add_option("worker", *worker, "Its name, as `shiftadd workers` shows it")->required();
  auto* cordon = drain->add_flag_callback(
      "--cordon", [standing] { *standing = v1::WORKER_STANDING_CORDONED; },
      "Let it end its task first");
  drain
      ->add_flag_callback(
          "--undo", [standing] { *standing = v1::WORKER_STANDING_ACTIVE; }, "Give it work again")
      ->excludes(cordon);
  AddCoordinatorFlag(drain, context);
  drain->callback([&context, worker, standing] {
    context.action = [&context, worker, standing] {
      return DrainWorker(context, *worker, *standing);
    };
  });
}

}  // namespace shiftadd::cli
