#!/usr/bin/env bash
# Installs what the build and the tests need, builds, runs every test through ctest and prints the counts.
#   tests/run.sh [ctest arguments]      e.g. tests/run.sh -R cluster
# SHIFTADD_BUILD_DIR: where to build (default build/tests). SHIFTADD_JOBS: parallel compilers (default: the cores).
set -euo pipefail
cd "$(dirname "$0")/.."

build=${SHIFTADD_BUILD_DIR:-build/tests}
jobs=${SHIFTADD_JOBS:-$(nproc)}
started=$(date +%s)
step() { printf '\n== %s (%d s so far)\n' "$*" $(($(date +%s) - started)); }

step "Installing Debian packages, LibTorch and the sample model (about 2 minutes the first time)"
deploy/setup.sh packages
deploy/setup.sh test-packages
deploy/setup.sh torch
deploy/setup.sh model

step "Building (about 35 minutes on two cores the first time)"
mkdir -p "$(dirname "$build")"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >"$build.cmake.log" 2>&1 || {
  cat "$build.cmake.log"; echo "Configuring failed: see above." >&2; exit 1; }
ninja -C "$build" -j "$jobs"

step "Testing (about 15 minutes on two cores)"
status=0
ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$jobs" "$@" || status=$?
step "Finished with status $status"
exit $status
