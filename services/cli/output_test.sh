#!/bin/bash
# Output that does not arrive is said; a reader that leaves early is none of that.
#   output_test.sh BIN_DIR
set -uo pipefail
shiftadd=$1/shiftadd

text=$("$shiftadd" --help 2>&1 >/dev/full)
code=$?
if [ $code != 1 ] || ! grep -q 'not all of the output could be written' <<<"$text"; then
  echo "FAILED: a full disk: $code, $text" >&2
  exit 1
fi
{ sleep 0.2 && "$shiftadd" --help; } | true
code=${PIPESTATUS[0]}
[ "$code" = 0 ] || { echo "FAILED: a reader that left: exit code $code" >&2 && exit 1; }
echo "all good"
