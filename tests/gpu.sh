#!/usr/bin/env bash
# Runs the GPU tests on a machine with a GPU; builds nothing there.
#   tests/gpu.sh DIRECTORY [plain|worker|memcheck|racecheck|metrics|all]     (default: all but metrics)
# DIRECTORY has the test programs of a build with SHIFTADD_CUDA=ON (build/cuda/tests, or a copy of some of them). plain, memcheck and
# racecheck take kernels_cuda_*_test and serve_cuda_test; worker takes those of the worker's programs whose names stand below
# (worker_filter), and of them what runs on the GPU. kernels_cuda_quantize_test and the worker's link LibTorch: LD_LIBRARY_PATH must
# find it. tests/gpu_calls.sh does, and runs all this in pieces of ten minutes.
# plain runs kernels_cuda_quantize_test as eight processes: its cases of a thousand rows are compared with loops in float64 on the host,
# minutes of them on one core.
# memcheck and racecheck need compute-sanitizer; SHIFTADD_SANITIZER_FILTER chooses their tests (a GoogleTest filter). Without it memcheck
# takes all but those large cases, and racecheck, which is tens of times slower, some that run every kernel at small shapes (race_filter
# below), about two minutes. They do without cuBLAS: racecheck reports hazards in its kernels, and with --kernel-name, which would leave
# those out, the tool fails ("failed to handle a hardware exception", then an illegal access) where they run between ours.
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
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

shopt -s nullglob
kernels=("$directory"/kernels_cuda_*_test "$directory"/serve_cuda_test*)
worker=()
for name in half_model_test device_model_test evaluate_test family_test quantize_device_test tasks_test; do
  [[ ! -x $directory/$name ]] || worker+=("$directory/$name")
done
[[ ${#kernels[@]} -gt 0 || ${#worker[@]} -gt 0 || $what == metrics ]] || { echo "no kernels_cuda_*_test in $directory" >&2; exit 1; }
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)

nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.sm,clocks.mem --format=csv,noheader ||
  { echo "nvidia-smi failed: no GPU here" >&2; exit 1; }
date -u '+%Y-%m-%d %H:%M UTC'

race_filter() {
  case $1 in
    kernels_cuda_linear_test) echo 'CudaLinearTest.*:*LinearEncodingTest.Gathers*:*LinearEncodingTest.Extremes*-*Dense*' ;;
    kernels_cuda_quantize_test)
      echo 'CudaFitGroups.*:*/shift_q3_g96_17x250:*/shift_q2_g32_9x100:*/free_q4_g64_16x128:*/free_offset_q2_g128_1x7:*/shift_offset_q2_g160_17x331' ;;
    serve_cuda_test)
      echo '*AgreesWithTheCpu/Rotated:*LogitsAreThoseOfTransformers/*:*SeeTheSameLogits/gemma2:*TruncatedCache*' ;;
    *) echo '*' ;;
  esac
}

worker_filter() {
  case $1 in
    half_model_test | device_model_test) echo '*/1:HalfModelMemory*' ;;  # the second device is CUDA
    evaluate_test) echo 'Mixed.*:*Gpu*' ;;
    family_test) echo '*Logits*:*TokenWeights*:*Bf16*' ;;
    tasks_test) echo '*Gpu*:*Bf16*' ;;
    *) echo '*' ;;
  esac
}

tests_of() {
  case $1 in
    memcheck) if [[ -n $filter ]]; then echo "$filter"; elif [[ $2 == kernels_cuda_quantize_test ]]; then echo '-Large/*'; fi ;;
    racecheck) if [[ -n $filter ]]; then echo "$filter"; else race_filter "$2"; fi ;;
    worker) worker_filter "$2" ;;
  esac
}

# run_shards LOG SHARDS command…: the program's tests as so many processes; their exit codes' largest.
run_shards() {
  local log=$1 shards=$2 shard status=0 pids=()
  shift 2
  for ((shard = 0; shard < shards; ++shard)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard "$@" >"$log.$shard" 2>&1 &
    pids+=($!)
  done
  for shard in "${pids[@]}"; do wait "$shard" || status=$?; done
  cat "$log".* >"$log"
  rm -f "$log".*
  return "$status"
}

# The counts of GoogleTest's lines of one kind in a log, summed.
count() { sed -nE "s/^\[  $1 *\] ([0-9]+) test.*/\1/p" "$2" | awk '{ sum += $1 } END { print sum + 0 }'; }

# part NAME PROGRAM command…: runs it and remembers the counts.
part() {
  local name=$1 program=$2 log=$logs/log status=0 started tests shards=1
  shift 2
  started=$(date +%s)
  tests=$(tests_of "$name" "$(basename "$program")")
  [[ $name != plain || $(basename "$program") != kernels_cuda_quantize_test ]] || shards=8
  printf '\n== %s: %s\n' "$name" "$(basename "$program")"
  run_shards "$log" "$shards" "$@" "$program" ${tests:+"--gtest_filter=$tests"} --gtest_brief=1 || status=$?
  grep -vE '^(Note: |\[==========\] .*ran|Running main)' "$log" | tail -n 60
  # Skipped tests were not run: here that is a failure, but for the one that wants a machine without a GPU, and those that want files.
  local passed skipped
  passed=$(count PASSED "$log") skipped=$(count SKIPPED "$log")
  if [[ $status -ne 0 || $passed -eq 0 ]] || [[ $skipped -gt 1 && $(basename "$program") != kernels_cuda_quantize_test ]]; then
    failed=1
    closing+=("$name $(basename "$program") FAILED (status $status, $passed passed, $skipped skipped)")
  else
    closing+=("$name $(basename "$program") passed in $(($(date +%s) - started)) s: $passed tests, $skipped skipped$(
      grep -oE '(ERROR|RACECHECK) SUMMARY: .*' "$log" | sed 's/^/, /' | paste -sd ' ' -)")
  fi
}

# each NAME PROGRAMS… -- command…
each() {
  local name=$1 programs=() program
  shift
  while [[ $1 != -- ]]; do programs+=("$1"); shift; done
  shift
  for program in ${programs[@]+"${programs[@]}"}; do part "$name" "$program" "$@"; done
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
  plain | all) each plain ${kernels[@]+"${kernels[@]}"} -- env ;;&
  worker | all) each worker ${worker[@]+"${worker[@]}"} -- env ;;&
  memcheck | all) each memcheck ${kernels[@]+"${kernels[@]}"} -- "$sanitizer" --tool memcheck --report-api-errors no --error-exitcode 9 ;;&
  racecheck | all) each racecheck ${kernels[@]+"${kernels[@]}"} -- "$sanitizer" --tool racecheck --error-exitcode 9 ;;&
  metrics) metrics ;;
  plain | worker | memcheck | racecheck | all) ;;
  *) usage ;;
esac
[[ ${#closing[@]} -gt 0 ]] || { echo "$what: no such program in $directory" >&2; exit 1; }
printf '\n'
printf '%s\n' "${closing[@]}"
exit $failed
