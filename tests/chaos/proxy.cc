#include "tests/chaos/proxy.h"

#include <array>
#include <boost/asio.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>

namespace shiftadd::testing {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {
// How often data that is held up looks whether it may go on.
constexpr std::chrono::milliseconds kHeldTick(10);
}  // namespace

// All of it lives on one thread: the members below are touched there only.
struct Proxy::Loop {
  asio::io_context io;
  tcp::acceptor acceptor{io};
  std::set<std::shared_ptr<Connection>> open;
};

class Proxy::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Proxy* proxy, tcp::socket client)
      : proxy_(proxy), ends_{std::move(client), tcp::socket(proxy->loop_->io)} {}

  void Start(int port) {
    error_code ignored;
    const tcp::endpoint target(asio::ip::address_v4::loopback(), static_cast<uint16_t>(port));
    ends_[1].async_connect(target, [self = shared_from_this()](error_code error) {
      if (error) return self->Close();
      for (tcp::socket& end : self->ends_) end.set_option(tcp::no_delay(true), error);
      self->Read(0);
      self->Read(1);
    });
  }

  // By a reset, as a machine that is gone answers.
  void Close() {
    for (tcp::socket& end : ends_) {
      error_code ignored;
      end.set_option(asio::socket_base::linger(true, 0), ignored);
      end.close(ignored);
    }
    for (asio::steady_timer& timer : timers_) timer.cancel();
    proxy_->loop_->open.erase(shared_from_this());
  }

 private:
  void Read(int from) {
    ends_[from].async_read_some(asio::buffer(buffers_[from]), [self = shared_from_this(), from](
                                                                  error_code error, size_t size) {
      if (error) return self->Close();
      self->Wait(from, size, std::chrono::milliseconds(self->proxy_->delay_ms_));
    });
  }
  void Wait(int from, size_t size, std::chrono::milliseconds time) {
    if (time.count() == 0 && !proxy_->held_) return Write(from, size);
    timers_[from].expires_after(std::max(time, kHeldTick));
    timers_[from].async_wait([self = shared_from_this(), from, size](error_code error) {
      if (error) return;
      self->Wait(from, size, std::chrono::milliseconds(0));
    });
  }
  void Write(int from, size_t size) {
    proxy_->bytes_ += size;
    asio::async_write(ends_[1 - from], asio::buffer(buffers_[from].data(), size),
                      [self = shared_from_this(), from](error_code error, size_t) {
                        if (error) return self->Close();
                        self->Read(from);
                      });
  }

  Proxy* const proxy_;
  std::array<tcp::socket, 2> ends_;  // the client's and the daemon's
  std::array<asio::steady_timer, 2> timers_{asio::steady_timer(proxy_->loop_->io),
                                            asio::steady_timer(proxy_->loop_->io)};
  std::array<std::array<char, 16 << 10>, 2> buffers_;
};

Proxy::Proxy() : loop_(std::make_unique<Loop>()) {
  error_code error;
  loop_->acceptor.open(tcp::v4(), error);
  if (!error) loop_->acceptor.bind({asio::ip::address_v4::loopback(), 0}, error);
  if (!error) loop_->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    std::fprintf(stderr, "proxy: %s\n", error.message().c_str());
    std::abort();
  }
  port_ = loop_->acceptor.local_endpoint().port();
  Accept();
  thread_ = std::thread([this] { loop_->io.run(); });
}

Proxy::~Proxy() {
  asio::post(loop_->io, [this] { loop_->io.stop(); });
  thread_.join();
  loop_->open.clear();
}

void Proxy::Accept() {
  loop_->acceptor.async_accept([this](error_code error, tcp::socket client) {
    if (error == asio::error::operation_aborted) return;
    const int target = target_;
    if (!error && target != 0) {
      ++connections_;
      const auto connection = std::make_shared<Connection>(this, std::move(client));
      loop_->open.insert(connection);
      connection->Start(target);
    } else if (!error) {
      error_code ignored;
      client.set_option(asio::socket_base::linger(true, 0), ignored);
    }
    Accept();
  });
}

void Proxy::Drop() {
  asio::post(loop_->io, [this] {
    const auto open = loop_->open;
    dropped_ += open.size();
    for (const auto& connection : open) connection->Close();
  });
}

}  // namespace shiftadd::testing
