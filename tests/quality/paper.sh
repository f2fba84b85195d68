#!/usr/bin/env bash
# The paper's comparison: full precision, rtn, optq, acc, lat and shiftadd at every width of every model, through the service.
#
#   tests/quality/paper.sh --bin DIR --model [NAME=]PATH [--model …] --texts DIR --out FILE [options]
#
# A method is one job, which makes its candidates at all widths; each width is published uniformly and measured with
# `shiftadd eval` on WikiText-2 test (perplexity, KL and agreement with full precision), by deploy/lm-eval.sh on a multiple choice
# made of a text, and with `shiftadd bench` (tokens/s, joules a token where a meter can be read): without further options every
# column is filled. Lines that --out has already are not made again, unless they lack a figure that is now asked for, and figures
# that --data has are not measured again: however a run ends, the same command goes on. The lines are in order when it ends. Exit
# code 3: stopped by --minutes, there is more to do.
#
#   --methods "…"          of rtn optq acc acc-butterfly lat shiftadd (default all)
#   --bits "…"             widths (default "2 3 4")
#   --windows N            of WikiText-2 test (default 148)
#   --task-text FILE       zero-shot rows are made of it: which of four half sentences goes on (chance is .25). Not the paper's
#                          tasks: deploy/lm-eval.sh runs those where the Hugging Face hub can be reached (default: the text that
#                          is measured, WikiText-2's test; none: no zero-shot)
#   --task-rows N          (default 200)
#   --scorer auto|lm-eval|own   own: tests/clients/zero_shot.py, which gives lm-eval's figures on such rows. auto: where lm-eval
#                          is not here
#   --bench SECONDS        of each timing (default 2; 0: none)
#   --plot FILE            KL over stored bits, a panel a model, from the lines of --out, as SVG
#
# Full precision is the source (a 4-bit file) as LibTorch runs it. Its zero-shot figure is that of a package with plain weights
# but for one layer of 8 planes, since lm-eval asks a server, and a server wants a package.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

models=() methods='rtn optq acc acc-butterfly lat shiftadd' bits='2 3 4' windows=148 task_text='' task_rows=200 scorer=auto bench=2 plot=''
while [ $# -gt 0 ]; do
  need_value "$@"
  case $1 in
    --model) models+=("$2") ;; --methods) methods=$2 ;; --bits) bits=$2 ;; --windows) windows=$2 ;; --task-text) task_text=$2 ;;
    --task-rows) task_rows=$2 ;; --scorer) scorer=$2 ;; --bench) bench=$2 ;; --plot) plot=$2 ;;
    *) common_option "$1" "$2" ;;
  esac
  shift 2
done
[ ${#models[@]} -gt 0 ] || models=('')
for one in "${models[@]}"; do
  model=${one#*=}
  check_common
done
recipe_of() { case $1 in shiftadd) echo wht128-shift ;; *) echo "$1" ;; esac; }
for method in $methods; do
  [ -e "$quality_home/recipes/$(recipe_of "$method").json" ] || { echo "no method $method" >&2; exit 2; }
done
[ -n "$out" ] || { echo "--out: it keeps what is done" >&2; exit 2; }
case $scorer in auto | lm-eval | own) ;; *) echo "--scorer $scorer: expected auto, lm-eval or own" >&2; exit 2 ;; esac
if [ "$scorer" = auto ]; then
  if "$quality_home/../../deploy/lm-eval.sh" --found >/dev/null 2>&1; then scorer=lm-eval; else scorer=own; fi
fi
[ -n "$task_text" ] || task_text=$texts/wikitext2-test.txt
[ "$task_text" != none ] || task_text=''
[ -z "$task_text" ] || [ -e "$task_text" ] || { echo "$task_text is not there" >&2; exit 2; }
# What a line must have.
asked=()
[ -z "$task_text" ] || asked+=(zero-shot)
[ "$bench" = 0 ] || asked+=(tokens/s J/token)
# lacks METHOD PLANES: whether the line is to be made.
lacks() { quality paper-lacks "$out" "$name" "$1" "$2" "${asked[@]}"; }

server=''
stop_server() {
  if [ -n "$server" ]; then { kill "$server" && wait "$server"; } || true; fi
  server=''
}
score() { # URL FOLDER
  if [ "$scorer" = own ]; then
    python3 "$quality_home/../clients/zero_shot.py" "$1" "$data/tasks/next.jsonl" "$2"
  else
    "$quality_home/../../deploy/lm-eval.sh" "$1" --local "$data/tasks" --out "$2"
  fi
}
# zero_shot PACKAGE FOLDER: lm-eval's results of the package, into the folder.
zero_shot() {
  local url
  rm -f "$data/ports"
  "$bin/shiftadd-server" --package "$1" --package-dir "$data/store" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
    --port-file "$data/ports" ${threads:+--threads "$threads"} ${device:+--device "$device"} 2>"$data/server.log" &
  server=$!
  for _ in $(seq 1200); do [ -s "$data/ports" ] && break; kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
  [ -s "$data/ports" ] || { tail "$data/server.log" >&2; stop_server; return 1; }
  url=http://127.0.0.1:$(sed -n 2p "$data/ports")
  score "$url" "$2" >"$2.log" 2>&1 || { tail "$2.log" >&2; stop_server; return 1; }
  stop_server
}

# once FILE COMMAND…: its output as the file, unless that is there.
once() {
  local file=$1
  shift
  [ ! -s "$file" ] || return 0
  "$@" >"$file.tmp" && mv "$file.tmp" "$file"
}
zero_shot_once() {
  [ -n "$task_text" ] && [ ! -e "$2/zero-shot.done" ] || return 0
  mkdir -p "$2"
  rm -rf "$2/zero-shot"
  zero_shot "$1" "$2/zero-shot" && touch "$2/zero-shot.done"
}

# bench PACKAGE OPTIONS…
bench() {
  "$bin/shiftadd" bench "$1" --context 128 --seconds "$bench" --json ${threads:+--threads "$threads"} ${device:+--device "$device"} "${@:2}"
}
# The same beside its source, which has to be measured.
bench_source() { bench "$1" --source "$model" | jq -e 'if .source then . else error("source: " + .source_fault) end'; }

# figures PACKAGE FOLDER: everything that is measured of it, each kept in the folder.
figures() {
  mkdir -p "$2"
  once "$2/eval.json" "$bin/shiftadd" eval "$1" --text "$texts/wikitext2-test.txt" --windows "$windows" --length "$length" --json ||
    return 1
  once "$2/inspect.json" "$bin/shiftadd" inspect "$1" --json || return 1
  [ "$bench" = 0 ] || once "$2/bench.json" bench "$1" --no-source || return 1
  zero_shot_once "$1" "$2"
}

submit_recipe() { # KEY RECIPE BITS BUDGET
  # shellcheck disable=SC2086  # a list of widths
  quality recipe "$quality_home/recipes/$2.json" $3 >"$data/recipe.json"
  local -a arguments=(--uniform --eval-sequences 1 --eval-length 64)  # its own measurement is not used
  add_calibration "$calibration_windows"
  submit "$1" "$data/recipe.json" "$4" "${arguments[@]}"
}

# full_precision PACKAGE FOLDER: its line, with figures that measuring the package left in the folder. Its speed is measured once.
full_precision() {
  lacks 'full precision' – || return 0
  [ "$bench" = 0 ] || once "$home/source-bench.json" bench_source "$1" || return 1
  local key="paper $name unquantized $length"
  if [ -n "$task_text" ]; then
    calibration_windows=1 submit_recipe "$key" unquantized 8 8 >/dev/null || return 1
    await "$key" >/dev/null || return 1
    zero_shot_once "quality:$(tag "$key")" "$home/unquantized" || return 1
  fi
  emit "$(quality paper-full "$name" "$2" "$home")"
}

run_method() {
  local b key report folder failed=0 parent_key="paper $name $1 [$bits] $length $calibration_windows" parent
  local -a arguments
  local -a left=()
  for b in $bits; do
    if lacks "$1" "$b"; then left+=("$b"); fi
  done
  [ ${#left[@]} -gt 0 ] || lacks 'full precision' – || return 0
  parent=$(submit_recipe "$parent_key" "$(recipe_of "$1")" "$bits" "${bits%% *}") || return 1
  await "$parent_key" >/dev/null || return 1
  # Full precision is measured beside the last width that is there.
  key="$parent_key at ${bits##* }" folder=$home/$1-${bits##* }
  for b in "${left[@]}"; do
    ! out_of_time || return 3
    key="$parent_key at $b" folder=$home/$1-$b
    arguments=(--bits "$b" --uniform --eval-sequences 1 --eval-length 64)
    publish "$key" "$parent" "${arguments[@]}" >/dev/null || { failed=1; continue; }
    report=$(await "$key") || { failed=1; continue; }
    figures "quality:$(tag "$key")" "$folder" || { failed=1; continue; }
    emit "$(quality paper-row "$name" "$1" "$b" "$report" "$folder")"
  done
  [ ! -s "$folder/eval.json" ] || full_precision "quality:$(tag "$key")" "$folder" || failed=1
  return $failed
}

finish() {
  stop_server
  stop_cluster
  [ ! -s "$out" ] || quality paper-sort "$out"
  [ -z "$plot" ] || [ ! -s "$out" ] || quality paper-plot "$plot" <"$out" || true
}
start_cluster
trap finish EXIT
trap 'exit 130' INT TERM
if [ ! -s "$out" ]; then
  emit "$("$bin/shiftadd" --version | sed -n 1p). All sources are 4-bit files: rows of 4 planes flatter whatever resembles their grid; 2 and 3 count."
  emit ""
  emit "$(quality paper-heading)"
fi
if [ -n "$task_text" ]; then
  python3 "$quality_home/../clients/lm_eval/make_rows.py" "$task_text" "$data/tasks" "$task_rows"
  rm -f "$data"/tasks/text.*  # perplexity is measured above
fi
code=0
for one in "${models[@]}"; do
  model=${one#*=}
  case $one in *=*) name=${one%%=*} ;; *) name=$(basename "$model" .gguf) ;; esac
  home=$data/paper/$name
  mkdir -p "$home"
  for method in $methods; do
    status=0
    if out_of_time; then status=3; else run_method "$method" || status=$?; fi
    if [ $status = 3 ]; then
      echo "stopped after $minutes minutes; run it again to go on" >&2
      exit 3
    fi
    [ $status = 0 ] || { echo "$name $method is not complete" >&2; code=1; }
  done
done
exit $code
