#!/usr/bin/env bash
# The paper's comparison of one model: full precision, rtn, optq, acc, lat and shiftadd at every width, through the service.
#
#   tests/quality/paper.sh --bin DIR --model PATH --texts DIR [options]
#
# A method is one job, which makes its candidates at all widths; each width is published uniformly and measured with
# `shiftadd eval` on WikiText-2 test (perplexity, KL and agreement with full precision), by deploy/lm-eval.sh on tasks of a
# folder, and with `shiftadd bench` (tokens/s, joules a token where a meter can be read). Several runs, of several models too, may
# share --out. Exit code 3: stopped by --minutes, there is more to do.
#
#   --name NAME            of the model in the table (default: the file's)
#   --methods "…"          of rtn optq acc acc-butterfly lat shiftadd (default all)
#   --bits "…"             widths (default "2 3 4")
#   --windows N            of WikiText-2 test (default 148)
#   --tasks DIR            lm-eval's tasks (default: none; tests/clients/lm_eval/make_rows.py makes some from any text)
#   --limit N              rows of a task (default all)
#   --bench SECONDS        of each timing (default 2; 0: none)
#   --plot FILE            KL over stored bits, from the lines of --out, as SVG
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

name='' methods='rtn optq acc acc-butterfly lat shiftadd' bits='2 3 4' windows=148 tasks='' limit='' bench=2 plot=''
while [ $# -gt 0 ]; do
  need_value "$@"
  case $1 in
    --name) name=$2 ;; --methods) methods=$2 ;; --bits) bits=$2 ;; --windows) windows=$2 ;; --tasks) tasks=$2 ;;
    --limit) limit=$2 ;; --bench) bench=$2 ;; --plot) plot=$2 ;;
    *) common_option "$1" "$2" ;;
  esac
  shift 2
done
check_common
name=${name:-$(basename "$model" .gguf)}
recipe_of() { case $1 in shiftadd) echo wht128-shift ;; *) echo "$1" ;; esac; }
for method in $methods; do
  [ -e "$quality_home/recipes/$(recipe_of "$method").json" ] || { echo "no method $method" >&2; exit 2; }
done
if [ -n "$plot" ] && [ -z "$out" ]; then
  echo "--plot: reads the lines of --out: give it too" >&2
  exit 2
fi

server=''
stop_server() {
  [ -z "$server" ] || { kill "$server" && wait "$server" || true; }
  server=''
}
# zero_shot PACKAGE FOLDER: lm-eval's results of the package, into the folder.
zero_shot() {
  local url
  rm -f "$data/ports"
  "$bin/shiftadd-server" --package "$1" --package-dir "$data/store" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
    --port-file "$data/ports" ${threads:+--threads "$threads"} 2>"$data/server.log" &
  server=$!
  for _ in $(seq 600); do [ -s "$data/ports" ] && break; sleep 0.1; done
  url=http://127.0.0.1:$(sed -n 2p "$data/ports") || { tail "$data/server.log" >&2; return 1; }
  "$quality_home/../../deploy/lm-eval.sh" "$url" --local "$tasks" --out "$2" -- ${limit:+--limit "$limit"} >"$2.log" 2>&1 ||
    { tail "$2.log" >&2; stop_server; return 1; }
  stop_server
}

# figures PACKAGE FOLDER: everything that is measured of it, each kept in the folder.
figures() {
  mkdir -p "$2"
  if [ ! -s "$2/eval.json" ]; then
    "$bin/shiftadd" eval "$1" --text "$texts/wikitext2-test.txt" --windows "$windows" --length "$length" --json \
      >"$2/eval.tmp" || return 1
    mv "$2/eval.tmp" "$2/eval.json"
  fi
  if [ "$bench" != 0 ] && [ ! -s "$2/bench.json" ]; then
    local -a more=()
    [ ! -e "$data/source-bench.json" ] || more=(--no-source)
    "$bin/shiftadd" bench "$1" --context 128 --seconds "$bench" --json ${threads:+--threads "$threads"} "${more[@]}" \
      >"$2/bench.tmp" || return 1
    [ -e "$data/source-bench.json" ] || cp "$2/bench.tmp" "$data/source-bench.json"
    mv "$2/bench.tmp" "$2/bench.json"
  fi
  if [ -n "$tasks" ] && [ ! -e "$2/zero-shot.done" ]; then
    rm -rf "$2/zero-shot"
    zero_shot "$1" "$2/zero-shot" || return 1
    touch "$2/zero-shot.done"
  fi
}

run_method() {
  local b parent_key parent key report failed=0
  local -a arguments=(--uniform --eval-sequences 1 --eval-length 64)  # its own measurement is not used
  add_calibration "$calibration_windows"
  # shellcheck disable=SC2086  # a list of widths
  quality recipe "$quality_home/recipes/$(recipe_of "$1").json" $bits >"$data/recipe.json"
  parent_key="paper $1 [$bits] $length $calibration_windows"
  parent=$(submit "$parent_key" "$data/recipe.json" "${bits%% *}" "${arguments[@]}") || return 1
  await "$parent_key" >/dev/null || return 1
  for b in $bits; do
    has "| $name | $1 | $b |" && continue
    key="$parent_key at $b"
    arguments=(--bits "$b" --uniform --eval-sequences 1 --eval-length 64)
    publish "$key" "$parent" "${arguments[@]}" >/dev/null || { failed=1; continue; }
    report=$(await "$key") || { failed=1; continue; }
    figures "quality:$(tag "$key")" "$data/paper/$1-$b" || { failed=1; continue; }
    has "| $name | full precision |" || emit "$(quality paper-full "$name" "$data/paper/$1-$b" "$data/source-bench.json")"
    emit "$(quality paper-row "$name" "$1" "$b" "$report" "$data/paper/$1-$b")"
  done
  return $failed
}

start_cluster
trap 'stop_server; stop_cluster' EXIT
if [ -z "$out" ] || [ ! -s "$out" ]; then
  emit "$("$bin/shiftadd" --version | sed -n 1p). All sources are 4-bit files: rows of 4 planes flatter whatever resembles their grid; 2 and 3 count."
  emit ""
  emit "$(quality paper-heading)"
fi
code=0
for method in $methods; do
  if out_of_time; then
    echo "stopped after $minutes minutes; run it again to go on" >&2
    exit 3
  fi
  run_method "$method" || { echo "$method is not complete" >&2; code=1; }
done
if [ -n "$plot" ]; then quality paper-plot "$plot" <"$out"; fi
exit $code
