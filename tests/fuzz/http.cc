// The bytes of a client on the HTTP server: a connection from its first byte to its end.
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <optional>
#include <thread>

#include "services/http/connection.h"
#include "services/http/router.h"
#include "tests/fuzz/fuzz.h"

namespace {

using shiftadd::http::Request;
using shiftadd::http::Response;
using shiftadd::http::StreamWriter;

shiftadd::http::HttpServer::Routes Routes() {
  shiftadd::http::HttpServer::Routes routes;
  routes["/echo"]["POST"] = [](const Request& request, StreamWriter*) {
    Response response;
    response.body = request.body + request.query;
    return response;
  };
  routes["/stream"]["GET"] = [](const Request& request, StreamWriter* writer) {
    if (writer->Start(Response())) writer->Write(request.id);
    return Response();
  };
  return routes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const shiftadd::http::Router& router = *new shiftadd::http::Router(Routes());
  static const shiftadd::http::HttpServerOptions& options = *[] {
    auto* made = new shiftadd::http::HttpServerOptions;
    made->max_body_bytes = 4096;
    made->header_timeout_seconds = 1;
    made->cors_origins = {"https://example.org"};
    made->guard = [](const Request& head) -> std::optional<Response> {
      if (head.headers.count("x-refuse") > 0) return shiftadd::http::JsonError(401, "no");
      return std::nullopt;
    };
    return made;
  }();
  // More than a socket takes at once would need a second thread.
  if (size > 16384) return 0;
  int ends[2];
  shiftadd::fuzz::Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0,
                          "a socket pair can be made");
  shiftadd::fuzz::Require(write(ends[1], data, size) == static_cast<ssize_t>(size),
                          "the socket takes the input");
  shutdown(ends[1], SHUT_WR);
  boost::asio::io_context context;
  auto connection = shiftadd::http::Connection::Create(
      boost::asio::ip::tcp::socket(context, boost::asio::ip::tcp::v4(), ends[0]), nullptr, options,
      router, /*overloaded=*/false);
  connection->Serve();
  char sink[65536];
  while (read(ends[1], sink, sizeof(sink)) > 0) {
  }
  close(ends[1]);
  return 0;
}
