#!/bin/bash
# `shiftadd up`, `status` and `down` with the real daemons: idempotence, restarts, leftovers of a killed supervisor.
#   up_test.sh BIN_DIR
set -euo pipefail
. "$(dirname "$0")/../../tests/has.sh"
shiftadd=$1/shiftadd
data=$(mktemp -d)
export SHIFTADD_DATA_DIR=$data
unset SHIFTADD_COORDINATOR SHIFTADD_PACKAGER
trap '"$shiftadd" down >/dev/null 2>&1 || true; rm -rf "$data"' EXIT

fail() {
  echo "FAILED: $1" >&2
  tail -n 20 "$data"/logs/*.log >&2 || true
  exit 1
}
pid_of() { "$shiftadd" status --json | jq ".daemons[] | select(.name == \"$1\").pid"; }
up() { "$shiftadd" up --workers 1 --coordinator-port 0 --packager-port 0; }

[ -x "$1/shiftadd-worker" ] || fail "$1 has no shiftadd-worker: build all"
code=0
"$shiftadd" status >/dev/null 2>&1 || code=$?
[ $code = 3 ] || fail "status without a cluster: exit code $code, expected 3"
"$shiftadd" down | has -q 'no cluster runs' || fail "down without a cluster"

up || fail "up"
"$shiftadd" status || fail "status: not all ready"
up | has -q 'already up' || fail "a second up"
"$shiftadd" jobs | has -q 'no jobs' || fail "jobs: the endpoint file is not used"
"$shiftadd" packages | has -q 'no packages' || fail "packages"

# A bundle tells of the daemons and their logs, and of no value of a variable.
code=0
SHIFTADD_SOME_TOKEN=s3cret-value "$shiftadd" doctor --bundle "$data/bundle.tar.gz" >/dev/null || code=$?
[ $code -le 1 ] && [ -s "$data/bundle.tar.gz" ] || fail "doctor --bundle: $code"
for name in doctor.json version.txt cluster.json workers.json jobs.json variables.txt logs/coordinator.log logs/worker-1.log; do
  tar -tzf "$data/bundle.tar.gz" | has -qx "shiftadd-bundle/$name" || fail "the bundle has no $name"
done
tar -xzOf "$data/bundle.tar.gz" shiftadd-bundle/variables.txt | has -qx SHIFTADD_SOME_TOKEN || fail "the bundle names no variables"
if tar -xzOf "$data/bundle.tar.gz" | has -q s3cret-value; then fail "the bundle holds a secret"; fi
if "$shiftadd" doctor --bundle "$data/bundle.tar.gz" >/dev/null 2>&1; then fail "a bundle is overwritten"; fi

# A daemon that dies comes back at the same address.
old=$(pid_of coordinator)
kill -9 "$old"
for _ in $(seq 100); do
  new=$(pid_of coordinator || true)
  [ "$new" != "$old" ] && [ "$new" != 0 ] && "$shiftadd" jobs >/dev/null 2>&1 && break
  sleep 0.2
done
"$shiftadd" jobs | has -q 'no jobs' || fail "the coordinator did not come back"
[ "$("$shiftadd" status --json | jq '.daemons[] | select(.name == "coordinator").restarts')" = 1 ] || fail "restarts are not counted"

# Another number of workers is refused, not passed over.
code=0
text=$("$shiftadd" up --workers 2 2>&1) || code=$?
if [ $code != 1 ] || ! grep -q 'up with 1 worker,.*shiftadd down.*, then up --workers 2' <<<"$text"; then
  fail "another number of workers: $code, $text"
fi

# A worker that died too often is given up, and started again by `up`.
state() { "$shiftadd" status --json | jq -r '.daemons[] | select(.name == "worker-1").state'; }
for _ in $(seq 600); do
  [ "$(state || true)" = "given up" ] && break
  pid=$(pid_of worker-1 || true)
  [ "$pid" = 0 ] || kill -9 "$pid" 2>/dev/null || true
  sleep 0.2
done
[ "$(state || true)" = "given up" ] || fail "a worker that always dies is not given up"
text=$("$shiftadd" up --workers 2 2>&1) && fail "another number of workers beside one given up: $text"
grep -q 'worker-1 died too often' <<<"$text" || fail "it is not said who was given up: $text"
text=$(up) || fail "up does not start again what was given up: $text"
if [ "$(state || true)" != ready ] || ! grep -q 'started again.*worker-1' <<<"$text"; then
  fail "up started $(state || true), and said: $text"
fi

# A supervisor that is killed leaves nothing that stands in the way.
kill -9 "$("$shiftadd" status --json | jq .pid)"
env -u SHIFTADD_DATA_DIR "$shiftadd" up --workers 1 --coordinator-port 0 --packager-port 0 --data-dir "$data" >"$data/said" ||
  fail "up after the supervisor was killed"
grep -qF "stop it with: shiftadd down --data-dir $data" "$data/said" || fail "up of another folder: $(cat "$data/said")"
worker=$(pid_of worker-1)
"$shiftadd" down | has -q stopped || fail "down"
[ ! -e "$data/cluster.json" ] || fail "down leaves the endpoint file"
[ ! -e "/proc/$worker" ] || fail "down leaves a worker"

# A port that is taken is said, with the daemon not started.
up >/dev/null
port=$("$shiftadd" status --json | jq -r '.coordinator | split(":")[1]')
code=0
text=$("$shiftadd" up --data-dir "$data/other" --coordinator-port "$port" 2>&1) || code=$?
if [ $code != 1 ] || ! grep -q "port $port is in use" <<<"$text"; then fail "a taken port: $code, $text"; fi
echo "all good"
