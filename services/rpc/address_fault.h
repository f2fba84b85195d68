// What is wrong with an address that somebody has typed.
#ifndef SHIFTADD_SERVICES_RPC_ADDRESS_FAULT_H_
#define SHIFTADD_SERVICES_RPC_ADDRESS_FAULT_H_

#include <string>

namespace shiftadd::rpc {

// What is wrong with "host:port", or several with commas, to be read after the name of where it
// stands; "" if nothing is. A check as CLI11 wants it.
std::string AddressFault(const std::string& list);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_ADDRESS_FAULT_H_
