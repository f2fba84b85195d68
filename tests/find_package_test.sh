#!/usr/bin/env bash
# The kernels installed, and found, compiled against, linked and run by a project that knows nothing else of this one.
#   tests/find_package_test.sh BUILD SOURCE
set -euo pipefail
build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build/kernels" --prefix "$work/installed" >"$work/install.log" || { cat "$work/install.log"; exit 1; }
cp -r "$source/kernels/testing/consumer" "$work/consumer"
cmake -S "$work/consumer" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/installed" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror" >"$work/configure.log" 2>&1 || { cat "$work/configure.log"; exit 1; }
cmake --build "$work/build" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$work/build/consumer"
# A version that does not go with this one is refused, by CMake and in words.
sed -i 's/shiftadd_kernels 0.1/shiftadd_kernels 9.0/' "$work/consumer/CMakeLists.txt"
if cmake -S "$work/consumer" -B "$work/other" -DCMAKE_PREFIX_PATH="$work/installed" >"$work/other.log" 2>&1; then
  echo "version 9.0 was found"; exit 1
fi
grep -q 'requested version "9.0"' "$work/other.log" || { cat "$work/other.log"; exit 1; }
