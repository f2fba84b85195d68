// TCP between a client and a daemon that can be cut, held up and slowed down.
#ifndef SHIFTADD_TESTS_CHAOS_PROXY_H_
#define SHIFTADD_TESTS_CHAOS_PROXY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace shiftadd::testing {

// Listens on a loopback port of its own from construction to destruction, whatever becomes of the
// daemon behind it. Thread-safe. Aborts the test program if it gets no port.
class Proxy {
 public:
  Proxy();
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // Where new connections go; 0: nowhere, they are closed at once.
  void SetTarget(int port) { target_ = port; }
  // Closes every connection, with a reset; new ones are let in.
  void Drop();
  // Every piece of data waits for so long before it is handed on, in both directions.
  void SetDelay(absl::Duration delay) { delay_ms_ = absl::ToInt64Milliseconds(delay); }
  // Nothing is handed on, and nothing is refused, until this is false again.
  void SetHeld(bool held) { held_ = held; }

  // Since construction.
  uint64_t connections() const { return connections_; }
  uint64_t dropped() const { return dropped_; }
  uint64_t bytes() const { return bytes_; }

 private:
  class Connection;
  struct Loop;
  void Accept();

  std::atomic<int> target_{0};
  std::atomic<int64_t> delay_ms_{0};
  std::atomic<bool> held_{false};
  std::atomic<uint64_t> connections_{0}, dropped_{0}, bytes_{0};
  int port_ = 0;
  std::unique_ptr<Loop> loop_;
  std::thread thread_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_CHAOS_PROXY_H_
