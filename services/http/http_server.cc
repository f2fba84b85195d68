#include "services/http/http_server.h"

#include <sys/socket.h>

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/http/connection.h"
#include "services/http/listen_address.h"
#include "services/http/router.h"
#include "services/http/tls.h"

namespace shiftadd::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

// Connections beyond the limit whose requests are read; more are turned away at once.
constexpr int kRefusals = 16;
constexpr std::chrono::seconds kShutdownGrace(5);
constexpr std::chrono::milliseconds kAcceptRetry(100);

// A connection's thread and whether it is over.
struct Client {
  std::unique_ptr<Connection> connection;
  std::thread thread;
  bool done = false;
};

class ServerImpl : public HttpServer {
 public:
  ServerImpl(const HttpServerOptions& options, Routes routes)
      : options_(options), router_(std::move(routes)), acceptor_(ioc_), retry_(ioc_) {}
  ~ServerImpl() override { Shutdown(); }

  absl::Status Listen(const ListenAddress& address) {
    if (!options_.tls.cert.empty()) {
      tls_ = std::make_unique<TlsContext>(options_.tls);
      SA_RETURN_IF_ERROR(tls_->Load());
    }
    boost::system::error_code e;
    tcp::resolver resolver(ioc_);
    const auto found =
        resolver.resolve(address.host, std::to_string(address.port), tcp::resolver::passive, e);
    if (e) return Failed("cannot resolve", e);
    const tcp::endpoint endpoint = PreferV4(found);
    acceptor_.open(endpoint.protocol(), e);
    if (!e) acceptor_.set_option(tcp::acceptor::reuse_address(true), e);
    if (!e) acceptor_.bind(endpoint, e);
    if (!e) acceptor_.listen(asio::socket_base::max_listen_connections, e);
    if (e) return Failed("cannot listen", e);
    port_ = acceptor_.local_endpoint().port();
    Accept();
    thread_ = std::thread([this] { ioc_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  void Shutdown() override {
    std::call_once(once_, [this] {
      asio::post(ioc_, [this] {
        stopping_ = true;
        boost::system::error_code ignored;
        acceptor_.close(ignored);
        retry_.cancel();
      });
      if (thread_.joinable()) thread_.join();
      StopClients();
    });
  }

 private:
  // "localhost" stands for ::1 and 127.0.0.1; most clients that are told a port try the latter.
  static tcp::endpoint PreferV4(const tcp::resolver::results_type& found) {
    for (const auto& entry : found) {
      if (entry.endpoint().address().is_v4()) return entry.endpoint();
    }
    return found.begin()->endpoint();
  }

  absl::Status Failed(const char* what, const boost::system::error_code& e) const {
    if (e == asio::error::address_in_use) {
      return absl::FailedPreconditionError(
          absl::StrCat("address ", options_.address, " is in use"));
    }
    return absl::FailedPreconditionError(
        absl::StrCat("address ", options_.address, ": ", what, ": ", e.message()));
  }

  void Accept() {
    acceptor_.async_accept([this](boost::system::error_code e, tcp::socket socket) {
      if (stopping_) return;
      if (!e) {
        Take(std::move(socket));
        return Accept();
      }
      // Out of files or memory: it passes, but trying again at once would burn a core.
      spdlog::warn("http: cannot accept on port {}: {}", port_, e.message());
      retry_.expires_after(kAcceptRetry);
      retry_.async_wait([this](boost::system::error_code) {
        if (!stopping_) Accept();
      });
    });
  }

  // Says 503 without a thread and without waiting. What the client has sent already is read first:
  // a socket that is closed over unread bytes takes its answer back.
  static void TurnAway(tcp::socket* socket) {
    static const std::string body = TooManyConnections().body;
    static const std::string answer = absl::StrCat(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: ",
        body.size(), "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n", body);
    boost::system::error_code e;
    socket->non_blocking(true, e);
    std::array<char, 4096> sent;
    socket->read_some(asio::buffer(sent), e);
    socket->write_some(asio::buffer(answer), e);
    socket->shutdown(tcp::socket::shutdown_send, e);
  }

  void Take(tcp::socket socket) {
    Reap();  // one that has just ended makes room
    const std::lock_guard<std::mutex> lock(mutex_);
    const int count = static_cast<int>(clients_.size());
    if (count >= options_.max_connections + kRefusals) {
      if (tls_ == nullptr) TurnAway(&socket);
      return;  // the socket closes itself
    }
    const auto client = clients_.emplace(clients_.end());
    try {
      client->connection =
          Connection::Create(std::move(socket), tls_ == nullptr ? nullptr : tls_->Current(),
                             options_, router_, count >= options_.max_connections);
      client->thread = std::thread([this, client] { Serve(client); });
    } catch (const std::exception& e) {
      // Out of files, memory or threads: this client finds its connection closed, the others stay.
      spdlog::warn("http: no connection on port {}: {}", port_, e.what());
      clients_.erase(client);
    }
  }

  // On the connection's own thread.
  void Serve(std::list<Client>::iterator client) {
    try {
      client->connection->Serve();
    } catch (const std::exception& e) {
      spdlog::error("http: a connection on port {} is cut: {}", port_, e.what());
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      client->done = true;
      ended_.notify_all();
    }
    // Its files are closed now, not when somebody connects.
    asio::post(ioc_, [this] { Reap(); });
  }

  // Joins the threads of connections that are over. On thread_.
  void Reap() {
    std::list<Client> over;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto it = clients_.begin(); it != clients_.end();) {
        const auto next = std::next(it);
        if (it->done) over.splice(over.end(), clients_, it);
        it = next;
      }
    }
    for (Client& client : over) client.thread.join();
  }

  void StopClients() {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      for (Client& client : clients_) client.connection->Stop();
      ended_.wait_for(lock, kShutdownGrace, [this] {
        for (const Client& client : clients_) {
          if (!client.done) return false;
        }
        return true;
      });
      for (Client& client : clients_) {
        if (!client.done) client.connection->Abort();
      }
    }
    // No one adds any more. The lock must be free for the threads to end.
    for (Client& client : clients_) client.thread.join();
    clients_.clear();
  }

  const HttpServerOptions options_;
  const Router router_;
  std::unique_ptr<TlsContext> tls_;  // null: plain text
  asio::io_context ioc_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  int port_ = 0;
  bool stopping_ = false;  // only on thread_
  std::thread thread_;
  std::once_flag once_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::list<Client> clients_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              Routes routes) {
  SA_ASSIGN_OR_RETURN(const ListenAddress address,
                      CheckListenAddress(options.address, options.insecure_beyond_loopback));
  auto server = std::make_unique<ServerImpl>(options, std::move(routes));
  SA_RETURN_IF_ERROR(server->Listen(address));
  return server;
}

}  // namespace shiftadd::http
