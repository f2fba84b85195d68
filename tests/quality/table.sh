#!/usr/bin/env bash
# Perplexity and KL of every method and ingredient at every width, all through the service.
#
#   tests/quality/table.sh --bin DIR --model PATH --texts DIR [options]
#
# A row is a recipe of recipes/: one job makes its candidates at all widths, then each width is published uniformly and
# measured on three texts: perplexity on WikiText-2 test (windows from its start), KL on C4 (windows that do
# not calibrate) and on WikiText-2 valid. A recipe that propagates through the quantized model takes a job for each width and text.
# Rows may be recipe names, NAME@self (calibrated on text that the model writes, half as many windows) or groups:
# reference, open, ingredients, self, paper, all. NAME:CRITERION:BUDGET is one mixed allocation of the recipe's candidates
# by that criterion; BUDGET is average planes, or stored bits after an s (lat:paper:2.2, default:guided:s2.5).
# Exit code 3: stopped by --minutes, there is more to do.
#
#   --rows "…"             (default reference)
#   --bits "…"             widths (default "2 3 4")
#   --measure "…"          of test, c4, valid (default all three)
#   --test-windows N       (default 148)
#   --c4-windows N         (default 24)
#   --c4-first N           the window of C4 where they begin, counted from 0 (default 123: the last 24 of 147; at least the
#                          calibration's windows)
#   --valid-windows N      (default 16)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

reference='rtn optq lat acc acc-butterfly plain sweeps guided guided-c4 wht128-free-offset wht128-free wht128-shift-offset wht128-shift'
open='natural wht128-c4 wht128-g256 refined guided-c4-refined'
ingredients='no-rotation no-sweeps one-sweep rms plain-hessian fast g64 g32 whole-row int8-head default'
self='wht128-shift@self'
paper='lat:paper:2.2 acc:paper:2.2 acc-butterfly:paper:2.2'

rows=reference bits='2 3 4' measure='test c4 valid' test_windows=148 c4_windows=24 c4_first=123 valid_windows=16
while [ $# -gt 0 ]; do
  need_value "$@"
  case $1 in
    --rows) rows=$2 ;; --bits) bits=$2 ;; --measure) measure=$2 ;;
    --test-windows) test_windows=$2 ;; --c4-windows) c4_windows=$2 ;; --c4-first) c4_first=$2 ;; --valid-windows) valid_windows=$2 ;;
    *) common_option "$1" "$2" ;;
  esac
  shift 2
done
check_common
[ "$c4_first" -ge "$calibration_windows" ] || { echo "--c4-first $c4_first: the first $calibration_windows windows calibrate" >&2; exit 2; }

names=''
for row in $rows; do
  case $row in
    reference) names="$names $reference" ;; open) names="$names $open" ;; ingredients) names="$names $ingredients" ;;
    self) names="$names $self" ;; paper) names="$names $paper" ;;
    all) names="$names $reference $open $ingredients $self $paper" ;;
    *) names="$names $row" ;;
  esac
done
# recipe_of ROW: its file.
recipe_of() {
  local name=${1%%:*}
  echo "$quality_home/recipes/${name%@self}.json"
}
refined() { grep -q '"propagate": "quantized"' "$(recipe_of "$1")"; }
for row in $names; do
  [ -e "$(recipe_of "$row")" ] || { echo "row $row: no $(recipe_of "$row")" >&2; exit 2; }
  case $row in
    *:*:*) if refined "$row"; then echo "row $row: a refined recipe has no candidates for mixed widths" >&2; exit 2; fi ;;
    *:*) echo "row $row: expected NAME:CRITERION:BUDGET" >&2; exit 2 ;;
  esac
done

windows_of() { case $1 in test) echo "$test_windows" ;; c4) echo "$c4_windows" ;; valid) echo "$valid_windows" ;; esac; }

# add_calibration_of ROW: to `arguments`.
add_calibration_of() {
  case $1 in
    *@self) add_self_calibration $(((calibration_windows + 1) / 2)) ;;
    *) add_calibration "$calibration_windows" ;;
  esac
}

# add_allocation ROW BITS: to `arguments`; BITS is a width that all layers get, or "mixed".
add_allocation() {
  local budget=${1##*:} criterion=${1#*:}
  case $2:$budget in
    mixed:s*) arguments+=(--criterion "${criterion%:*}" --stored-bits "${budget#s}") ;;
    mixed:*) arguments+=(--criterion "${criterion%:*}" --bits "$budget") ;;
    *) arguments+=(--uniform --bits "$2") ;;
  esac
}

# key ROW BITS TEXT: of the job that measures this.
key() { echo "$1 $2 $3 $length $calibration_windows $(windows_of "$3")@$c4_first"; }

# start_cell ROW BITS TEXT PARENT: starts the job that measures it.
start_cell() {
  local key
  key=$(key "$1" "$2" "$3")
  local -a arguments=()
  add_evaluation "$3" "$(windows_of "$3")" $((c4_first - calibration_windows))
  if refined "$1"; then
    add_calibration_of "$1"
    quality recipe "$(recipe_of "$1")" "$2" >"$data/recipe.json"
    submit "$key" "$data/recipe.json" "$2" --uniform "${arguments[@]}" >/dev/null
  else
    add_allocation "$1" "$2"
    publish "$key" "$4" "${arguments[@]}" >/dev/null
  fi
}

# finish_cell ROW BITS PARENT_REPORT: waits for its jobs and writes its line.
finish_cell() {
  local text path first='' seconds full
  local -a reports=()
  for text in $measure; do
    path=$(await "$(key "$1" "$2" "$text")") || return 1
    reports+=("$text=$path")
    [ -n "$first" ] || first=$path
    if [ "$text" = test ] && ! has '| full precision |'; then
      full=$(quality get job.quality.perplexity_full <"$path")
      emit "| full precision | – | source | $(printf '%.3f' "$full") | 0 | 0 | – |"
    fi
  done
  seconds=$(quality seconds <"${3:-$first}")
  emit "$(quality row "$1" "$2" "$seconds" "${reports[@]}")"
}

# run_row ROW: all its lines that are not there yet.
run_row() {
  local b text parent='' parent_report='' failed=0 missing='' measured=$bits
  case $1 in *:*) measured=mixed ;; esac
  for b in $measured; do has "| $1 | $b " || missing="$missing $b"; done
  [ -n "$missing" ] || return 0
  if ! refined "$1"; then
    local -a arguments=(--uniform --eval-sequences 1 --eval-length 64)  # its own measurement is not used
    add_calibration_of "$1"
    # shellcheck disable=SC2086  # a list of widths
    quality recipe "$(recipe_of "$1")" $bits >"$data/recipe.json"
    local parent_key="${1%%:*} [$bits] $length $calibration_windows"
    parent=$(submit "$parent_key" "$data/recipe.json" "${bits%% *}" "${arguments[@]}") || return 1
    parent_report=$(await "$parent_key") || return 1
  fi
  for b in $missing; do
    for text in $measure; do start_cell "$1" "$b" "$text" "$parent" || return 1; done
  done
  for b in $missing; do finish_cell "$1" "$b" "$parent_report" || failed=1; done
  return $failed
}

start_cluster
if [ -z "$out" ] || [ ! -s "$out" ]; then
  emit "Model $(basename "$model"), $("$bin/shiftadd" --version | sed -n 1p)."
  emit "Windows of $length tokens. Calibration: the first $calibration_windows of C4. Perplexity: the first $test_windows of WikiText-2 test."
  emit "KL (± its standard error over windows): $c4_windows of C4 from window $c4_first on; the first $valid_windows of WikiText-2 valid. Seconds: wall time until the"
  emit "candidates of all widths were made, $workers worker(s)${device:+ on $device}. KL test: on the windows of the perplexity."
  emit ""
  emit "| recipe | planes | stored bits | perplexity | KL C4 | KL WikiText-2 | seconds | KL test |"
  emit "|---|---|---|---|---|---|---|---|"
fi
code=0
for row in $names; do
  if out_of_time; then
    echo "stopped after $minutes minutes; run it again to go on" >&2
    exit 3
  fi
  run_row "$row" || { echo "row $row is not complete" >&2; code=1; }
done
exit $code
