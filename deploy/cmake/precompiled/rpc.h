// plain.h, gRPC, the generated messages and the log.
#ifndef SHIFTADD_CMAKE_PRECOMPILED_RPC_H_
#define SHIFTADD_CMAKE_PRECOMPILED_RPC_H_

#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include "deploy/cmake/precompiled/plain.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "shiftadd/v1/job.grpc.pb.h"
#include "shiftadd/v1/package.grpc.pb.h"
#include "shiftadd/v1/task.grpc.pb.h"

#endif  // SHIFTADD_CMAKE_PRECOMPILED_RPC_H_
