#!/usr/bin/env bash
# The same bytes at scale: one job with 1 worker, with 2, with 3, and with 3 of which one is killed with -9 in the middle of a state
# (--kill-in profiling, or refining with a recipe that propagates quantized inputs).
#   tests/parity.sh --bin DIR --model PATH [--bits N] [--sequences N] [--length N] [--recipe FILE] [--calibration FILE]
#     [--kill-in STATE] [--device cpu|cuda]
# On cuda the workers of a run share one GPU. Exit code 0 if the four packages, and all candidates behind them, have equal digests.
set -euo pipefail

bin='' model='' bits=3 sequences=32 length=512 recipe='' calibration='' kill_in=profiling device=cpu
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; }
  case $1 in
    --bin) bin=$2 ;; --model) model=$2 ;; --bits) bits=$2 ;; --sequences) sequences=$2 ;; --length) length=$2 ;;
    --recipe) recipe=$2 ;; --calibration) calibration=$2 ;; --kill-in) kill_in=$2 ;; --device) device=$2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$bin" ] && [ -n "$model" ] || { sed -n 2,6p "$0" >&2; exit 2; }

data=''
stop() { [ -z "$data" ] || { SHIFTADD_DATA_DIR=$data "$bin/shiftadd" down >/dev/null 2>&1 || true; rm -rf "$data"; }; }
trap stop EXIT

# kill_one: worker-2, once three tasks of the state are done.
kill_one() {
  local jobs victim
  until jobs=$("$bin/shiftadd" jobs --json) && jq -e --arg state "$kill_in" '.jobs[0] | .state == $state and .progress.tasks_done >= 3' >/dev/null <<<"$jobs"; do
    ! jq -e '.jobs[0].state | IN("succeeded", "failed", "cancelled")' >/dev/null <<<"$jobs" ||
      { echo "the job ended before a worker could be killed in $kill_in" >&2; exit 1; }
    sleep 0.1
  done
  victim=$(jq -r '[.daemons[] | select(.name == "worker-2")][0].pid' "$data/cluster.json")
  kill -9 "$victim"
  echo "  killed worker-2 (pid $victim) with -9" >&2
}

# run WORKERS KILL: sets `digest`, of the package and of all candidates, and `seconds`.
run() {
  data=$(mktemp -d)
  export SHIFTADD_DATA_DIR=$data
  [ "$device" = cpu ] || export SHIFTADD_WORKER_SHARE_DEVICE=$1
  "$bin/shiftadd" up --workers "$1" --device "$device" --coordinator-port 0 --packager-port 0 >/dev/null
  local started job
  started=$(date +%s)
  job=$("$bin/shiftadd" submit "$model" --bits "$bits" --name parity --calibration-sequences "$sequences" --calibration-length "$length" \
    ${recipe:+--recipe "$recipe"} ${calibration:+--calibration "$calibration"} --json | jq -r .job_id)
  [ "$2" != kill ] || kill_one
  "$bin/shiftadd" watch "$job" >"$data/watch.log" || { tail -5 "$data/watch.log" >&2; exit 1; }
  seconds=$(($(date +%s) - started))
  digest=$("$bin/shiftadd" jobs --json | jq -r '.jobs[0].package_digest')
  digest+=" candidates $("$bin/shiftadd" report "$job" --json | jq -r '.layers[] | .candidates[], .refined | select(.) | .digest' | sha256sum | cut -c 1-12)"
  stop
  data=''
}

run 1 no; first=$digest; echo "1 worker                          $digest  $seconds s"
run 2 no; two=$digest; echo "2 workers                         $digest  $seconds s"
run 3 no; three=$digest; echo "3 workers                         $digest  $seconds s"
run 3 kill; killed=$digest; echo "3 workers, one killed with -9     $digest  $seconds s"
[ "$first" = "$two" ] && [ "$first" = "$three" ] && [ "$first" = "$killed" ] && echo "equal"
