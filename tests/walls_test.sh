#!/usr/bin/env bash
# The walls of the house: no control-plane binary links LibTorch or CUDA, the server links no LibTorch, and no source
# file sees LibTorch's headers and ours of protobuf together.
set -euo pipefail
. "$(dirname "$0")/has.sh"
bin=$1 source=$2
fail=0
complain() { echo "FAIL: $*"; fail=1; }

needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
for b in shiftadd shiftadd-coordinator shiftadd-packager shiftadd-server; do
  [ -x "$bin/$b" ] || { complain "$bin/$b is missing"; continue; }
  if needed "$bin/$b" | grep -E 'torch|c10|cuda'; then complain "$b links the libraries above"; fi
done
needed "$bin/shiftadd-worker" | has -q libtorch_cpu || complain "shiftadd-worker should link libtorch_cpu"

# What each object really saw, by the build's own records.
build=$(dirname "$bin")
if [ -e "$build/build.ninja" ]; then
  ninja -C "$build" -t deps | awk '
    /^[^ ].*: #deps/ { flush(); object = $1; torch = proto = 0; next }
    /\/ATen\/|\/c10\// { torch = 1 }
    /\.pb\.h|\/grpcpp\/|\/google\/protobuf\// { proto = 1 }
    function flush() { if (torch && proto) { print object " sees LibTorch and protobuf"; bad = 1 } }
    END { flush(); exit bad }' || complain "LibTorch and protobuf meet in the objects above"
fi
# Headers with ATen types are internal to the executor and to the quantizer on a GPU.
if grep -rlE '#include [<"](ATen|c10|torch)/' "$source/worker" "$source/services" "$source/kernels" --include='*.h' |
    grep -v -e '/worker/reference/' -e '/worker/quantize/device_hessian.h$'; then
  complain "the headers above include LibTorch"
fi
if grep -rnE '#include "(services|worker|shiftadd)/' "$source/kernels" --include='*.h' --include='*.cc'; then
  complain "kernels/ must depend on nothing of ours"
fi
if grep -rnE '#include .*(grpcpp|grpc\.pb)' "$source/services/allocation" "$source/services/store" \
    "$source/worker/quantize" "$source/worker/reference" "$source/worker/model" "$source/worker/tensor" "$source/worker/evaluate"; then
  complain "core logic includes gRPC"
fi
[ $fail = 0 ] && echo "the walls stand"
exit $fail
