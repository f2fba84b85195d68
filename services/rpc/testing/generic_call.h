// A call of any method by its name.
#ifndef SHIFTADD_SERVICES_RPC_TESTING_GENERIC_CALL_H_
#define SHIFTADD_SERVICES_RPC_TESTING_GENERIC_CALL_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "services/rpc/rpc.h"

namespace shiftadd::rpc {

// One call of `method` ("/package.Service/Method") with an empty message, whatever kind of method
// it is; answers are thrown away.
inline grpc::Status GenericCall(const std::shared_ptr<grpc::Channel>& channel,
                                const std::string& method, absl::Duration timeout) {
  grpc::ClientContext context;
  SetDeadline(&context, timeout);
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  const auto call = stub.PrepareCall(&context, method, &queue);
  int tag = 0;
  void* done = nullptr;
  bool ok = false;
  const auto next = [&] { queue.Next(&done, &ok); };
  call->StartCall(&tag);
  next();
  const grpc::Slice nothing("", 0);
  grpc::ByteBuffer request(&nothing, 1);
  call->Write(request, &tag);
  next();
  call->WritesDone(&tag);
  next();
  // The end comes behind the answers.
  do {
    grpc::ByteBuffer response;
    call->Read(&response, &tag);
    next();
  } while (ok);
  grpc::Status status;
  call->Finish(&status, &tag);
  next();
  return status;
}

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_TESTING_GENERIC_CALL_H_
