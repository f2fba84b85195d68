#!/usr/bin/env bash
# table.sh, curve.sh and tau.sh: what they refuse, and on a tiny model every kind of line, a run that goes on and one that has
# nothing to do.
#   scripts_test.sh BIN_DIR SOURCE_DIR
set -euo pipefail
bin=$1 source=$2
# shellcheck source-path=SCRIPTDIR source=test_lib.sh
. "$source/tests/quality/test_lib.sh"
make_inputs 5

# --- Arguments ---

# refused SCRIPT MESSAGE ARGUMENTS…: exit code 2 and the message, before anything runs.
refused() {
  local script=$1 message=$2 status=0
  shift 2
  "$source/tests/quality/$script.sh" "$@" >"$work/log" 2>&1 || status=$?
  [ $status = 2 ] || fail "$script $*: exit code $status, expected 2"
  grep -qF -- "$message" "$work/log" || fail "$script $*: expected \"$message\""
}
given=(--bin "$bin" --model "$work/model" --texts "$work/texts")
for script in table curve tau; do
  refused $script "--bin DIR" # all that is missing: the usage
  refused $script "--bin DIR" --bin "$bin" --model "$work/model"
  refused $script "unknown option --colour" "${given[@]}" --colour red
  refused $script "--length: expected a value" "${given[@]}" --length
  refused $script "$work/none is not there" "${given[@]}" --model "$work/none"
  refused $script "$work/c4-calibration.txt is not there" "${given[@]}" --texts "$work"
  "$source/tests/quality/$script.sh" --help >"$work/log" || fail "$script --help: exit code $?"
  grep -q -- "--calibration-windows N" "$work/log" || fail "$script --help: without the common options"
done
refused table "row nothing: no " "${given[@]}" --rows nothing
refused table "row rtn:weight: expected NAME:CRITERION:BUDGET" "${given[@]}" --rows rtn:weight
refused table "row refined:guided:2.5: a refined recipe has no candidates for mixed widths" "${given[@]}" --rows refined:guided:2.5
refused table "--c4-first 1: the first 110 windows calibrate" "${given[@]}" --c4-first 1
refused curve "--plot: reads the lines of --out: give it too" "${given[@]}" --plot "$work/plot.svg"

# --- Runs: one cluster's data for all three ---

run() { # SCRIPT ARGUMENTS…
  local script=$1
  shift
  "$source/tests/quality/$script.sh" "${given[@]}" --data "$work/data" --length 32 --calibration-windows 2 --threads 1 --device cpu \
    --bits "2 3" "$@" >"$work/log" 2>&1
}
jobs() { wc -l <"$work/data/quality-jobs"; }
number='[0-9]+\.[0-9]+(e[+][0-9]+)?'
matches() { [ "$(grep -cE "$2" "$work/$1.md")" = "$3" ] || fail "$1: expected $3 lines like $2: $(cat "$work/$1.md")"; }

table() {
  run table --rows "rtn rtn:weight:2.5 refined wht128-shift@self" --measure "c4 test" --test-windows 2 --c4-windows 2 --c4-first 3 \
    --out "$work/table.md" "$@"
}
status=0
table --minutes 0 || status=$?
[ $status = 3 ] || fail "table --minutes 0: exit code $status"
table || fail "table: exit code $?"
cells="$number \\| $number \\| $number ± $number \\| - \\| [0-9]+ \\| $number ± $number \\|"
for row in rtn refined wht128-shift@self; do
  for planes in 2 3; do matches table "^\\| $row \\| $planes \\| $cells$" 1; done
done
matches table "^\\| rtn:weight:2\\.5 \\| mixed ($number|\\(uniform is better\\)) \\| $cells$" 1
matches table "^\\| full precision \\| – \\| source \\| $number \\| 0 \\| 0 \\| – \\|$" 1
matches table "^\\| " 9 # with the heading's
before=$(md5sum <"$work/table.md") jobs=$(jobs)
table || fail "table, a second time: exit code $?"
[ "$before" = "$(md5sum <"$work/table.md")" ] && [ "$jobs" = "$(jobs)" ] || fail "table did something again: $(cat "$work/table.md")"
sed -i '/^| rtn | 3 |/d' "$work/table.md"
table || fail "table, a line of which is gone: exit code $?"
matches table '^\| rtn \| 3 \|' 1
[ "$jobs" = "$(jobs)" ] || fail "table: jobs were made again for a line"

curve() {
  run curve --recipe "$source/tests/quality/recipes/rtn.json" --points "2 2.5 3" --criteria "weight measured" --measure test --windows 2 \
    --out "$work/curve.md" --plot "$work/curve.svg"
}
curve || fail "curve: exit code $?"
for series in weight measured; do
  for planes in 2 2.5 3; do
    matches curve "^\\| $series \\| $planes \\| $number \\| $number \\| $number \\| $number \\| [0-9]+ \\| (mixed|uniform) \\|$" 1
  done
  matches curve "^$series: 3 points, KL " 1
done
matches curve '^\| uniform \| [23] \|.*\| uniform \|$' 2
python3 -c 'import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])' "$work/curve.svg" || fail "the plot is no XML"
before=$(md5sum <"$work/curve.md") jobs=$(jobs)
curve || fail "curve, a second time: exit code $?"
[ "$before" = "$(md5sum <"$work/curve.md")" ] && [ "$jobs" = "$(jobs)" ] || fail "curve did something again: $(cat "$work/curve.md")"

# The curve has measured the layers alone already: tau.sh finds its job.
run tau --recipe "$source/tests/quality/recipes/rtn.json" --out "$work/tau.md" || fail "tau: exit code $?"
[ "$jobs" = "$(jobs)" ] || fail "tau made a job that is there"
matches tau '^\| criterion \| 2 planes \| 3 planes \| all \|$' 1
for criterion in "weight error" "weight error x weights" "output error" "paper's criterion"; do
  matches tau "^\\| $criterion \\|( (-?$number|-) \\|){3}$" 1
done
matches tau "^\\| weight error \\|( -?[01]\\.[0-9]{3} \\|){3}$" 1
matches tau "^[0-9]+ layers; Kendall's tau-b" 1
cat "$work/table.md" "$work/curve.md" "$work/tau.md"
