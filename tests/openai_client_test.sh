#!/usr/bin/env bash
# The openai client, unmodified, against the server: clients/openai_client.py.
#   openai_client_test.sh BIN_DIR SOURCE_DIR
# Exits 77 (skipped) where ${SHIFTADD_TEST_PYTHON:-python3} has no openai.
set -euo pipefail
bin=$1 source=$2 python=${SHIFTADD_TEST_PYTHON:-python3}
"$python" -c 'import openai' 2>/dev/null || { echo "skipped: $python has no openai"; exit 77; }
work=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; fi || true; rm -rf "$work"' EXIT
cp -r "$source/tests/golden/tiny_package" "$work/layout"
echo secret >"$work/keys"
"$bin/shiftadd-server" --package golden:v1 --package-dir "$work/layout" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
  --port-file "$work/ports" --api-key-file "$work/keys" --threads 1 2>"$work/server.log" &
server=$!
for _ in $(seq 300); do [ -s "$work/ports" ] && break; sleep 0.1; done
[ -s "$work/ports" ] || { cat "$work/server.log"; exit 1; }
"$python" "$source/tests/clients/openai_client.py" "http://127.0.0.1:$(sed -n 2p "$work/ports")/v1" secret ||
  { tail -20 "$work/server.log"; exit 1; }
