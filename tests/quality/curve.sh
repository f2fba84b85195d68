#!/usr/bin/env bash
# KL over bits: one job's candidates under many budgets, each published and measured, against uniform widths.
#
#   tests/quality/curve.sh --bin DIR --model PATH --texts DIR [options]
#
#   --recipe FILE          (default recipes/default.json)
#   --points "…"           average planes (default 12 from 2 to 4)
#   --stored-points "…"    stored bits in place of --points, to compare recipes at equal size; the lines say s2.5 for planes
#   --criteria "…"         of guided, output, weight, paper, measured: a curve each (default guided)
#   --bits "…"             candidate widths, each also measured as a uniform one (default "2 3 4")
#   --measure TEXT         test, c4 or valid (default c4)
#   --windows N            of that text (default 24)
#   --plot FILE            writes the curves as SVG, from the lines of --out
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

recipe=$quality_home/recipes/default.json bits='2 3 4' criteria=guided measure=c4 windows=24 plot='' stored_points=''
points='2 2.125 2.25 2.375 2.5 2.625 2.75 3 3.25 3.5 3.75 4'
while [ $# -gt 0 ]; do
  need_value "$@"
  case $1 in
    --recipe) recipe=$2 ;; --points) points=$2 ;; --criteria) criteria=$2 ;; --bits) bits=$2 ;;
    --measure) measure=$2 ;; --windows) windows=$2 ;; --plot) plot=$2 ;; --stored-points) stored_points=$2 ;;
    *) common_option "$1" "$2" ;;
  esac
  shift 2
done
check_common
if [ -n "$plot" ] && [ -z "$out" ]; then
  echo "--plot: reads the lines of --out: give it too" >&2
  exit 2
fi
# shellcheck disable=SC2086  # a list of points
[ -z "$stored_points" ] || points=$(printf 's%s ' $stored_points)
start_cluster

parent_key=$(candidates_key "$recipe" "$bits" "$criteria")
parent=$(submit_measured "$parent_key" "$recipe" "$bits" "$criteria")
await "$parent_key" >/dev/null

if [ -z "$out" ] || [ ! -s "$out" ]; then
  emit "Model $(basename "$model"), $("$bin/shiftadd" --version | sed -n 1p), recipe $(basename "$recipe" .json)."
  emit "Windows of $length tokens; calibration: the first $calibration_windows of C4; measured on $windows windows ($measure)."
  emit ""
  emit "| series | planes | stored bits | KL | ± | perplexity | package bytes | published |"
  emit "|---|---|---|---|---|---|---|---|"
fi

key_of() { echo "$parent_key $1 $2 $measure $windows"; } # SERIES PLANES
# series_arguments SERIES POINT: sets `arguments`.
series_arguments() {
  [ "$1" = uniform ] && arguments=(--uniform) || arguments=(--criterion "$1")
  case $2 in s*) arguments+=(--stored-bits "${2#s}") ;; *) arguments+=(--bits "$2") ;; esac
}
points_of() { [ "$1" = uniform ] && echo "$bits" || echo "$points"; }

for series in $criteria uniform; do
  for planes in $(points_of "$series"); do
    has "| $series | $planes |" && continue
    series_arguments "$series" "$planes"
    add_evaluation "$measure" "$windows" "$held_out"
    publish "$(key_of "$series" "$planes")" "$parent" "${arguments[@]}" >/dev/null
  done
done
code=0
for series in $criteria uniform; do
  for planes in $(points_of "$series"); do
    has "| $series | $planes |" && continue
    if out_of_time; then
      echo "stopped after $minutes minutes; run it again to go on" >&2
      exit 3
    fi
    path=$(await "$(key_of "$series" "$planes")") || { code=1; continue; }
    emit "$(quality point "$series" "$planes" <"$path")"
  done
done
if [ -n "$out" ]; then
  while read -r line; do has "$line" || emit "$line"; done < <(quality judge <"$out")
  [ -z "$plot" ] || quality plot "$plot" <"$out"
fi
exit $code
