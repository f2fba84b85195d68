// One client's connection, served by its own thread.
#ifndef SHIFTADD_SERVICES_HTTP_CONNECTION_H_
#define SHIFTADD_SERVICES_HTTP_CONNECTION_H_

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <memory>

#include "services/http/http_server.h"
#include "services/http/router.h"

namespace shiftadd::http {

// What whoever comes while too many are connected is told.
Response TooManyConnections();

class Connection {
 public:
  virtual ~Connection() = default;
  // Takes over the connected `socket`. `tls` null: plain text. `options` and `router` must outlive
  // it. An `overloaded` connection gets one 503. Throws where files or memory do not suffice (it
  // has an event loop of its own); the socket is closed then.
  static std::unique_ptr<Connection> Create(boost::asio::ip::tcp::socket socket,
                                            std::shared_ptr<boost::asio::ssl::context> tls,
                                            const HttpServerOptions& options, const Router& router,
                                            bool overloaded);
  // Serves requests until either side ends. Once. Throws std::bad_alloc where memory is out.
  virtual void Serve() = 0;
  // From any thread: no further request; ends at once if none is being handled.
  virtual void Stop() = 0;
  // From any thread: cuts the socket.
  virtual void Abort() = 0;
};

}  // namespace shiftadd::http

#endif  // SHIFTADD_SERVICES_HTTP_CONNECTION_H_
