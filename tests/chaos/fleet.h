// The daemons of one round, and the network between them.
#ifndef SHIFTADD_TESTS_CHAOS_FLEET_H_
#define SHIFTADD_TESTS_CHAOS_FLEET_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/chaos/proxy.h"
#include "tests/chaos/schedule.h"
#include "tests/process.h"

namespace shiftadd::testing {

struct FleetOptions {
  std::string dir;           // of everything that they write
  std::string source_root;   // of models
  std::string postgres_url;  // empty: SQLite
  int coordinators = 1;
  int workers = 1;
  int lease_seconds = 2;
};

// Counts of what was done, by its name and the job's state: "kill worker", "PROFILING".
using Deeds = std::map<std::pair<std::string, std::string>, int>;

// Every connection goes through a proxy of its own. Not thread-safe; Poll must be called often.
class Fleet {
 public:
  explicit Fleet(const FleetOptions& options);
  ~Fleet();

  // Polls until everybody listens. False: somebody does not within three minutes.
  bool AwaitStart();
  // Does one act of a schedule (but kStore, which is not the fleet's).
  void Do(const Act& act, const std::string& job_state);
  // What is due by now: learns ports, sees who has died or stopped at a fail point, starts again
  // who was killed, continues who was stopped, heals connections.
  void Poll(const std::string& job_state);
  // True: nobody is down, stopped or armed, and every connection is sound.
  bool Quiet() const;
  // Ends all disturbance: everybody runs, unarmed, and every connection is sound.
  void Calm(const std::string& job_state);
  // SIGTERM to all workers, then to the coordinators, then to the packager (unless kept). Each has
  // to end by itself with status 0.
  void Terminate(bool keep_packager);

  std::string coordinator_addresses() const;  // for a client
  std::string packager_address() const;
  const std::string& store_dir() const { return store_dir_; }
  // Where its database lies, unless that is PostgreSQL.
  std::string data_dir(Role role) const;
  // SIGSTOP, SIGCONT and the like to every worker.
  void SignalWorkers(int signal);
  const Deeds& deeds() const { return deeds_; }
  // What should not have happened: somebody ended by itself.
  const std::vector<std::string>& faults() const { return faults_; }
  // The ends of all logs.
  std::string Logs() const;

 private:
  struct Daemon {
    Role role;
    int index;
    Process process;
    std::string port_file, log;
    bool known = false;  // its port
    bool over = false;   // ended for good
    absl::Time start_at = absl::InfiniteFuture();
    absl::Time continue_at = absl::InfiniteFuture();
    absl::Duration pause_at_fail_point;  // before it is started again, or goes on
    std::string fail_point;              // it runs with
  };
  struct Link {
    Role from, to;
    int from_index, to_index;
    std::unique_ptr<Proxy> proxy;
    absl::Time sound_at = absl::InfiniteFuture();
  };

  Daemon& Find(Role role, int index);
  std::vector<std::string> Arguments(const Daemon& daemon) const;
  std::string Links(Role from, int from_index, Role to) const;
  void Start(Daemon* daemon, const std::string& fail_point);
  void LearnPort(Daemon* daemon);
  void SeeDeath(Daemon* daemon, const std::string& job_state);
  void SeeStop(Daemon* daemon, const std::string& job_state);
  void Disturb(const Act& act);
  void End(Daemon* daemon);
  void Count(const std::string& deed, const std::string& job_state);

  const FleetOptions options_;
  const std::string store_dir_;
  std::vector<std::unique_ptr<Daemon>> daemons_;
  std::vector<Link> links_;
  Deeds deeds_;
  std::vector<std::string> faults_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_CHAOS_FLEET_H_
