#!/usr/bin/env bash
# Tokens a second of shiftadd and of llama.cpp on the same model, side by side on this machine's CPU.
#   tests/bench/llama_cpp.sh --bin DIR --package NAME:TAG --package-dir DIR --source MODEL.gguf
#       [--work DIR] [--llama-source DIR] [--types "F16 Q8_0 ..."] [--threads "1 2"] [--seconds 200] [--busy N] [--out FILE]
# --bin: where cpu_serve_benchmark is (configure with -DSHIFTADD_BENCHMARKS=ON, build that target).
# --package-dir: an OCI image layout, as `shiftadd up` keeps in DATA_DIR/store; the package must come from --source.
# llama.cpp: by build_llama_cpp.sh in --work (default ~/.cache/shiftadd/llama_cpp), from --llama-source if given; the types of
# --types are quantized there from --source. That takes about ten minutes on two cores and is kept; what is measured afterwards
# takes about --seconds, at least one round of each.
# --busy N: also with N processes beside that never sleep; the share of the undisturbed rate that is left.
# Every program runs once in each round, at every number of threads: prompt of 512 tokens, generation of 128 tokens
# (with --busy, llama.cpp: 128 and 24, with and without the busy processes).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command="tests/bench/llama_cpp.sh ${*@Q}"
usage() { sed -n '3,4p' "$0" >&2; exit 2; }

bin='' package='' package_dir='' source='' work=$HOME/.cache/shiftadd/llama_cpp llama_source=''
types='F16 Q8_0 Q4_0 IQ4_NL Q3_K_S Q2_K' threads='1 2' seconds=200 busy=0 out=''
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; }
  case $1 in
    --bin) bin=$2 ;; --package) package=$2 ;; --package-dir) package_dir=$2 ;; --source) source=$2 ;; --work) work=$2 ;;
    --llama-source) llama_source=$2 ;; --types) types=$2 ;; --threads) threads=$2 ;; --seconds) seconds=$2 ;;
    --busy) busy=$2 ;; --out) out=$2 ;;
    *) echo "unknown option $1" >&2; usage ;;
  esac
  shift 2
done
[ -n "$bin" ] && [ -n "$package" ] && [ -n "$package_dir" ] && [ -n "$source" ] || usage
[ -x "$bin/cpu_serve_benchmark" ] || { echo "$bin/cpu_serve_benchmark: not there; build that target" >&2; exit 1; }
[ -r "$source" ] || { echo "$source: cannot be read" >&2; exit 1; }
mkdir -p "$work/models"

llama=$("$here/build_llama_cpp.sh" "$work" "$llama_source")

# Through F16, so that every type is made from the same numbers.
name=$(basename "$source" .gguf)
quantize() {  # FROM TYPE
  local to=$work/models/$name-$2.gguf
  [ -e "$to" ] && return
  "$llama/llama-quantize" --allow-requantize "$1" "$to.part" "$2" >"$to.log" 2>&1 || { tail -3 "$to.log" >&2; exit 1; }
  mv "$to.part" "$to"
}
quantize "$source" F16
for type in $types; do quantize "$work/models/$name-F16.gguf" "$type"; done

exec python3 "$here/llama_cpp.py" --ours "$bin/cpu_serve_benchmark" --package "$package" --package-dir "$package_dir" \
  --llama-bench "$llama/llama-bench" --models "$work/models/$name" --types "$types" --threads "$threads" \
  --seconds "$seconds" --busy "$busy" --out "$out" --command "$command"
