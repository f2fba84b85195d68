#!/usr/bin/env bash
# Runs the GPU tests on a machine with a GPU; builds nothing there.
#   tests/gpu.sh DIRECTORY [plain|memcheck|racecheck|all]     (default: all)
# DIRECTORY has the kernels_cuda_*_test and serve_cuda_test programs of a build with SHIFTADD_CUDA=ON (build/cuda/tests, or a copy of them).
# kernels_cuda_quantize_test links LibTorch (it compares with the CPU's quantizer): LD_LIBRARY_PATH must find it.
# memcheck and racecheck need compute-sanitizer; SHIFTADD_SANITIZER_FILTER chooses their tests (a GoogleTest filter).
# Ends with one line a part; exits 1 if any part failed or nothing ran. tests/results/gpu_h100.txt keeps a past run.
set -uo pipefail

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[[ $# -ge 1 && -d $1 ]] || usage
directory=$1
what=${2:-all}
filter=${SHIFTADD_SANITIZER_FILTER:-*}
failed=0
closing=()

shopt -s nullglob
programs=("$directory"/kernels_cuda_*_test "$directory"/serve_cuda_test*)
[[ ${#programs[@]} -gt 0 ]] || { echo "no kernels_cuda_*_test in $directory" >&2; exit 1; }
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)

nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.sm,clocks.mem --format=csv,noheader ||
  { echo "nvidia-smi failed: no GPU here" >&2; exit 1; }
date -u '+%Y-%m-%d %H:%M UTC'

# part NAME command…: runs it for each program, and remembers the counts.
part() {
  local name=$1 program log status started
  shift
  for program in "${programs[@]}"; do
    started=$(date +%s) status=0
    log=$(mktemp)
    printf '\n== %s: %s\n' "$name" "$(basename "$program")"
    "$@" "$program" ${gtest_filter:+"--gtest_filter=$gtest_filter"} --gtest_brief=1 >"$log" 2>&1 || status=$?
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

gtest_filter=
case $what in
  plain | all) part plain env ;;&
  memcheck | all) gtest_filter=$filter part memcheck "$sanitizer" --tool memcheck --report-api-errors no --error-exitcode 9 ;;&
  racecheck | all) gtest_filter=$filter part racecheck "$sanitizer" --tool racecheck --error-exitcode 9 ;;&
  plain | memcheck | racecheck | all) ;;
  *) usage ;;
esac
printf '\n'
printf '%s\n' "${closing[@]}"
exit $failed
