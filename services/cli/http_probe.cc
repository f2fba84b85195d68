#include "services/cli/http_probe.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace shiftadd::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Tcp = asio::ip::tcp;
using Error = boost::system::error_code;

// One request, step after step; the stream's expiry ends whichever step hangs.
class Probe {
 public:
  Probe(asio::io_context& io, const std::string& host)
      : stream_(io), request_(http::verb::get, "/ready", 11) {
    request_.set(http::field::host, host);
  }

  void Start(const Tcp::resolver::results_type& endpoints, absl::Duration timeout) {
    stream_.expires_after(absl::ToChronoMilliseconds(timeout));
    stream_.async_connect(endpoints, [this](Error error, const Tcp::endpoint&) {
      if (Failed(error)) return;
      http::async_write(stream_, request_, [this](Error write_error, size_t) {
        if (Failed(write_error)) return;
        http::async_read(stream_, buffer_, response_,
                         [this](Error read_error, size_t) { Failed(read_error); });
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
  bool Failed(Error error) {
    error_ = error;
    return static_cast<bool>(error);
  }

  beast::tcp_stream stream_;
  http::request<http::empty_body> request_;
  http::response<http::string_body> response_;
  beast::flat_buffer buffer_;
  Error error_;
};

}  // namespace

absl::Status ProbeReady(const std::string& address, absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no HOST:PORT"));
  }
  asio::io_context io;
  Error error;
  Tcp::resolver resolver(io);
  const auto endpoints =
      resolver.resolve(address.substr(0, colon), address.substr(colon + 1), error);
  if (error) return absl::UnavailableError(absl::StrCat(address, ": ", error.message()));
  Probe probe(io, address);
  probe.Start(endpoints, timeout);
  io.run();
  const absl::Status status = probe.Result();
  return status.ok() ? status
                     : absl::UnavailableError(absl::StrCat(address, ": ", status.message()));
}

}  // namespace shiftadd::cli
