#!/bin/bash
# From a fresh clone to a quantized, served model that answers, on one Debian 12 machine.
#
#   deploy/quickstart.sh            all of it; what is done already is skipped
#   deploy/quickstart.sh --again    quantizes again even if the package is there
#   deploy/quickstart.sh --stop     stops the server and the cluster that it started
#
#   SHIFTADD_MODEL=PATH       a GGUF file or Hugging Face folder of your own instead of SmolLM2-135M-Instruct
#   SHIFTADD_TORCH_ROOT=PATH  a LibTorch that is there (lib/libtorch_cpu.so and include/)
#   SHIFTADD_CACHE=PATH       where downloads live (default ~/.cache/shiftadd)
#   SHIFTADD_DATA_DIR=PATH    where the cluster keeps its data (default ~/.local/share/shiftadd)
#   SHIFTADD_PORT=N           HTTP port of the server (default 8000)
#   SHIFTADD_JOBS=N           parallel compilers (default: one a core)
set -euo pipefail
# shellcheck source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

trap 'say "FAILED: line $LINENO of quickstart.sh; what to do: read the message above, then run it again"' ERR

build=$SHIFTADD_SOURCE/build/quickstart
shiftadd=$build/bin/shiftadd
data=${SHIFTADD_DATA_DIR:-$HOME/.local/share/shiftadd}
port=${SHIFTADD_PORT:-8000}
question='What is the capital of France? Answer in one sentence.'
again=0

# --- Steps and their times ------------------------------------------------------------------------

step_names=()
step_seconds=()
step_started=0

close_step() {
  [ ${#step_names[@]} -eq ${#step_seconds[@]} ] || step_seconds+=($((SECONDS - step_started)))
}

# step NAME ABOUT: closes the step before and says what comes now.
step() {
  close_step
  step_names+=("$1")
  step_started=$SECONDS
  say ""
  say "== ${#step_names[@]}. $1 ($2)"
}

print_times() {
  close_step
  local i total=0
  say ""
  say "Minutes by step:"
  for i in "${!step_names[@]}"; do
    total=$((total + step_seconds[i]))
    printf '  %6.1f  %s\n' "$(minutes "${step_seconds[i]}")" "${step_names[i]}" >&2
  done
  printf '  %6.1f  in all\n' "$(minutes "$total")" >&2
}

minutes() { awk -v s="$1" 'BEGIN { printf "%.2f", s / 60 }'; }

# --- The parts ------------------------------------------------------------------------------------

# NAME:TAG of the package; a model of one's own gets a name made from its file's.
package_name() {
  local base
  if [ -z "${SHIFTADD_MODEL:-}" ]; then
    echo smollm2:latest
    return
  fi
  base=$(basename "$SHIFTADD_MODEL" .gguf | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9\n' '-' | tr -s '-')
  base=${base#-}
  base=${base%-}
  echo "${base:-model}:latest"
}

build_binaries() {
  local log=$build/build.log
  mkdir -p "$build"
  cmake -S "$SHIFTADD_SOURCE" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSHIFTADD_TESTS=OFF \
    -DSHIFTADD_TORCH_ROOT="$SHIFTADD_TORCH_DIR" >"$log" 2>&1 || {
    tail -n 25 "$log" >&2
    die "configuring the build (all of it is in $log)" "read the message above; a stale build folder: rm -r $build"
  }
  local -a command=(ninja -C "$build" -j "${SHIFTADD_JOBS:-$(nproc)}"
    shiftadd shiftadd-coordinator shiftadd-packager shiftadd-worker shiftadd-server)
  if [ -t 2 ]; then
    "${command[@]}" >&2 || die "building" "read the compiler's message above; short of memory: SHIFTADD_JOBS=1"
  else
    "${command[@]}" >>"$log" 2>&1 || {
      grep -A 20 -m 1 '^FAILED' "$log" >&2 || tail -n 25 "$log" >&2
      die "building (all of it is in $log)" "read the message above; short of memory: SHIFTADD_JOBS=1"
    }
  fi
}

# latest_job JQ_CONDITION: the id of the newest job for our package that meets it; empty if there is none.
latest_job() {
  "$shiftadd" jobs --json |
    jq -r --arg name "$package" "[.jobs[] | select(.spec.output == \$name and (.validate_only | not) and ($1))][0].job_id // empty"
}

published() { "$shiftadd" inspect "$package" >/dev/null 2>&1; }

quantize() {
  local job
  job=$(latest_job '(.state == "succeeded" or .state == "failed" or .state == "cancelled") | not')
  if [ -n "$job" ]; then
    say "job $job is at work on it already"
    "$shiftadd" watch "$job" || quantize_failed
  elif [ "$again" = 0 ] && published; then
    say "$package is published already; --again would quantize it anew"
  else
    "$shiftadd" submit "$SHIFTADD_MODEL_PATH" --bits 3 --name "$package" --watch || quantize_failed
  fi
  # Ctrl-C on the watch leaves the job running: nothing to serve yet.
  published || die "$package is not published yet" "the job goes on by itself: run this again to wait for it"
}

quantize_failed() {
  die "quantizing" "read the message above and the logs in $data/logs; then run this again"
}

show_report() {
  local job
  job=$(latest_job '.state == "succeeded"')
  if [ -z "$job" ]; then
    say "(the job that made $package is no longer known: see shiftadd inspect $package)"
    return
  fi
  "$shiftadd" report "$job" || die "shiftadd report $job" "is the cluster up? see: $shiftadd status"
}

serve() {
  "$shiftadd" serve "$package" --port "$port" --detach ||
    die "serving $package" "if port $port is taken, choose another: SHIFTADD_PORT=8001 deploy/quickstart.sh"
  curl -fsS --noproxy '*' --retry 30 --retry-connrefused --retry-delay 1 --max-time 60 \
    "http://127.0.0.1:$port/ready" >/dev/null ||
    die "the server on port $port is not ready" "see its log in $data/logs"
}

ask() {
  local body answer started ended
  body=$(jq -n --arg model "$package" --arg question "$question" \
    '{model: $model, messages: [{role: "user", content: $question}], max_tokens: 64, temperature: 0}')
  say "curl http://127.0.0.1:$port/v1/chat/completions -H 'Content-Type: application/json' -d '$(jq -c . <<<"$body")'"
  started=$(date +%s%N)
  answer=$(curl -sS --fail-with-body --noproxy '*' --max-time 300 "http://127.0.0.1:$port/v1/chat/completions" \
    -H 'Content-Type: application/json' -d "$body") ||
    die "the chat request: ${answer:-no answer}" "see the server's log in $data/logs"
  ended=$(date +%s%N)
  echo "Question: $question"
  echo "Answer:   $(jq -r '.choices[0].message.content' <<<"$answer")"
  jq -r --argjson ns $((ended - started)) \
    '.usage | "\(.completion_tokens) tokens in \($ns / 1e6 | round / 1000) s: \(.completion_tokens / ($ns / 1e9) * 10 | round / 10) tokens/s (reading the \(.prompt_tokens) tokens of the prompt included)"' \
    <<<"$answer"
}

how_to_go_on() {
  cat <<END

$package is served at http://127.0.0.1:$port (OpenAI API). To go on:
  export PATH=$build/bin:\$PATH
  shiftadd generate $package --chat -p "Tell me a joke."
  shiftadd packages ; shiftadd jobs ; shiftadd workers ; shiftadd status
  shiftadd submit MODEL.gguf --bits 2.5 --name mine --dry-run
To stop everything:  deploy/quickstart.sh --stop
To start it again:   deploy/quickstart.sh   (nothing is built or quantized twice)
END
}

# --- Command line ---------------------------------------------------------------------------------

for argument in "$@"; do
  case $argument in
    --again) again=1 ;;
    --stop)
      [ -x "$shiftadd" ] || die "nothing is built here" "deploy/quickstart.sh builds and starts everything"
      exec "$shiftadd" down
      ;;
    -h | --help)
      sed -n '2,/^set /p' "$0" | sed -e '/^set /d' -e 's/^# \{0,1\}//'
      exit 0
      ;;
    *)
      say "quickstart.sh: no option '$argument'; see deploy/quickstart.sh --help"
      exit 2
      ;;
  esac
done

package=$(package_name)
step "Debian packages" "1 to 3 minutes the first time"
setup_packages
step "LibTorch" "1 to 5 minutes the first time, 550 MB"
setup_torch
step "Build" "10 to 20 minutes on two cores the first time"
build_binaries
step "Model" "under a minute the first time, 98 MB"
setup_model
step "Cluster with two workers" "seconds"
"$shiftadd" up --workers 2 || die "starting the cluster" "read the message above and the logs in $data/logs"
step "Quantize to 3 bits" "about 7 minutes on two cores"
quantize
step "Report" "seconds"
show_report
step "Serve" "seconds"
serve
step "Ask" "seconds"
ask
print_times
how_to_go_on
