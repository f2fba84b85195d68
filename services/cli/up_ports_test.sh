#!/bin/bash
# `shiftadd up` while others take the usual ports: several clusters at once, and a port that is lost between its choice and its use.
#   up_ports_test.sh BIN_DIR
set -euo pipefail
bin=$(realpath "$1")
data=$(mktemp -d)
unset SHIFTADD_COORDINATOR SHIFTADD_PACKAGER SHIFTADD_DATA_DIR
clusters=(a b c d)

stop() {
  for name in "${clusters[@]}"; do "$bin/shiftadd" down --data-dir "$data/$name" >/dev/null 2>&1 || true; done
  [ ! -s "$data/thief" ] || kill "$(cat "$data/thief")" 2>/dev/null || true
  rm -rf "$data"
}
trap stop EXIT
fail() {
  echo "FAILED: $1" >&2
  tail -n 20 "$data"/*.out "$data"/*/logs/*.log >&2 || true
  exit 1
}
[ -x "$bin/shiftadd-worker" ] || fail "$bin has no shiftadd-worker: build all"

# Three clusters that all look for free ports before any daemon has bound one.
started=()
for name in a b c; do
  "$bin/shiftadd" up --workers 1 --threads 1 --data-dir "$data/$name" >"$data/$name.out" 2>&1 &
  started+=($!)
done
for i in 0 1 2; do wait "${started[$i]}" || fail "cluster ${clusters[$i]} did not come up beside the others"; done
for name in a b c; do
  "$bin/shiftadd" status --data-dir "$data/$name" --json >"$data/$name.json" || fail "cluster $name is not ready: $(cat "$data/$name.json")"
done
addresses=$(jq -r '.daemons[] | .http, .grpc | select(. != "")' "$data"/{a,b,c}.json)
[ "$(wc -l <<<"$addresses")" = 15 ] && [ -z "$(sort <<<"$addresses" | uniq -d)" ] || fail "addresses: $addresses"
for name in a b c; do "$bin/shiftadd" down --data-dir "$data/$name" >/dev/null || fail "down of $name"; done

# A worker whose port somebody takes after it was chosen for it.
mkdir "$data/bin"
cp "$bin/shiftadd" "$data/bin/"
ln -s "$bin/shiftadd-coordinator" "$bin/shiftadd-packager" "$data/bin/"
cat >"$data/bin/shiftadd-worker" <<EOF
#!/bin/bash
port=\$(sed -E 's/.* --http 127.0.0.1:([0-9]+).*/\1/' <<<" \$*")
if [ ! -e "$data/thief" ]; then
  echo "\$port" >"$data/stolen"
  python3 -c "
import os, socket, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', \$port))
s.listen()
open('$data/thief.new', 'w').write(str(os.getpid()))
os.rename('$data/thief.new', '$data/thief')
time.sleep(300)" >/dev/null 2>&1 &
  for _ in \$(seq 600); do [ -e "$data/thief" ] && break; sleep 0.1; done
fi
exec "$bin/shiftadd-worker" "\$@"
EOF
chmod +x "$data/bin/shiftadd-worker"
"$data/bin/shiftadd" up --workers 1 --threads 1 --data-dir "$data/d" >"$data/d.out" 2>&1 || fail "a worker's port that was lost"
[ -s "$data/thief" ] || fail "nobody took the port"
http=$("$bin/shiftadd" status --data-dir "$data/d" --json | jq -r '.daemons[] | select(.name == "worker-1").http')
if [ "$(cat "$data/stolen")" = 0 ]; then
  echo "the usual port was taken from the beginning"
elif [ "$http" = "127.0.0.1:$(cat "$data/stolen")" ] || ! grep -q 'worker-1 found its port taken' "$data/d.out"; then
  fail "the worker is at $http, port $(cat "$data/stolen") was taken"
fi
"$bin/shiftadd" down --data-dir "$data/d" >/dev/null || fail "down of d"
echo "all good"
