#!/usr/bin/env bash
# Tokens a second of one client, through the HTTP API of a server that this script starts.
#   tests/bench/server_speed.sh --bin DIR --package NAME:TAG [--package-dir DIR | --packager HOST:PORT] [--threads "1 2"]
#                               [--rounds N] [--temperature T] [--out FILE]
# Prompt: 512 token ids and one new token. Generation: 128 tokens after a prompt of 8, less the time of the first one.
# The number of threads changes with every request of a round, so that all see the same load; best and median of the rounds.
set -euo pipefail

bin='' package='' from=() threads='1 2' rounds=5 temperature=0 out=''
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; }
  case $1 in
    --bin) bin=$2 ;; --package) package=$2 ;; --package-dir | --packager) from=("$1" "$2") ;;
    --threads) threads=$2 ;; --rounds) rounds=$2 ;; --temperature) temperature=$2 ;; --out) out=$2 ;;
    *) echo "unknown option $1" >&2; sed -n 2,6p "$0" >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$bin" ] && [ -n "$package" ] || { sed -n 2,6p "$0" >&2; exit 2; }

work=$(mktemp -d)
pids=()
trap '[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
declare -A port
for t in $threads; do
  "$bin/shiftadd-server" --package "$package" "${from[@]}" --threads "$t" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
    --port-file "$work/ports.$t" >"$work/log.$t" 2>&1 &
  pids+=($!)
  for _ in $(seq 600); do [ -s "$work/ports.$t" ] && break; sleep 0.1; done
  [ -s "$work/ports.$t" ] || { cat "$work/log.$t" >&2; exit 1; }
  port[$t]=$(sed -n 2p "$work/ports.$t")
done

# request THREADS PROMPT_TOKENS NEW_TOKENS: seconds
request() {
  local ids
  ids=$(seq "$2" | awk '{printf("%s%d", (NR > 1 ? "," : ""), ($1 * 37 + 11) % 256 + 20)}')
  curl -sf -o /dev/null -w '%{time_total}\n' "http://127.0.0.1:${port[$1]}/v1/completions" -d \
    "{\"prompt\": [$ids], \"max_tokens\": $3, \"temperature\": $temperature, \"seed\": 1, \"ignore_eos\": true}"
}

for t in $threads; do request "$t" 16 8 >/dev/null; done
for _ in $(seq "$rounds"); do
  for t in $threads; do
    echo "$t prompt $(request "$t" 512 1) 0 512"
    echo "$t generation $(request "$t" 8 129) $(request "$t" 8 1) 128"
  done
done >"$work/times"

{
  echo "$("$bin/shiftadd-server" --version | sed -n 1p), $package, temperature $temperature, rounds $rounds"
  echo "CPU: $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | sed -n 1p), $(nproc) cores; load average at the end: $(cut -d' ' -f1 /proc/loadavg)"
  grep -ho '[0-9.]* MB of weights, [a-z0-9]* kernels' "$work"/log.* | sort -u
  echo "| threads | what | tokens/s, best | tokens/s, median |"
  echo "|---|---|---|---|"
  for t in $threads; do
    for what in prompt generation; do
      awk -v t="$t" -v w="$what" '$1 == t && $2 == w && $3 > $4 {print $5 / ($3 - $4)}' "$work/times" | sort -g |
        awk -v t="$t" -v w="$what" '{v[NR] = $1} END {printf "| %s | %s | %.1f | %.1f |\n", t, w, v[NR], v[int((NR + 1) / 2)]}'
    done
  done
} | tee ${out:+"$out"}
