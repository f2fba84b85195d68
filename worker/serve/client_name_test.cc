#include "worker/serve/client_name.h"

#include <gtest/gtest.h>

namespace shiftadd {
namespace {

TEST(ClientName, ProofGoesBeforeAddress) {
  EXPECT_EQ(ClientName("", "spiffe://x/client/ann", "10.0.0.1"),
            "certificate spiffe://x/client/ann");
  const std::string key = ClientName("Bearer secret", "", "10.0.0.1");
  EXPECT_EQ(key, ClientName("Bearer secret", "", "10.0.0.2"));
  EXPECT_NE(key, ClientName("Bearer other", "", "10.0.0.1"));
  EXPECT_EQ(key, ClientName("Bearer secret", "spiffe://x/client/proxy", "10.0.0.1"))
      << "the order of services/access";
  EXPECT_EQ(key.find("secret"), std::string::npos);
}

TEST(ClientName, AKeyIsOneClientHoweverItIsWritten) {
  const std::string key = ClientName("Bearer secret", "", "10.0.0.1");
  for (const char* same :
       {"bearer secret", "BEARER secret", "Bearer   secret", "Bearer secret\t"}) {
    EXPECT_EQ(ClientName(same, "", "10.0.0.1"), key) << same;
  }
  EXPECT_NE(ClientName("Bearer Secret", "", "10.0.0.1"), key);
}

TEST(ClientName, AnAddressIsTheSameOverHttpAndGrpcAndFromEveryPort) {
  EXPECT_EQ(ClientName("", "", "10.0.0.1"), "address 10.0.0.1");
  EXPECT_EQ(ClientName("", "", "ipv4:10.0.0.1:4711"), "address 10.0.0.1");
  EXPECT_EQ(ClientName("", "", "ipv6:%5B2001:db8::1%5D:4711"), "address 2001:db8::1");
  EXPECT_EQ(ClientName("", "", "ipv6:[2001:db8::1]:4711"), "address 2001:db8::1");
  EXPECT_EQ(ClientName("", "", "2001:db8::1"), "address 2001:db8::1");
}

}  // namespace
}  // namespace shiftadd
