// An HTTP server that answers as a test tells it, and breaks off where it is told to.
#ifndef SHIFTADD_SERVICES_BLOB_TESTING_SCRIPTED_HTTP_H_
#define SHIFTADD_SERVICES_BLOB_TESTING_SCRIPTED_HTTP_H_

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace shiftadd::testing {

struct ScriptedRequest {
  std::string method, path;                    // with the query
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

struct ScriptedAnswer {
  int status = 200;
  std::vector<std::string> headers;
  std::string body;
  // Of `body`, send so many bytes and close; negative: all.
  int64_t cut_after = -1;
};

// One connection at a time, each for one request.
class ScriptedHttp {
 public:
  using Script = std::function<ScriptedAnswer(const ScriptedRequest&)>;
  explicit ScriptedHttp(Script script);
  ~ScriptedHttp();
  std::string url() const;
  // What came so far.
  std::vector<ScriptedRequest> requests();

 private:
  void Serve();
  void Answer(int connection);

  const Script script_;
  int listener_ = -1, port_ = 0;
  std::mutex mutex_;
  std::vector<ScriptedRequest> requests_;
  std::thread thread_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_SERVICES_BLOB_TESTING_SCRIPTED_HTTP_H_
