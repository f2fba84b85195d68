#!/usr/bin/env bash
# paper.sh on two tiny models: every column, a second run that does nothing again, and one that goes on.
#   paper_test.sh BIN_DIR SOURCE_DIR
set -euo pipefail
bin=$1 source=$2
# shellcheck source-path=SCRIPTDIR source=test_lib.sh
. "$source/tests/quality/test_lib.sh"
make_inputs 3
paper() {
  "$source/tests/quality/paper.sh" --bin "$bin" --model "one=$work/model" --model "two=$work/model" --texts "$work/texts" \
    --data "$work/data" --out "$work/rows.md" --plot "$work/plot.svg" --length 32 --calibration-windows 2 --windows 2 --threads 1 --device cpu \
    --bench 0.02 --task-rows 8 --scorer own "$@" >"$work/log" 2>&1
}
rows() { grep -c '^| \(one\|two\) ' "$work/rows.md"; }
jobs() { wc -l <"$work/data/quality-jobs"; }

paper --methods "shiftadd rtn" --bits "2 3" || fail "exit code $?"
[ "$(rows)" = 10 ] || fail "expected 10 rows, found $(rows): $(cat "$work/rows.md")"
# In order: full precision, then methods as the paper has them; with a figure in every column.
[[ $(sed -n 5,7p "$work/rows.md" | tr '\n' ' ') == '| one | full precision |'*'| one | rtn | 2 |'*'| one | rtn | 3 |'* ]] ||
  fail "order: $(cat "$work/rows.md")"
complete() { # full precision has no planes
  if sed 's/| full precision | – |/| full precision | 16 |/' "$work/rows.md" | grep -E '^\| (one|two) \|.*\| – \|'; then
    fail "a figure is missing: $(cat "$work/rows.md")"
  fi
  [ "$(grep -cE '^\| (one|two) .*\| [0-9.]+ \| ([0-9.]+|not readable here) \|$' "$work/rows.md")" = "$(rows)" ] ||
    fail "tokens/s and joules: $(cat "$work/rows.md")"
}
complete
[ "$(grep -cE '^\| (one|two) .*\| next 0\.[0-9]{3} ± 0\.[0-9]{3} \|' "$work/rows.md")" = 10 ] || fail "zero-shot: $(cat "$work/rows.md")"
python3 -c 'import sys, xml.etree.ElementTree as e; assert len(e.parse(sys.argv[1]).getroot().findall("{*}g")) == 2' "$work/plot.svg" ||
  fail "the plot has not two panels"

before=$(md5sum <"$work/rows.md") jobs=$(jobs)
paper --methods "shiftadd rtn" --bits "2 3" || fail "second run: exit code $?"
[ "$before" = "$(md5sum <"$work/rows.md")" ] && [ "$jobs" = "$(jobs)" ] || fail "a second run did something again"
# A line that is gone is made again from figures that are there.
sed -i '/^| two | rtn | 3 |/d' "$work/rows.md"
paper --methods "shiftadd rtn" --bits "2 3" || fail "third run: exit code $?"
[ "$before" = "$(md5sum <"$work/rows.md")" ] && [ "$jobs" = "$(jobs)" ] || fail "a line that is gone: $(cat "$work/rows.md")"
status=0
paper --methods optq --bits 2 --minutes 0 || status=$?
[ $status = 3 ] || fail "--minutes 0: exit code $status"
# Lines of a run that measured less are filled by one that asks for more, without another job.
paper --methods optq --bits 2 --bench 0 --task-text none || fail "a run that goes on: exit code $?"
[ "$(rows)" = 12 ] && [ "$(grep -cE '^\| (one|two) \| optq .*\| – \| – \|$' "$work/rows.md")" = 2 ] || fail "without bench: $(cat "$work/rows.md")"
jobs=$(jobs)
paper --methods optq --bits 2 || fail "a run that measures more: exit code $?"
[ "$(rows)" = 12 ] && [ "$jobs" = "$(jobs)" ] || fail "expected 12 rows and no new jobs: $(cat "$work/rows.md")"
complete
cat "$work/rows.md"
