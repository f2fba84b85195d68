// For tests: a real PostgreSQL of their own.
#ifndef SHIFTADD_SERVICES_STORE_POSTGRES_SERVER_H_
#define SHIFTADD_SERVICES_STORE_POSTGRES_SERVER_H_

#include <sys/types.h>

#include <string>

namespace shiftadd {

// PostgreSQL 15 in a temporary folder, on a Unix socket only, with a password. As root it runs as
// another user. Ends with the object, and with the process. Aborts the test program where it cannot
// be started: a machine that runs the tests has it (deploy/setup.sh test-packages).
class PostgresServer {
 public:
  // Tests need not survive a power cut; `durable`: as it is run in earnest, with fsync and its own
  // defaults for memory.
  explicit PostgresServer(bool durable = false);
  ~PostgresServer();
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // The one of this test program, started when it is first asked for.
  static PostgresServer& Shared();

  // kill -9 of the whole server, or an orderly end; nothing is left running.
  void Kill();
  void Stop();
  void Start();

  // A URL to a fresh database.
  std::string NewDatabase();
  // Deletes what NewDatabase has made so far, whoever is connected to it.
  void DropDatabases();
  // To an existing one; `options` is appended, as in "&connect_timeout=1".
  std::string Url(const std::string& database, const std::string& options = "") const;
  // The path of one of its programs, such as pg_dump.
  static std::string Program(const std::string& name);
  static const char* Password() { return "s3cr-et/pass:word"; }
  // Runs psql as the superuser; aborts unless it succeeds. What it printed, without headers.
  std::string Sql(const std::string& database, const std::string& sql) const;
  const std::string& dir() const { return dir_; }
  // Of its first process, the parent of all others.
  pid_t pid() const { return pid_; }

 private:
  void End(int signal);

  const bool durable_;
  std::string dir_;
  uid_t uid_ = 0;
  gid_t gid_ = 0;
  pid_t pid_ = -1;
  int databases_ = 0, dropped_ = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_POSTGRES_SERVER_H_
