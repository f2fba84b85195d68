#include "services/cli/http_probe.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/rpc/security.h"

namespace shiftadd::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Tcp = asio::ip::tcp;
using Error = boost::system::error_code;

namespace ssl = asio::ssl;

// One request, step after step; the stream's expiry ends whichever step hangs.
class Probe {
 public:
  // `tls` null: plain HTTP. `name`: of the host, as its certificate has to have it.
  Probe(asio::io_context& io, ssl::context* tls, const std::string& host, const std::string& name)
      : stream_(io), request_(http::verb::get, "/ready", 11) {
    request_.set(http::field::host, host);
    if (tls == nullptr) return;
    tls_ = std::make_unique<ssl::stream<beast::tcp_stream&>>(stream_, *tls);
    tls_->set_verify_mode(ssl::verify_peer);
    tls_->set_verify_callback(ssl::host_name_verification(name));
  }

  void Start(const Tcp::resolver::results_type& endpoints, absl::Duration timeout) {
    stream_.expires_after(absl::ToChronoMilliseconds(timeout));
    stream_.async_connect(endpoints, [this](Error error, const Tcp::endpoint&) {
      if (Failed(error)) return;
      if (tls_ == nullptr) return Ask(stream_);
      tls_->async_handshake(ssl::stream_base::client, [this](Error handshake_error) {
        if (!Failed(handshake_error)) Ask(*tls_);
      });
    });
  }

  absl::Status Result() const {
    if (error_) return absl::UnavailableError(error_.message());
    if (response_.result_int() == 200) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("/ready answers ", response_.result_int(), ": ",
                     absl::StripAsciiWhitespace(response_.body().substr(0, 300))));
  }

 private:
  template <typename Stream>
  void Ask(Stream& stream) {
    http::async_write(stream, request_, [this, &stream](Error write_error, size_t) {
      if (Failed(write_error)) return;
      http::async_read(stream, buffer_, response_,
                       [this](Error read_error, size_t) { Failed(read_error); });
    });
  }

  bool Failed(Error error) {
    error_ = error;
    return static_cast<bool>(error);
  }

  beast::tcp_stream stream_;
  std::unique_ptr<ssl::stream<beast::tcp_stream&>> tls_;
  http::request<http::empty_body> request_;
  http::response<http::string_body> response_;
  beast::flat_buffer buffer_;
  Error error_;
};

// Null if this program does not speak TLS.
absl::StatusOr<std::unique_ptr<ssl::context>> MakeContext() {
  const access::TlsFiles files = rpc::ClientTls();
  if (files.empty()) return nullptr;
  auto context = std::make_unique<ssl::context>(ssl::context::tls_client);
  Error error;
  if (files.ca.empty()) {
    context->set_default_verify_paths(error);
  } else {
    context->load_verify_file(files.ca, error);
  }
  if (!error) return context;
  return absl::UnavailableError(absl::StrCat("--tls-ca ", files.ca, ": ", error.message()));
}

}  // namespace

absl::Status ProbeReady(const std::string& address, absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no HOST:PORT"));
  }
  SA_ASSIGN_OR_RETURN(const std::unique_ptr<ssl::context> tls, MakeContext());
  asio::io_context io;
  Error error;
  Tcp::resolver resolver(io);
  const auto endpoints =
      resolver.resolve(address.substr(0, colon), address.substr(colon + 1), error);
  if (error) return absl::UnavailableError(absl::StrCat(address, ": ", error.message()));
  Probe probe(io, tls.get(), address, address.substr(0, colon));
  probe.Start(endpoints, timeout);
  io.run();
  const absl::Status status = probe.Result();
  return status.ok() ? status
                     : absl::UnavailableError(absl::StrCat(address, ": ", status.message()));
}

}  // namespace shiftadd::cli
