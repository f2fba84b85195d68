// A request that Beast has parsed, as handlers see it.
#ifndef SHIFTADD_SERVICES_HTTP_PARSED_REQUEST_H_
#define SHIFTADD_SERVICES_HTTP_PARSED_REQUEST_H_

#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>

#include "services/http/http_server.h"

namespace shiftadd::http {

// All but who sent it.
Request ToRequest(const boost::beast::http::request<boost::beast::http::string_body>& from);

}  // namespace shiftadd::http

#endif  // SHIFTADD_SERVICES_HTTP_PARSED_REQUEST_H_
