#!/usr/bin/env bash
# Perplexity and KL of every method at every width, all through the service: one job a cell.
#   tests/quality/table.sh --bin DIR --model PATH --calibration TEXT --eval TEXT [--windows N] [--length N]
#                          [--sequences N] [--workers N] [--methods "rtn lat shiftadd"] [--bits "2 3 4"] [--out FILE]
# Windows: the first N non-overlapping windows of --length tokens of the evaluation text. Calibration: the first
# --sequences windows of --length tokens of the calibration text. Prints one Markdown table.
set -euo pipefail

bin='' model='' calibration='' eval='' windows=8 length=2048 sequences=16 workers=2 methods='rtn lat shiftadd' bits='2 3 4' out=''
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; }
  case $1 in
    --bin) bin=$2 ;; --model) model=$2 ;; --calibration) calibration=$2 ;; --eval) eval=$2 ;;
    --windows) windows=$2 ;; --length) length=$2 ;; --sequences) sequences=$2 ;; --workers) workers=$2 ;;
    --methods) methods=$2 ;; --bits) bits=$2 ;; --out) out=$2 ;;
    *) echo "unknown option $1" >&2; sed -n 2,6p "$0" >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$bin" ] && [ -n "$model" ] && [ -n "$calibration" ] && [ -n "$eval" ] || { sed -n 2,6p "$0" >&2; exit 2; }

data=$(mktemp -d)
export SHIFTADD_DATA_DIR=$data
trap '"$bin/shiftadd" down >/dev/null 2>&1 || true; rm -rf "$data"' EXIT
"$bin/shiftadd" up --workers "$workers" --coordinator-port 0 --packager-port 0 >&2

result=$data/table
{
  echo "| method | planes | stored bits | perplexity | KL (nats) | standard error | seconds |"
  echo "|---|---|---|---|---|---|---|"
} >"$result"
full=''
for method in $methods; do
  for b in $bits; do
    recipe=$data/recipe.json
    echo "{\"method\": \"$method\", \"candidate_bits\": [$b], \"head\": \"raw\"}" >"$recipe"
    started=$(date +%s)
    "$bin/shiftadd" submit "$model" --bits "$b" --name "table:$method-$b" --recipe "$recipe" --calibration "$calibration" \
      --calibration-sequences "$sequences" --calibration-length "$length" --eval-text "$eval" \
      --eval-sequences "$windows" --eval-length "$length" --watch >&2
    row=$("$bin/shiftadd" jobs --json | jq -r --arg m "$method" --arg s $(($(date +%s) - started)) '
      .jobs[0] | [$m, .quality.planes, (.quality.stored_bits * 1000 | round / 1000),
      (.quality.perplexity_quantized * 1000 | round / 1000), (.quality.kl * 10000 | round / 10000),
      (.quality.kl_standard_error * 10000 | round / 10000), $s] | "| " + (map(tostring) | join(" | ")) + " |"')
    echo "$row" | tee -a "$result" >&2
    full=$("$bin/shiftadd" jobs --json | jq -r '.jobs[0].quality.perplexity_full * 1000 | round / 1000')
  done
done
{
  echo "Model $(basename "$model"), $("$bin/shiftadd" --version | head -1)"
  echo "Evaluation: first $windows windows of $length tokens of $(basename "$eval"); calibration: first $sequences windows of"
  echo "$length tokens of $(basename "$calibration"); head and embedding in full precision. Full-precision perplexity on the same windows: $full"
  echo
  cat "$result"
} | tee ${out:+"$out"}
