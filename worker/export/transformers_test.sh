#!/usr/bin/env bash
# transformers loads both exports of the golden package and the Hugging Face export of a tiny model of every family, and gives a
# text the perplexity that the server gives it.
#   transformers_test.sh BIN_DIR SOURCE_DIR MAKE_FAMILY_PACKAGES
# Exits 77 (skipped) where ${SHIFTADD_TEST_PYTHON:-python3} has no transformers, accelerate, torch or gguf.
set -euo pipefail
bin=$1 source=$2 make=$3 python=${SHIFTADD_TEST_PYTHON:-python3}
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
"$python" -c 'import accelerate, gguf, torch, transformers' 2>/dev/null || { echo "skipped: $python has no transformers (or accelerate, gguf, torch)"; exit 77; }

work=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; fi || true; rm -rf "$work"' EXIT
cp -r "$source/tests/golden/tiny_package" "$work/golden"
for format in hf-fp16 gguf; do
  "$bin/shiftadd-export" golden:v1 "$work/$format" --format $format --package-dir "$work/golden"
done
printf 'Shift and add: 日本語 😀. The quick brown fox jumps over the lazy dog, 12345 times.' >"$work/text"
families=$("$make" "$work")
exports=()
packages=()
for family in $families; do
  "$bin/shiftadd-export" "$family:v1" "$work/$family" --format hf-fp16 --package-dir "$work/layout" >"$work/log"
  exports+=("$family:v1=$work/$family")
  packages+=(--package "$family:v1")
done
# 16-bit activations: what is compared are the weights, not the server's rounding of activations. The families' weights are fp16
# numbers, which nothing rounds.
measure() {  # TOLERANCE LAYOUT PACKAGE… -- EXPORT…
  local tolerance=$1 flags=(--package-dir "$2")
  shift 2
  while [ "$1" != -- ]; do flags+=("$1"); shift; done
  shift
  rm -f "$work/ports"
  "$bin/shiftadd-server" "${flags[@]}" --listen 127.0.0.1:0 --http 127.0.0.1:0 --port-file "$work/ports" --precision a16 \
    --cache-precision f32 --cache-mib 4 --threads 1 2>"$work/server.log" &
  server=$!
  for _ in $(seq 300); do [ -s "$work/ports" ] && break; sleep 0.1; done
  [ -s "$work/ports" ] || { cat "$work/server.log"; exit 1; }
  "$python" "$source/tests/clients/export_perplexity.py" "http://127.0.0.1:$(sed -n 2p "$work/ports")" "$work/text" "$tolerance" "$@"
  kill $server
  wait $server || true
  server=
}
measure 2e-3 "$work/golden" --package golden:v1 -- "$work/hf-fp16" "$work/gguf"
measure 1e-5 "$work/layout" "${packages[@]}" -- "${exports[@]}"
