#!/usr/bin/env bash
# llama.cpp for comparisons: its source from PyPI's sdist of llama-cpp-python, built for this CPU. Prints the folder of its programs.
#   tests/bench/build_llama_cpp.sh [WORK] [SOURCE]     (WORK: default ~/.cache/shiftadd/llama_cpp; SOURCE: a checkout of llama.cpp instead)
# About ten minutes on two cores the first time; what is there is kept.
set -euo pipefail
work=${1:-$HOME/.cache/shiftadd/llama_cpp} source=${2:-}
sdist=0.3.36
build=$work/build
mkdir -p "$work"
missing=0
for program in llama-bench llama-quantize llama-server; do [ -x "$build/bin/$program" ] || missing=1; done
if [ $missing = 1 ]; then
  if [ -z "$source" ]; then
    source=$work/llama_cpp_python-$sdist/vendor/llama.cpp
    if [ ! -e "$source/CMakeLists.txt" ]; then
      python3 -m pip download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$sdist" -d "$work" >&2
      tar -xzf "$work/llama_cpp_python-$sdist.tar.gz" -C "$work"
    fi
  fi
  cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_USE_PREBUILT_UI=OFF >"$work/cmake.log" 2>&1 || { tail -5 "$work/cmake.log" >&2; exit 1; }
  ninja -C "$build" llama-quantize llama-bench llama-server >"$work/build.log" 2>&1 || { tail -5 "$work/build.log" >&2; exit 1; }
fi
echo "$build/bin"
