#include "services/metrics/metrics.h"

#include <prometheus/text_serializer.h>

#include <utility>

#include "services/base/version.h"

namespace shiftadd::metrics {
namespace {

http::Response Text(int status, const std::string& body) {
  http::Response response;
  response.status = status;
  response.content_type = "text/plain; charset=utf-8";
  response.body = body;
  return response;
}

}  // namespace

std::string Expose(const prometheus::Registry& registry) {
  return prometheus::TextSerializer().Serialize(registry.Collect());
}

prometheus::Histogram::BucketBoundaries DurationBuckets() {
  return {0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1,
          2,     3,     5,     10,    20,   30,   50,   100,  200, 300, 500, 1000};
}

http::HttpServer::Routes DaemonRoutes(std::shared_ptr<prometheus::Registry> registry,
                                      std::function<std::string()> ready,
                                      std::function<void()> before_scrape) {
  http::HttpServer::Routes routes;
  routes["/metrics"]["GET"] = [registry = std::move(registry),
                               before_scrape = std::move(before_scrape)](const http::Request&,
                                                                         http::StreamWriter*) {
    if (before_scrape) before_scrape();
    http::Response response = Text(200, Expose(*registry));
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    return response;
  };
  routes["/health"]["GET"] = [](const http::Request&, http::StreamWriter*) {
    return Text(200, "ok\n");
  };
  routes["/ready"]["GET"] = [ready = std::move(ready)](const http::Request&, http::StreamWriter*) {
    const std::string reason = ready ? ready() : "";
    return reason.empty() ? Text(200, "ready\n") : Text(503, reason + "\n");
  };
  return routes;
}

void AddBuildInfo(prometheus::Registry* registry, const std::string& process) {
  prometheus::BuildGauge()
      .Name("shiftadd_build_info")
      .Help("What this process is; always 1.")
      .Register(*registry)
      .Add({{"process", process}, {"version", Version()}, {"commit", Commit()}})
      .Set(1);
}

}  // namespace shiftadd::metrics
