// A local cluster: packager, coordinator and workers as child processes.
#ifndef SHIFTADD_SERVICES_CLI_SUPERVISOR_H_
#define SHIFTADD_SERVICES_CLI_SUPERVISOR_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cli/endpoints.h"

namespace shiftadd::cli {

struct UpOptions {
  std::string data_dir;  // absolute
  int workers = 1;
  int threads = 0;     // a worker's; 0 = cores / workers
  std::string device;  // the workers' --device; empty = their default
  // Ports: -1 = the usual one (7070, 7071) or, if that is taken, any; 0 = any.
  int coordinator_port = -1;
  int packager_port = -1;
  std::vector<std::string> source_roots;  // empty = "/", which only a cluster without certs has
  std::string blobs;                      // a folder or a registry; empty = data_dir/store
  std::string certs;                      // absolute; empty = plain text
  std::string tokens;                     // absolute; empty = none
};

// When a child that died is started again.
struct RestartPolicy {
  absl::Duration first_pause = absl::Milliseconds(500);  // doubles with every death
  absl::Duration longest_pause = absl::Seconds(30);
  int limit = 6;                                     // deaths in a row before it is given up
  absl::Duration calm = absl::Seconds(60);           // living so long forgives earlier deaths
  absl::Duration start_timeout = absl::Seconds(60);  // from exec to /ready
};

// Not thread-safe. The caller has blocked the shutdown signals (services/base/shutdown.h) and holds
// the ClusterLock.
class Supervisor {
 public:
  using Say = std::function<void(const std::string&)>;
  Supervisor(UpOptions options, RestartPolicy policy, Say say);
  // Stops what still runs.
  ~Supervisor();

  // Starts everything in order and waits until all of it is ready; writes the endpoint file. The
  // error names the daemon and ends with the tail of its log. CANCELLED after SIGINT or SIGTERM.
  absl::Status Start();
  // Watches over the children until SIGINT or SIGTERM (OK), or until the coordinator or the
  // packager has died too often. A worker that has is started again when that is asked for
  // (StartAgainFile).
  absl::Status Run();
  // Workers first, then the coordinator, then the packager; removes the endpoint file.
  void Stop();

 private:
  struct Daemon {
    DaemonInfo info;
    std::string binary;                                   // file name
    std::function<std::vector<std::string>()> arguments;  // with the ports that are known by now
    bool has_grpc = true;
    int wanted_port = -1;  // of gRPC, as in UpOptions
    int usual_port = 0, usual_http = 0;
    int deaths = 0;  // in a row
    absl::Time started;
    absl::Time next_start = absl::InfiniteFuture();
  };

  void AddDaemons();
  // Ports to start with: the usual ones as far as they are free, unless `any` shall do.
  static absl::Status ChoosePorts(Daemon& daemon, bool any);
  // Whether somebody has taken a port since it was chosen, and another one would do.
  static bool LostItsPorts(const Daemon& daemon);
  // Until it is ready.
  absl::Status StartFirst(Daemon& daemon);
  absl::Status Launch(Daemon& daemon);
  absl::Status AwaitReady(Daemon& daemon);
  absl::Status ReadPorts(Daemon& daemon);
  absl::Status Failure(const Daemon& daemon, const std::string& what) const;
  absl::Status Reap();
  absl::Status OnDeath(Daemon& daemon, int wait_status);
  void RestartDue();
  // What was given up, where somebody asks for it (StartAgainFile).
  void StartAgainIfAsked();
  void StopDaemon(Daemon& daemon);
  absl::Status WriteEndpoints() const;
  std::string LogOf(const Daemon& daemon) const;
  std::string PortFileOf(const Daemon& daemon) const;

  const UpOptions options_;
  const RestartPolicy policy_;
  const Say say_;
  const std::string blobs_;
  std::vector<Daemon> daemons_;  // in the order of starting
};

// A loopback port that is free now: `wanted` if > 0, else one that the system picks. Ports below 0
// mean `usual` if it is free. FAILED_PRECONDITION if `wanted` is taken.
absl::StatusOr<int> PickPort(int wanted, int usual);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_SUPERVISOR_H_
