#!/usr/bin/env bash
# What is to be measured and tested on GPUs, in calls of less than ten minutes each, on a machine without network: everything is built
# beforehand (-DSHIFTADD_CUDA=ON -DSHIFTADD_BENCHMARKS=ON, build/cuda) and lies beside this script's repository.
#   tests/gpu_calls.sh CALL [BUILD] [OUT]       BUILD: build/cuda; OUT: where the figures go, a file a part (default: gpu-CALL here)
# CALL       GPUs  minutes  gives
# tests      1     7        tests/gpu.sh plain, worker and metrics: kernels, executors, the worker's tasks, CPU against GPU layer
#                           errors; what the daemons tell of a GPU
# sanitize   1     8        memcheck and racecheck of the kernels as they are, with the filters of tests/gpu.sh
# quantize   1     7        the 8B shape: one worker, to all candidates (seconds a state and task kind, stages, digest); evaluation
#                           too, on 8 blocks; windows that the model writes itself
# groups     1     7        the 8B shape with groups of 128 and of 256 inputs and with one scale a row: seconds of the fits
# evaluated  1     6        the 8B shape to the end, measured on 16 windows
# two        2     6        the 8B shape with one worker and with two: seconds, ratio, digests; 8 blocks with one killed
# four       4     5        the same with four
# serve      1     6        tokens/s of the decode step beside the bandwidth floor and a plain fp16 loop; where a step's time goes, by
#                           nsys where the machine has it
# Each ends with the lines to keep. LibTorch's CUDA half is looked for in LD_LIBRARY_PATH, then in python3's torch; Debian packages
# under ./.gpu-debs are unpacked beside it.
set -uo pipefail

[[ $# -ge 1 ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
call=$1
build=$(cd "${2:-$root/build/cuda}" && pwd) || exit 1
out=${3:-gpu-$call}
mkdir -p "$out"
export SHIFTADD_SOURCE_DIR=$root
bin=$build/bin
bench=$root/tests/bench/llama3_8b_quantize.sh
folder=/dev/shm/llama3_$$
trap 'rm -rf "$folder"' EXIT

libraries() {
  local torch debs=/tmp/shiftadd-debs deb
  if compgen -G "$root/.gpu-debs/*.deb" >/dev/null; then
    mkdir -p "$debs"
    for deb in "$root"/.gpu-debs/*.deb; do dpkg -x "$deb" "$debs"; done
    LD_LIBRARY_PATH=$debs/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    PATH=$debs/usr/bin:$PATH
  fi
  torch=$(python3 -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))' 2>/dev/null) &&
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$torch
  export LD_LIBRARY_PATH PATH
}

# keep NAME command…: runs it, its output to the terminal and to OUT/NAME.txt, behind what it ran on.
keep() {
  local name=$1 status
  shift
  {
    printf '\n$ %s\n' "$*"
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    date -u '+%Y-%m-%d %H:%M UTC'
    "$@"
  } 2>&1 | tee "$out/$name.txt"
  status=${PIPESTATUS[0]}
  [[ $status -eq 0 ]] || { echo "$name: exit status $status"; failed=1; }
}
failed=0

model() { python3 "$root/tests/bench/llama3_8b_folder.py" "$folder" --blocks "$1"; }
# quantize NAME OPTIONS…: a job of the shape that lies in $folder.
quantize() { local name=$1; shift; keep "$name" "$bench" --bin "$bin" --folder "$folder" "$@"; }
total() { sed -nE 's/^total +([0-9.]+) s.*/\1/p' "$out/$1.txt"; }
digest() { sed -nE 's/^candidates .*digest over them ([0-9a-f]+)/\1/p' "$out/$1.txt"; }
# compare ONE MANY COUNT: of two runs of one job.
compare() {
  local first second
  first=$(digest "$1") second=$(digest "$2")
  printf '%s workers: %s s against %s s, %s times as fast; digests %s\n' "$3" "$(total "$2")" "$(total "$1")" \
    "$(awk -v a="$(total "$1")" -v b="$(total "$2")" 'BEGIN { if (b > 0) printf "%.2f", a / b }')" \
    "$([[ -n $first && $first == "$second" ]] && echo "equal, ${first:0:16}" || echo "DIFFER: ${first:0:16} ${second:0:16}")" |
    tee -a "$out/$2.txt"
  [[ -n $first && $first == "$second" ]] || failed=1
}

# many COUNT: one worker, then COUNT, each on its own GPU; then COUNT of which one is killed.
many() {
  model 32 && quantize workers_1 --until PROFILING && quantize "workers_$1" --until PROFILING --workers "$1"
  compare workers_1 "workers_$1" "$1"
  rm -rf "$folder"
  model 8 && quantize blocks_8 --blocks 8 --sequences 64 --until PROFILING &&
    quantize blocks_8_killed --blocks 8 --sequences 64 --until PROFILING --workers "$1" --kill
  compare blocks_8 blocks_8_killed "$1, one killed"
}

serve() {
  local nsys program=$build/tests/cuda_serve_benchmark
  [[ -x $program ]] || program=$(find "$build" -name cuda_serve_benchmark -type f | sed -n 1p)
  keep serve "$program" --planes 2,3,4
  keep fp16 python3 "$root/tests/bench/llama3_8b_fp16.py"
  nsys=$(command -v nsys || compgen -G '/usr/local/cuda*/bin/nsys' | sed -n 1p)
  [[ -n $nsys ]] || { echo "no nsys: no profile of a step"; return; }
  # The graph's kernels one by one, by name: count, median, share of the time.
  "$nsys" profile --cuda-graph-trace=node -o "$out/step" --force-overwrite true "$program" --planes 3 --batch 1 >/dev/null &&
    keep step "$nsys" stats --report cuda_gpu_kern_sum --format table "$out/step.nsys-rep"
  rm -f "$out/step.nsys-rep" "$out/step.sqlite"
}

libraries
case $call in
  tests)
    keep plain "$root/tests/gpu.sh" "$build/tests" plain
    keep worker "$root/tests/gpu.sh" "$build/tests" worker
    keep metrics "$root/tests/gpu.sh" "$build/tests" metrics ;;
  sanitize)
    keep memcheck "$root/tests/gpu.sh" "$build/tests" memcheck
    keep racecheck "$root/tests/gpu.sh" "$build/tests" racecheck ;;
  quantize)
    model 32 && quantize one --until PROFILING --tasks "$out/one.tasks" &&
      quantize self_written --self-written --sequences 16 --length 128 --until CALIBRATING
    rm -rf "$folder"
    model 8 && quantize evaluated --blocks 8 --sequences 64 ;;
  groups)
    for groups in 128 256 row; do
      [[ $groups = row ]] && field='"whole_row": true' || field="\"group_size\": $groups"
      echo "{\"method\": \"shiftadd\", $field}" >"$out/groups_$groups.json"
    done
    model 32 && quantize groups_128 --until PROFILING --recipe "$out/groups_128.json" && quantize groups_256 --until PROFILING --recipe "$out/groups_256.json" &&
      quantize groups_row --until PROFILING --recipe "$out/groups_row.json" ;;
  evaluated) model 32 && quantize evaluated --evaluation 16 ;;
  two) many 2 ;;
  four) many 4 ;;
  serve) serve ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
printf '\nfigures: %s\n' "$out"
exit $failed
