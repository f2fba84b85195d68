#!/usr/bin/env bash
# transformers loads both exports of the golden package, and gives its text the perplexity that the server gives it.
#   transformers_test.sh BIN_DIR SOURCE_DIR
# Exits 77 (skipped) where ${SHIFTADD_TEST_PYTHON:-python3} has no transformers, accelerate, torch or gguf.
set -euo pipefail
bin=$1 source=$2 python=${SHIFTADD_TEST_PYTHON:-python3}
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
"$python" -c 'import accelerate, gguf, torch, transformers' 2>/dev/null || { echo "skipped: $python has no transformers (or accelerate, gguf, torch)"; exit 77; }

work=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; fi || true; rm -rf "$work"' EXIT
cp -r "$source/tests/golden/tiny_package" "$work/layout"
for format in hf-fp16 gguf; do
  "$bin/shiftadd-export" golden:v1 "$work/$format" --format $format --package-dir "$work/layout"
done
printf 'Shift and add: 日本語 😀. The quick brown fox jumps over the lazy dog, 12345 times.' >"$work/text"
# 16-bit activations: what is compared are the weights, not the server's rounding of activations.
"$bin/shiftadd-server" --package golden:v1 --package-dir "$work/layout" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
  --port-file "$work/ports" --precision a16 --threads 1 2>"$work/server.log" &
server=$!
for _ in $(seq 300); do [ -s "$work/ports" ] && break; sleep 0.1; done
[ -s "$work/ports" ] || { cat "$work/server.log"; exit 1; }
"$python" "$source/tests/clients/export_perplexity.py" "http://127.0.0.1:$(sed -n 2p "$work/ports")" "$work/text" 2e-3 \
  "$work/hf-fp16" "$work/gguf"
