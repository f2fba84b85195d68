#!/usr/bin/env bash
# Runs the GPU tests on a machine with a GPU; builds nothing there.
#   tests/gpu.sh DIRECTORY [plain|memcheck|racecheck|metrics|all]     (default: all but metrics)
# DIRECTORY has the kernels_cuda_*_test and serve_cuda_test programs of a build with SHIFTADD_CUDA=ON (build/cuda/tests, or a copy of them).
# kernels_cuda_quantize_test links LibTorch (it compares with the CPU's quantizer): LD_LIBRARY_PATH must find it.
# memcheck and racecheck need compute-sanitizer; SHIFTADD_SANITIZER_FILTER chooses their tests (a GoogleTest filter). Without it memcheck
# takes all, and racecheck, which is tens of times slower, some that run every kernel at small shapes (race_filter below), about two
# minutes. They do without cuBLAS: racecheck reports hazards in its kernels, and with --kernel-name, which would leave those out, the
# tool fails ("failed to handle a hardware exception", then an illegal access) where they run between ours.
# metrics: a job and a server of DIRECTORY/../bin on the GPU, and what they tell of it (device_metrics.py), held to nvidia-smi.
# Ends with one line a part; exits 1 if any part failed or nothing ran. tests/results/gpu_h100.txt keeps a past run.
set -uo pipefail

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[[ $# -ge 1 && -d $1 ]] || usage
directory=$1
what=${2:-all}
filter=${SHIFTADD_SANITIZER_FILTER:-}
# families.json, for the tests of model families.
export SHIFTADD_SOURCE_DIR=${SHIFTADD_SOURCE_DIR:-$(cd "$(dirname "$0")/.." && pwd)}
failed=0
closing=()

shopt -s nullglob
programs=("$directory"/kernels_cuda_*_test "$directory"/serve_cuda_test*)
[[ ${#programs[@]} -gt 0 || $what == metrics ]] || { echo "no kernels_cuda_*_test in $directory" >&2; exit 1; }
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)

nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.sm,clocks.mem --format=csv,noheader ||
  { echo "nvidia-smi failed: no GPU here" >&2; exit 1; }
date -u '+%Y-%m-%d %H:%M UTC'

race_filter() {
  case $1 in
    kernels_cuda_linear_test) echo 'CudaLinearTest.*-*Dense*:*SeveralMatrices*' ;;
    kernels_cuda_quantize_test)
      echo 'CudaFitGroups.*:*/shift_q3_g96_17x250:*/shift_q2_g32_9x100:*/free_q4_g64_16x128:*/free_offset_q2_g128_1x7' ;;
    serve_cuda_test)
      echo '*AgreesWithTheCpu/Rotated:*LogitsAreThoseOfTransformers/*:*SeeTheSameLogits/gemma2:*TruncatedCache*' ;;
    *) echo '*' ;;
  esac
}

# part NAME command…: runs it for each program, and remembers the counts.
part() {
  local name=$1 program log status started tests
  shift
  for program in "${programs[@]}"; do
    started=$(date +%s) status=0
    log=$(mktemp)
    printf '\n== %s: %s\n' "$name" "$(basename "$program")"
    tests=
    [[ $name == plain ]] || tests=$filter
    [[ $name != racecheck || -n $tests ]] || tests=$(race_filter "$(basename "$program")")
    "$@" "$program" ${tests:+"--gtest_filter=$tests"} --gtest_brief=1 >"$log" 2>&1 || status=$?
    grep -vE '^(Note: |\[==========\] .*ran)' "$log" | tail -n 40
    # Skipped tests were not run: here that is a failure, but for the one that wants a machine without a GPU.
    if [[ $status -ne 0 ]] || ! grep -q '^\[  PASSED  \] [1-9]' "$log" ||
      grep -qE '^\[  SKIPPED \] ([2-9]|[1-9][0-9])' "$log"; then
      failed=1
      closing+=("$name $(basename "$program") FAILED")
    else
      closing+=("$name $(basename "$program") passed in $(($(date +%s) - started)) s: $(
        grep -oE '^\[  PASSED  \] .*|(ERROR|RACECHECK) SUMMARY: .*' "$log" | sed 's/^.*\] //' | paste -sd, - | sed 's/,/, /g')")
    fi
    rm -f "$log"
  done
}

# What the daemons tell of the GPU.
metrics() {
  if python3 "$(dirname "$0")/device_metrics.py" "$directory/../bin" "$directory/../bin" cuda; then
    closing+=("metrics passed")
  else
    failed=1
    closing+=("metrics FAILED")
  fi
}

case $what in
  plain | all) part plain env ;;&
  memcheck | all) part memcheck "$sanitizer" --tool memcheck --report-api-errors no --error-exitcode 9 ;;&
  racecheck | all) part racecheck "$sanitizer" --tool racecheck --error-exitcode 9 ;;&
  metrics) metrics ;;
  plain | memcheck | racecheck | all) ;;
  *) usage ;;
esac
printf '\n'
printf '%s\n' "${closing[@]}"
exit $failed
