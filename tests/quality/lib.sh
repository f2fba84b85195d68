# Shared by the scripts of this folder: options, a cluster, jobs that are found again. To be sourced.
# shellcheck shell=bash

quality_home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
quality() { python3 "$quality_home/quality.py" "$@"; }

# --- Options ---

bin='' model='' texts='' data='' out='' workers=1 threads='' device='' length=2048 calibration_windows=110 minutes=''

common_options='  --bin DIR              binaries (required)
  --model PATH           GGUF file or Hugging Face folder (required)
  --texts DIR            holds c4-calibration.txt, wikitext2-test.txt and wikitext2-valid.txt (required)
  --data DIR             keeps the cluster and its jobs from run to run (default: a new folder, removed at the end)
  --out FILE             the table; what is in it already is not done again (default: standard output only)
  --length N             tokens a window (default 2048)
  --calibration-windows N  the first windows of C4 (default 110)
  --workers N --threads N --device cpu|cuda|auto   as for shiftadd up
  --minutes N            starts nothing new after so many minutes; run it again to go on'

usage() {
  sed -n '2,/^set /p' "$0" | sed -e '/^set /d' -e 's/^# \{0,1\}//'
  echo "$common_options"
}

# common_option NAME VALUE: takes an option that all scripts have; ends the program on an unknown one.
common_option() {
  case $1 in
    --bin) bin=$2 ;; --model) model=$2 ;; --texts) texts=$2 ;; --data) data=$2 ;; --out) out=$2 ;;
    --workers) workers=$2 ;; --threads) threads=$2 ;; --device) device=$2 ;; --length) length=$2 ;;
    --calibration-windows) calibration_windows=$2 ;; --minutes) minutes=$2 ;;
    *) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
}

# need_value ARGUMENTS…: for the loop over options.
need_value() {
  case $1 in -h | --help) usage; exit 0 ;; esac
  [ $# -ge 2 ] || { echo "$1: expected a value" >&2; exit 2; }
}

check_common() {
  if [ -z "$bin" ] || [ -z "$model" ] || [ -z "$texts" ]; then
    usage >&2
    exit 2
  fi
  local file
  for file in "$bin/shiftadd" "$model" "$texts"/{c4-calibration,wikitext2-test,wikitext2-valid}.txt; do
    [ -e "$file" ] || { echo "$file is not there" >&2; exit 2; }
  done
}

out_of_time() { [ -n "$minutes" ] && [ $SECONDS -ge $((minutes * 60)) ]; }

# --- The cluster ---

own_data=''
start_cluster() {
  if [ -z "$data" ]; then
    data=$(mktemp -d)
    own_data=1
  fi
  mkdir -p "$data"
  export SHIFTADD_DATA_DIR=$data
  unset SHIFTADD_COORDINATOR SHIFTADD_PACKAGER
  trap stop_cluster EXIT
  # Lines end in \n, as in a text that Python has read: the published perplexities are of such texts.
  local file
  mkdir -p "$data/texts"
  for file in {c4-calibration,wikitext2-test,wikitext2-valid}.txt; do sed 's/\r$//' "$texts/$file" >"$data/texts/$file"; done
  texts=$data/texts
  # On a GPU the workers share it, whoever is first.
  export SHIFTADD_WORKER_SHARE_DEVICE=${SHIFTADD_WORKER_SHARE_DEVICE:-$workers}
  "$bin/shiftadd" up --workers "$workers" --coordinator-port 0 --packager-port 0 \
    ${threads:+--threads "$threads"} ${device:+--device "$device"} >&2
}
stop_cluster() {
  "$bin/shiftadd" down >&2 || true
  [ -z "$own_data" ] || rm -rf "$data"
}

# --- Jobs, by keys of our own: one that was made already, in an earlier run too, is not made again ---

job_of() { # KEY
  [ ! -e "$data/quality-jobs" ] || awk -F '\t' -v key="$1" '$1 == key { job = $2 } END { print job }' "$data/quality-jobs"
}

# job_once KEY COMMAND…: the id of the key's job, made by the command (which prints it as JSON) if there is none.
job_once() {
  local key=$1 job
  shift
  job=$(job_of "$key")
  if [ -z "$job" ]; then
    job=$("$@" | quality get job_id) || return 1
    [ -n "$job" ] || return 1
    printf '%s\t%s\n' "$key" "$job" >>"$data/quality-jobs"
  fi
  echo "$job"
}

# await KEY: waits for its job and leaves its report in $data/quality-reports/JOB.json, the path of which it prints. A job
# that failed is forgotten, so that the next run tries again.
await() {
  local job path
  job=$(job_of "$1")
  path=$data/quality-reports/$job.json
  mkdir -p "$data/quality-reports"
  if [ ! -e "$path" ]; then
    if ! "$bin/shiftadd" watch "$job" >"$path.log" 2>&1; then
      echo "$1: $(tail -n 1 "$path.log")" >&2
      printf '%s\t\n' "$1" >>"$data/quality-jobs"
      return 1
    fi
    "$bin/shiftadd" report "$job" --json >"$path.tmp" && mv "$path.tmp" "$path" || return 1
  fi
  echo "$path"
}

# submit KEY RECIPE_FILE BITS [submit's arguments…]
submit() {
  local key=$1 recipe=$2 budget=$3
  shift 3
  job_once "$key" "$bin/shiftadd" submit "$model" --recipe "$recipe" --bits "$budget" --name "quality:$(tag "$key")" --json "$@"
}

# publish KEY PARENT_JOB [plan's arguments, a budget among them…]
publish() {
  local key=$1 parent=$2
  shift 2
  job_once "$key" "$bin/shiftadd" plan "$parent" --publish "quality:$(tag "$key")" --json "$@"
}

# The job that curve.sh and tau.sh share: candidates of a recipe, with their measured KL if a criterion needs it. It measures
# layers and itself on the held-out windows after the calibration's.
held_out=4
candidates_key() { # RECIPE_FILE BITS CRITERIA
  echo "$(basename "$1" .json) [$2] $(needs_measuring "$3" && echo measured) $length $calibration_windows"
}
submit_measured() { # KEY RECIPE_FILE BITS CRITERIA
  local -a arguments=(--eval-sequences "$held_out" --eval-length "$length")
  add_calibration "$calibration_windows"
  if needs_measuring "$4"; then arguments+=(--criterion measured); fi
  # shellcheck disable=SC2086  # a list of widths
  quality recipe "$2" $3 >"$data/recipe.json"
  submit "$1" "$data/recipe.json" "${3%% *}" "${arguments[@]}"
}
needs_measuring() { case " $1 " in *' measured '*) return 0 ;; *) return 1 ;; esac; }

tag() { tr -c 'A-Za-z0-9_.\n-' '-' <<<"$1" | cut -c 1-120; }

# --- Texts: arguments of submit and plan, added to the array `arguments` of the caller ---

add_calibration() { # WINDOWS
  arguments+=(--calibration "$texts/c4-calibration.txt" --calibration-sequences "$1" --calibration-length "$length")
}
add_self_calibration() { # WINDOWS: the model writes its own
  arguments+=(--calibration-sequences "$1" --calibration-length "$length")
}

# add_evaluation test|c4|valid WINDOWS [SKIP]: WikiText-2 test and valid from their starts; C4 after what calibrates and
# after SKIP more windows, where a job has already looked at these.
add_evaluation() {
  arguments+=(--eval-sequences "$2" --eval-length "$length")
  case $1 in
    test) arguments+=(--eval-text "$texts/wikitext2-test.txt") ;;
    c4) arguments+=(--eval-text "$texts/c4-calibration.txt" --eval-skip $((calibration_windows + ${3:-0}))) ;;
    valid) arguments+=(--eval-text "$texts/wikitext2-valid.txt") ;;
    *) echo "text $1: expected test, c4 or valid" >&2; exit 2 ;;
  esac
}

# --- The table ---

# emit LINE: to standard output and to the end of --out.
emit() {
  echo "$1"
  [ -z "$out" ] || echo "$1" >>"$out"
}
# has PREFIX: whether --out has a line that begins so.
has() { [ -n "$out" ] && [ -e "$out" ] && grep -qF -- "$1" "$out"; }
