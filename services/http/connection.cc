#include "services/http/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "services/base/ids.h"
#include "services/base/version.h"
#include "services/http/parsed_request.h"
#include "services/http/tls.h"

namespace shiftadd::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;
using Error = beast::error_code;
using std::chrono::seconds;

constexpr uint32_t kMaxHeaderBytes = 32u << 10;
constexpr seconds kIdleTimeout(75);   // between two requests of a kept connection
constexpr seconds kBodyTimeout(60);   // for a whole request body
constexpr seconds kWriteTimeout(30);  // a client that reads nothing for so long is gone
constexpr std::chrono::milliseconds kCancelRetry(20);
constexpr seconds kGoodbye(1);        // for a client's answer to the end of TLS
constexpr seconds kLingerTimeout(2);  // for what a refused client still sends
constexpr uint64_t kLingerBytes = 64u << 20;

constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr char kEventStream[] = "text/event-stream";
constexpr char kEmptyEvent[] = ":\n\n";  // a comment
// Most answers are out before whoever ended its own side is asked whether it is there.
constexpr std::chrono::milliseconds kFirstProbePause(300);

enum class ReadResult { kRequest, kClosed, kRefused };

class ConnectionImpl : public Connection, public StreamWriter {
 public:
  ConnectionImpl(asio::ip::tcp::socket from, std::shared_ptr<asio::ssl::context> tls,
                 const HttpServerOptions& options, const Router& router, bool overloaded)
      : options_(options),
        router_(router),
        overloaded_(overloaded),
        stream_(ioc_, std::move(tls)),
        deadline_(ioc_) {
    Error ignored;
    // Last: until here it is closed by whoever gave it.
    const int fd = from.release(ignored);
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    stream_.socket().assign(
        address.ss_family == AF_INET6 ? asio::ip::tcp::v6() : asio::ip::tcp::v4(), fd, ignored);
    stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    const auto peer = stream_.socket().remote_endpoint(ignored);
    if (!ignored) peer_address_ = peer.address().to_string();
  }

  void Serve() override {
    while (!stopping_ && Handshake()) {
      parser_.emplace();
      head_ = Request();
      head_.id = NewId("req");
      parser_->header_limit(kMaxHeaderBytes);
      parser_->body_limit(options_.max_body_bytes);
      const ReadResult result = ReadRequest();
      if (result != ReadResult::kRequest) break;
      if (!Answer()) break;
      first_ = false;
    }
    if (stream_.encrypted() && greeted_) {
      Run(kGoodbye, [&](auto done) { stream_.async_goodbye(done); });
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    Error ignored;
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
    stream_.socket().close(ignored);
    closed_ = true;
  }

  void Stop() override {
    stopping_ = true;
    asio::post(ioc_, [this] {
      // Nobody waits for an answer, or the client takes what it is sent too slowly.
      if (reading_ || started_) stream_.cancel();
    });
  }

  void Abort() override {
    stopping_ = true;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!closed_) ::shutdown(stream_.socket().native_handle(), SHUT_RDWR);
  }

  // StreamWriter ------------------------------------------------------------------------------
  bool Start(const Response& head) override {
    if (started_) return false;
    started_ = true;
    bhttp::response<bhttp::empty_body> response(static_cast<bhttp::status>(head.status), Version());
    kept_ = KeepAlive();
    FillHead(head, kept_, &response);
    chunked_ = Version() >= 11;
    stream_probe_ = head.content_type == kEventStream ? kEmptyEvent : "";
    if (chunked_) {
      response.chunked(true);
    } else {
      response.keep_alive(false);
    }
    bhttp::response_serializer<bhttp::empty_body> serializer(response);
    alive_ = !Run(kWriteTimeout, [&](auto done) {
      bhttp::async_write_header(stream_, serializer, [done](Error e, size_t) { done(e); });
    });
    return alive_ && !IsHead();
  }

  bool Write(const std::string& data) override {
    if (!started_ || IsHead() || !Alive()) return false;
    if (data.empty()) return true;  // an empty chunk would end the response
    const asio::const_buffer bytes(data.data(), data.size());
    alive_ = !(chunked_ ? WriteBuffers(bhttp::make_chunk(bytes)) : WriteBuffers(bytes));
    return alive_;
  }

  bool Connected() override { return Alive() && (!half_closed_ || Probe()); }

 private:
  // As far as the socket tells. A client that closes it and one that ends its own side only look
  // alike until something is sent: the system of the first answers with a reset.
  bool Alive() {
    if (stopping_)
      alive_ = false;  // the handler stops half way: the client must not take it for the end
    if (!alive_) return false;
    pollfd p{stream_.socket().native_handle(), POLLRDHUP, 0};
    if (poll(&p, 1, 0) <= 0) return true;
    if ((p.revents & (POLLHUP | POLLERR)) != 0) alive_ = false;
    if (!std::exchange(half_closed_, true)) {
      probe_pause_ = kFirstProbePause;
      next_probe_ = std::chrono::steady_clock::now() + probe_pause_;
    }
    return alive_;
  }

  // Sends what a client that is there passes over. One who reads on may leave later: it is asked
  // again, ever more rarely.
  bool Probe() {
    const absl::string_view probe = started_ ? stream_probe_ : InterimProbe();
    if (probe.empty()) return alive_ = false;
    const auto now = std::chrono::steady_clock::now();
    if (now < next_probe_) return true;
    probe_pause_ *= 2;
    next_probe_ = now + probe_pause_;
    const asio::const_buffer bytes(probe.data(), probe.size());
    alive_ = !(started_ && chunked_ ? WriteBuffers(bhttp::make_chunk(bytes)) : WriteBuffers(bytes));
    return alive_;
  }

  // Starts one asynchronous operation and waits for it here, so that it has a deadline and that
  // Stop can cancel it; the code around stays straight-line. (The stream's own timeout would close
  // the socket, and a slow client would get no answer.)
  template <typename Start>
  Error Run(std::chrono::milliseconds timeout, Start start) {
    Error result = asio::error::operation_aborted;
    bool timed_out = false, over = false;
    ioc_.restart();
    deadline_.expires_after(timeout);
    ArmDeadline(&timed_out, &over);
    start([&](Error e) {
      result = e;
      over = true;
      deadline_.cancel();
    });
    ioc_.run();
    return timed_out && result ? Error(beast::error::timeout) : result;
  }

  void ArmDeadline(bool* timed_out, bool* over) {
    deadline_.async_wait([this, timed_out, over](Error e) {
      if (e || *over) return;
      *timed_out = true;
      stream_.cancel();
      // A step that had just ended was not cancelled, and the operation goes on: try again.
      deadline_.expires_after(kCancelRetry);
      ArmDeadline(timed_out, over);
    });
  }

  template <typename Buffers>
  Error WriteBuffers(const Buffers& buffers) {
    return Run(kWriteTimeout, [&](auto done) {
      asio::async_write(stream_, buffers, [done](Error e, size_t) { done(e); });
    });
  }

  template <typename Start>
  Error RunReading(std::chrono::milliseconds timeout, Start start) {
    reading_ = true;
    const Error e = stopping_ ? Error(asio::error::operation_aborted) : Run(timeout, start);
    reading_ = false;
    return e;
  }

  // Once, before the first request. False if there is nobody to talk to.
  bool Handshake() {
    if (!stream_.encrypted() || greeted_) return true;
    const seconds timeout(std::max(1, options_.header_timeout_seconds));
    if (RunReading(timeout, [&](auto done) { stream_.async_handshake(done); })) return false;
    greeted_ = true;
    peer_ = NamesOfPeer(stream_.ssl());
    return true;
  }

  // Until something of a request is there. One empty line before it is passed over (RFC 9112, 2.2):
  // old clients send it behind a body.
  Error AwaitRequest() {
    const seconds timeout =
        first_ ? seconds(std::max(1, options_.header_timeout_seconds)) : kIdleTimeout;
    bool passed = false;
    for (size_t wanted = 1;;) {
      while (buffer_.size() < wanted) {
        const Error e = RunReading(timeout, [&](auto done) {
          stream_.async_read_some(buffer_.prepare(4096), [this, done](Error e, size_t n) {
            buffer_.commit(n);
            done(e);
          });
        });
        if (e) return e;
      }
      const auto* const bytes = static_cast<const char*>(buffer_.data().data());
      if (passed || bytes[0] != '\r') return Error();
      if (std::exchange(wanted, 2) == 1) continue;
      if (bytes[1] != '\n') return Error();
      buffer_.consume(2);
      passed = true;
      wanted = 1;
    }
  }

  // Reads one whole request, or answers why not.
  ReadResult ReadRequest() {
    const seconds header_timeout(std::max(1, options_.header_timeout_seconds));
    if (AwaitRequest()) return ReadResult::kClosed;  // it sent nothing: nobody waits for an answer
    Error e = RunReading(header_timeout, [&](auto done) {
      bhttp::async_read_header(stream_, buffer_, *parser_, [done](Error e, size_t) { done(e); });
    });
    if (e) return Refuse(e, "headers");
    head_ = ToRequest(parser_->get());
    head_.peer = peer_address_;
    head_.certificate_uri = peer_.uri;
    head_.certificate_subject = peer_.subject;
    if (overloaded_) {
      return Refuse(TooManyConnections());
    }
    if (const std::optional<Response> answer = CheckHead()) return Refuse(*answer);
    if (const std::optional<Response> answer = CheckCoding()) return Refuse(*answer);
    // HTTP/1.0 has no interim answers: what it expects is not looked at (RFC 9110, 10.1.1).
    std::string expect;
    if (Version() >= 11) expect = absl::AsciiStrToLower(std::string(parser_->get()["Expect"]));
    if (!expect.empty() && expect != "100-continue") {
      return Refuse(JsonError(417, "Expect: only 100-continue is known"));
    }
    if (!expect.empty() && !parser_->is_done() && buffer_.size() == 0) {
      Response nobody;  // takes the body
      if (router_.Find(head_.method, head_.path, &nobody) == nullptr) return Refuse(nobody);
      const absl::string_view go_on = kContinue;
      if (WriteBuffers(asio::const_buffer(go_on.data(), go_on.size()))) return ReadResult::kClosed;
    }
    e = RunReading(kBodyTimeout, [&](auto done) {
      bhttp::async_read(stream_, buffer_, *parser_, [done](Error e, size_t) { done(e); });
    });
    return e ? Refuse(e, "body") : ReadResult::kRequest;
  }

  ReadResult Refuse(const Error& e, const char* part) {
    if (stopping_ || e == bhttp::error::end_of_stream || e == asio::error::operation_aborted ||
        e.category() == asio::error::get_system_category() ||
        e.category() == asio::error::get_ssl_category() ||
        e.category() == asio::ssl::error::get_stream_category()) {
      return ReadResult::kClosed;
    }
    if (e == beast::error::timeout) {
      return Refuse(JsonError(408, std::string("the request's ") + part + " took too long"));
    }
    if (e == bhttp::error::partial_message) {  // who has ended its own side may still read
      return Refuse(
          JsonError(400, std::string("the request was cut: it ended within its ") + part));
    }
    if (e == bhttp::error::header_limit) {
      return Refuse(JsonError(
          431, "the request's headers exceed " + std::to_string(kMaxHeaderBytes) + " bytes"));
    }
    if (e == bhttp::error::body_limit) {
      return Refuse(JsonError(
          413, "the request's body exceeds " + std::to_string(options_.max_body_bytes) + " bytes"));
    }
    return Refuse(JsonError(400, "malformed HTTP request: " + e.message()));
  }

  // Answers, and reads on a little: closing on unread bytes would make the kernel reset the
  // connection, and the client would lose the answer.
  ReadResult Refuse(const Response& response) {
    if (Send(response, /*keep_alive=*/false)) return ReadResult::kRefused;
    Error ignored;
    if (stream_.encrypted()) Run(kGoodbye, [&](auto done) { stream_.async_goodbye(done); });
    greeted_ = false;  // said
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    uint64_t drained = 0;
    const auto until = std::chrono::steady_clock::now() + kLingerTimeout;
    char sink[16384];
    while (drained < kLingerBytes && std::chrono::steady_clock::now() < until) {
      const Error e = RunReading(kLingerTimeout, [&](auto done) {
        stream_.async_drain(asio::buffer(sink), [&drained, done](Error e, size_t n) {
          drained += n;
          done(e);
        });
      });
      if (e) break;
    }
    return ReadResult::kRefused;
  }

  // A browser's question before a request to another origin carries no key: it comes first.
  std::optional<Response> CheckHead() const {
    if (!options_.cors_origins.empty() && head_.method == "OPTIONS" &&
        head_.headers.count("access-control-request-method") > 0) {
      Response response;
      response.status = 204;
      response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS";
      response.headers["Access-Control-Allow-Headers"] =
          "Authorization, Content-Type, X-Request-Id";
      response.headers["Access-Control-Max-Age"] = "600";
      return response;
    }
    return options_.guard ? options_.guard(head_) : std::nullopt;
  }

  // A body in another coding than chunked has an end that only its decoder knows: read on, it would
  // be taken for the next request (RFC 9112, 6.1 and 6.3).
  std::optional<Response> CheckCoding() const {
    const auto transfer = head_.headers.find("transfer-encoding");
    if (transfer != head_.headers.end() && !absl::EqualsIgnoreCase(transfer->second, "chunked")) {
      return JsonError(501, "Transfer-Encoding: only chunked is known");
    }
    const auto content = head_.headers.find("content-encoding");
    if (content != head_.headers.end() && !content->second.empty() &&
        !absl::EqualsIgnoreCase(content->second, "identity")) {
      return JsonError(415, "Content-Encoding: a body must be sent as it is", "",
                       "unsupported_media_type");
    }
    return std::nullopt;
  }

  // The value of Access-Control-Allow-Origin; empty: the page may not read the answer.
  std::string AllowedOrigin() const {
    const auto origin = head_.headers.find("origin");
    if (origin == head_.headers.end()) return "";
    for (const std::string& allowed : options_.cors_origins) {
      if (allowed == "*" || allowed == origin->second) return origin->second;
    }
    return "";
  }

  // False if the connection ends here.
  bool Answer() {
    head_.body = std::move(parser_->get().body());
    const Request& request = head_;
    Response response;
    const Handler* handler = router_.Find(request.method, request.path, &response);
    alive_ = true;
    half_closed_ = false;
    bool threw = false;
    if (handler != nullptr) response = Router::Call(*handler, request, this, &threw);
    if (!std::exchange(started_, false)) {
      const bool keep_alive = KeepAlive();
      return !Send(response, keep_alive) && keep_alive;
    }
    if (threw || !alive_ || !chunked_) return false;  // cut: the client sees that it is incomplete
    if (!IsHead() && WriteBuffers(bhttp::make_chunk_last())) return false;
    return kept_ && !stopping_;
  }

  Error Send(const Response& from, bool keep_alive) {
    bhttp::response<bhttp::string_body> response(static_cast<bhttp::status>(from.status),
                                                 Version());
    FillHead(from, keep_alive, &response);
    response.body() = from.body;
    const bool has_body = from.status >= 200 && from.status != 204 && from.status != 304;
    if (has_body) response.content_length(from.body.size());
    bhttp::response_serializer<bhttp::string_body> serializer(response);
    return Run(kWriteTimeout, [&](auto done) {
      const auto handler = [done](Error e, size_t) { done(e); };
      if (IsHead() || !has_body) {
        bhttp::async_write_header(stream_, serializer, handler);
      } else {
        bhttp::async_write(stream_, serializer, handler);
      }
    });
  }

  template <typename Message>
  void FillHead(const Response& from, bool keep_alive, Message* message) const {
    message->set(bhttp::field::server, "shiftadd/" + ::shiftadd::Version());
    message->set(bhttp::field::content_type, from.content_type);
    if (!head_.id.empty()) message->set("X-Request-Id", head_.id);
    if (const std::string origin = AllowedOrigin(); !origin.empty()) {
      message->set(bhttp::field::access_control_allow_origin, origin);
      message->set(bhttp::field::vary, "Origin");
      message->set(bhttp::field::access_control_expose_headers, "X-Request-Id");
    }
    for (const auto& [name, value] : from.headers) message->set(name, value);
    message->keep_alive(keep_alive);
  }

  unsigned Version() const { return parser_->is_header_done() ? parser_->get().version() : 11; }
  // What may be sent before an answer; HTTP/1.0 has nothing.
  absl::string_view InterimProbe() const { return Version() >= 11 ? kContinue : ""; }
  bool KeepAlive() const {
    const bool parting = options_.parting != nullptr && options_.parting();
    return !stopping_ && !parting && parser_->get().keep_alive();
  }
  bool IsHead() const {
    return parser_->is_header_done() && parser_->get().method() == bhttp::verb::head;
  }

  const HttpServerOptions& options_;
  const Router& router_;
  const bool overloaded_;
  asio::io_context ioc_{1};
  Stream stream_;
  PeerNames peer_;
  std::string peer_address_;
  asio::steady_timer deadline_;
  beast::flat_buffer buffer_;
  std::optional<bhttp::request_parser<bhttp::string_body>> parser_;
  Request head_;          // of the request being served; its body once it is read
  bool greeted_ = false;  // TLS stands
  bool first_ = true;     // no request was served yet
  bool reading_ = false;  // the serving thread waits for the client; only that thread looks
  bool started_ = false, chunked_ = false, alive_ = true;  // of the response being streamed
  bool kept_ = false;                                      // its head promises to go on
  bool half_closed_ = false;                               // the client sends nothing more
  absl::string_view stream_probe_;  // what may be put between two writes; empty: nothing
  std::chrono::steady_clock::time_point next_probe_;
  std::chrono::steady_clock::duration probe_pause_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // closed_, and the socket against Abort
  bool closed_ = false;
};

}  // namespace

Response TooManyConnections() { return JsonError(503, "too many connections", "", "overloaded"); }

std::unique_ptr<Connection> Connection::Create(asio::ip::tcp::socket socket,
                                               std::shared_ptr<asio::ssl::context> tls,
                                               const HttpServerOptions& options,
                                               const Router& router, bool overloaded) {
  return std::make_unique<ConnectionImpl>(std::move(socket), std::move(tls), options, router,
                                          overloaded);
}

}  // namespace shiftadd::http
