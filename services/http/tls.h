// TLS of the HTTP server, and a connection that may have it.
#ifndef SHIFTADD_SERVICES_HTTP_TLS_H_
#define SHIFTADD_SERVICES_HTTP_TLS_H_

#include <boost/asio/async_result.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "services/access/tls_files.h"
#include "services/access/watched_file.h"

namespace shiftadd::http {

// The context of new connections; made anew when the files change, and kept as it was if they are
// wrong then (said in the log). Thread-safe.
class TlsContext {
 public:
  explicit TlsContext(const access::TlsFiles& files);
  // INVALID_ARGUMENT or FAILED_PRECONDITION if the files do not make a context.
  absl::Status Load();
  std::shared_ptr<boost::asio::ssl::context> Current();

 private:
  const access::TlsFiles files_;
  std::mutex mutex_;
  access::WatchedFile cert_, key_, ca_;
  std::shared_ptr<boost::asio::ssl::context> context_;
};

// Who is on the other end, by a certificate that was verified; empty if it showed none.
struct PeerNames {
  std::string uri;      // the first URI of the certificate
  std::string subject;  // as RFC 2253 writes it
};
PeerNames NamesOfPeer(SSL* ssl);

// A TCP stream with or without TLS, with Asio's asynchronous interface. Not thread-safe.
class Stream {
 public:
  using executor_type = boost::beast::tcp_stream::executor_type;

  // `tls` null: plain.
  Stream(boost::asio::io_context& io, std::shared_ptr<boost::asio::ssl::context> tls)
      : tcp_(io), context_(std::move(tls)) {
    if (context_ != nullptr) tls_ = std::make_unique<Tls>(tcp_, *context_);
  }

  executor_type get_executor() { return tcp_.get_executor(); }
  boost::asio::ip::tcp::socket& socket() { return tcp_.socket(); }
  void cancel() { tcp_.cancel(); }
  bool encrypted() const { return tls_ != nullptr; }
  SSL* ssl() { return tls_->native_handle(); }

  // Only if encrypted.
  template <typename Done>
  void async_handshake(Done done) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::move(done));
  }
  template <typename Done>
  void async_goodbye(Done done) {
    tls_->async_shutdown(std::move(done));
  }

  // Bytes as they come off the wire, whatever they are.
  template <typename Buffers, typename Done>
  void async_drain(const Buffers& buffers, Done done) {
    tcp_.async_read_some(buffers, std::move(done));
  }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(boost::beast::error_code, size_t)>(
        [this](auto handler, const Buffers& to) {
          if (tls_ != nullptr) {
            tls_->async_read_some(to, std::move(handler));
          } else {
            tcp_.async_read_some(to, std::move(handler));
          }
        },
        token, buffers);
  }

  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(boost::beast::error_code, size_t)>(
        [this](auto handler, const Buffers& from) {
          if (tls_ != nullptr) {
            tls_->async_write_some(from, std::move(handler));
          } else {
            tcp_.async_write_some(from, std::move(handler));
          }
        },
        token, buffers);
  }

 private:
  using Tls = boost::asio::ssl::stream<boost::beast::tcp_stream&>;
  boost::beast::tcp_stream tcp_;
  std::shared_ptr<boost::asio::ssl::context> context_;
  std::unique_ptr<Tls> tls_;
};

}  // namespace shiftadd::http

#endif  // SHIFTADD_SERVICES_HTTP_TLS_H_
