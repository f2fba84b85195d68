#!/usr/bin/env bash
# What the programs say of drivers and GPUs that cannot be had here: a driver too old, one that fails, GPUs too old,
# a driver without CUDA's libraries. A stub stands for the driver (worker/machine/testing/stub_cuda.cc).
#   stub_gpu_test.sh BIN_DIR STUB_DIR
set -euo pipefail
bin=$1
stub=$2
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
for variable in "${!SHIFTADD_@}" CUDA_VISIBLE_DEVICES; do unset "$variable"; done
export LD_LIBRARY_PATH=$stub${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir "$work/store"

fail() {
  echo "FAILED: $1"
  echo "$2"
  exit 1
}
# expect CODE TEXT COMMAND…: how it ends and what it says.
expect() {
  local code=0 said expected=$1 text=$2
  shift 2
  said=$("$@" 2>&1 </dev/null) || code=$?
  [ $code = "$expected" ] || fail "$*: exit code $code, expected $expected" "$said"
  [[ $said == *"$text"* ]] || fail "$*: expected: $text" "$said"
}
worker=("$bin/shiftadd-worker" --blobs "$work/store" --source-root "$work" --http 127.0.0.1:0)

# A worker, the server's and the worker's probe, and doctor, on a machine that VARIABLE=VALUE… describe.
on() {
  local text=$1
  shift
  expect 1 "shiftadd-worker: --device cuda: $text" env "$@" "${worker[@]}" --device cuda
  expect 0 "$text" env "$@" "$bin/shiftadd-worker" --probe
  expect 0 "$text" env "$@" "$bin/shiftadd" doctor
  # One that may choose says why it does not take it, and works.
  env "$@" "${worker[@]}" --device auto --coordinator 127.0.0.1:1 --port-file "$work/ports" >"$work/auto.log" 2>&1 &
  local pid=$!
  for _ in $(seq 600); do [ -s "$work/ports" ] && break || sleep 0.1; done
  kill $pid
  wait $pid || fail "a worker with --device auto" "$(cat "$work/auto.log")"
  [[ $(cat "$work/auto.log") == *"--device auto: cpu ($text"* ]] || fail "--device auto: $text" "$(cat "$work/auto.log")"
  rm "$work/ports"
  # A build without CUDA's kernels says that first.
  local built
  built=$(env "$@" "$bin/shiftadd-server" --probe 2>&1)
  [[ $built == *"this build has no CUDA"* || $built == *"$text"* ]] || fail "the server's probe: $text" "$built"
}
on "the NVIDIA driver 535.104.05 is too old: it is for CUDA 12.2, expected 13.0 or later: install NVIDIA's driver, version 580 or later" \
  SHIFTADD_STUB_CUDA=12020 SHIFTADD_STUB_DRIVER=535.104.05
on "the NVIDIA GPU Stub 0 is too old: its compute capability is 7.5, expected 8.0 or later" SHIFTADD_STUB_CAPABILITY=75
on "the NVIDIA driver's parts are of different versions (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH): restart the machine" SHIFTADD_STUB_INIT=803
on "the NVIDIA driver failed: CUDA_ERROR_UNKNOWN" SHIFTADD_STUB_INIT=999
on "the NVIDIA driver shows no GPU" SHIFTADD_STUB_CAPABILITY=

# A driver and a GPU that would do: LibTorch's CUDA half cannot be loaded without CUDA's libraries, or finds that the
# stub computes nothing. The words say what to install.
said=$("${worker[@]}" --device cuda 2>&1) && fail "a worker on the stub" "$said"
[[ $said == *"LibTorch's CUDA half cannot be loaded"*"install CUDA's libraries"* || $said == *"LibTorch sees no CUDA device"* ]] ||
  fail "a driver without CUDA's libraries" "$said"

echo "all good"
