#!/usr/bin/env bash
# Kendall's tau of every criterion against the measured KL of the model with one layer alone quantized.
#
#   tests/quality/tau.sh --bin DIR --model PATH --texts DIR [options]
#
#   --recipe FILE          (default recipes/default.json)
#   --bits "…"             candidate widths (default "2 3 4")
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

recipe=$quality_home/recipes/default.json bits='2 3 4'
while [ $# -gt 0 ]; do
  need_value "$@"
  case $1 in
    --recipe) recipe=$2 ;; --bits) bits=$2 ;;
    *) common_option "$1" "$2" ;;
  esac
  shift 2
done
check_common
start_cluster

key=$(candidates_key "$recipe" "$bits" measured)
submit_measured "$key" "$recipe" "$bits" measured >/dev/null
report=$(await "$key")
emit "Model $(basename "$model"), $("$bin/shiftadd" --version | sed -n 1p), recipe $(basename "$recipe" .json); calibration: the first"
emit "$calibration_windows windows of $length tokens of C4."
emit ""
emit "$(quality tau <"$report")"
