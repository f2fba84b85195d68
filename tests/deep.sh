#!/usr/bin/env bash
# What takes longer than tests/run.sh may. Needs what tests/run.sh installs.
#   tests/deep.sh asan    every unit test under the address, leak and undefined-behaviour sanitizers (~1 h on 2 cores)
#   tests/deep.sh tsan    what has threads under the thread sanitizer (~40 min)
#   tests/deep.sh fuzz    damaged models, SHIFTADD_FUZZ_FACTOR (default 50) times as many as in tests/run.sh, on the
#                         asan build
#   tests/deep.sh libfuzzer  each target of tests/fuzz for SHIFTADD_FUZZ_SECONDS (default 600), with clang's libFuzzer, address and
#                         undefined-behaviour sanitizers, SHIFTADD_JOBS at a time; SHIFTADD_FUZZ_TARGETS: only these. What it
#                         finds is kept in build/fuzz/found; corpora grow in build/fuzz/corpus
#   tests/deep.sh chaos   SHIFTADD_CHAOS_ROUNDS (default 1000) clusters, on SQLite and on PostgreSQL, whose daemons are
#                         killed, stopped and cut off; seeds from SHIFTADD_CHAOS_SEED (default 1) on
#   tests/deep.sh load    200 streaming clients on shiftadd-server for SHIFTADD_LOAD_SECONDS (default 600): nothing fails
#                         but 429s, memory stays flat. A tiny package, or SHIFTADD_LOAD_PACKAGE (name:tag) of the OCI image
#                         layout SHIFTADD_LOAD_PACKAGE_DIR
#   tests/deep.sh scale   a coordinator under 64 simulated workers, 200 jobs and 1000 watchers, on SQLite and PostgreSQL: idle
#                         time at most 5 % of leased time, no event missed
#   tests/deep.sh tokenizers  10,000 strings a tokenizer against Hugging Face's (installed into build/)
#   tests/deep.sh references  our server and exports beside lm-eval and transformers (deploy/setup.sh references, 6 GB; or
#                         SHIFTADD_TEST_PYTHON, one that has them); a test that is skipped fails here
#   tests/deep.sh all     these, in this order, whatever fails
# SHIFTADD_JOBS: parallel compilers (default: the cores). SHIFTADD_BUILD_DIR: the plain build for chaos (default
# build/tests). Ends with one line of counts a part; exits 1 if any part failed. The full output of each part is
# build/deep_PART.log; tests/results/ keeps the counts of past runs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

jobs=${SHIFTADD_JOBS:-$(nproc)}
plain=${SHIFTADD_BUILD_DIR:-build/tests}
sanitizers=$PWD/tests/sanitizers
closing=()
failed=0

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# build PRESET TARGET…: configures and builds build/PRESET.
build() {
  local preset=$1; shift
  cmake --preset "$preset" >"build/$preset.cmake.log" 2>&1 || { cat "build/$preset.cmake.log"; return 1; }
  ninja -C "build/$preset" -j "$jobs" "$@"
}

# Sanitizer reports in a log: a test may pass although a daemon that it started did not.
reports() { grep -cE '(ERROR|WARNING): (Address|Leak|Thread)Sanitizer|: runtime error: ' "$1" || true; }

# run_ctest DIRECTORY ctest-arguments…: fails on any sanitizer report too. Reports go to files (log_path), so that those
# of daemons are seen as well, wherever their stderr goes.
run_ctest() {
  local directory=$1 status=0; shift
  rm -f "$directory"/report.*
  ctest --test-dir "$directory" --output-on-failure --no-tests=error "$@" || status=$?
  local files=("$directory"/report.*)
  if [[ -e ${files[0]} ]]; then cat "${files[@]}"; status=1; fi
  return "$status"
}

# asan_environment [FLAG]: FLAG is added for both sanitizers. GCC's UBSan reads its own variable in an ASan program.
asan_environment() {
  export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1${1:+:$1}"
  export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1${1:+:$1}"
  export LSAN_OPTIONS="suppressions=$sanitizers/leaks.supp:print_suppressions=0"
}

part_asan() {
  build asan || return 1
  asan_environment "log_path=$PWD/build/asan/report"
  # Left out: what checks files instead of running code, and the loops over whole clusters, which run on the plain build.
  run_ctest build/asan -E '^(walls_test|format_test|chaos_test|cluster_test|bad_input_test|tag_move_test|serve_bad_input_test|load_test|replica_status_test|identity_test|secrets_test|roles_test|disaster_test|chaos_rounds_test)$'
}

# The tests of what has threads of its own. Not those that call LibTorch: its thread pools are not instrumented.
tsan_tests=(base_test metrics_test access_test http_test blob_test registry_test job_store_test rpc_test packaging_test
            packaging_postgres_test coordinator_test coordinator_evaluate_test coordinator_refine_test task_store_test
            lease_loop_test serve_parts_test packed_model_test engine_test prefix_reuse_test openai_api_test
            server_process_test)

part_tsan() {
  build tsan "${tsan_tests[@]}" || return 1
  export TSAN_OPTIONS="suppressions=$sanitizers/threads.supp:halt_on_error=0:second_deadlock_stack=1:log_path=$PWD/build/tsan/report"
  run_ctest build/tsan -R "^($(IFS='|'; echo "${tsan_tests[*]}"))\$"
}

part_fuzz() {
  build asan bad_source_test gguf_test safetensors_test packed_blob_test || return 1
  asan_environment
  SHIFTADD_FUZZ_FACTOR=${SHIFTADD_FUZZ_FACTOR:-50} build/asan/tests/bad_source_test --gtest_filter='*Damaged*' &&
    build/asan/tests/gguf_test && build/asan/tests/safetensors_test && build/asan/tests/packed_blob_test
}

fuzz_targets=(gguf safetensors tokenizer chat_template recipe oci http openai rpc)

# fuzz_one NAME: one target, at low priority; prints what came of it and fails if it found something.
fuzz_one() {
  local name=$1 seconds=${SHIFTADD_FUZZ_SECONDS:-600} found=$PWD/build/fuzz/found/$1 log=build/fuzz_$1.log status=0 length=65536
  [[ $name != http ]] || length=16384 # more than its socket takes is not looked at
  mkdir -p "build/fuzz/corpus/$name" "$found"
  nice -n 15 "build/fuzz/tests/fuzz_$name" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2048 -max_len="$length" \
    -print_final_stats=1 -artifact_prefix="$found/" "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1 || status=1
  [[ $status -eq 0 ]] || tail -60 "$log"
  printf '%s: %s executions in %s s, coverage %s, corpus %s, found %s\n' "$name" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$seconds" \
    "$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges \2 features/p' "$log" | tail -1)" \
    "$(sed -n 's/.* corp: \([^ ]*\) .*/\1/p' "$log" | tail -1)" "$(find "$found" -type f | wc -l)"
  return "$status"
}

part_libfuzzer() {
  local targets
  read -ra targets <<<"${SHIFTADD_FUZZ_TARGETS:-${fuzz_targets[*]}}"
  build fuzz "${targets[@]/#/fuzz_}" || return 1
  asan_environment
  # A target keeps its stores for the life of the process.
  export ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0
  export -f fuzz_one
  printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I NAME bash -c 'fuzz_one NAME'
}

part_chaos() {
  cmake -S . -B "$plain" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null && ninja -C "$plain" -j "$jobs" chaos_rounds || return 1
  "$plain/tests/chaos_rounds" --rounds "${SHIFTADD_CHAOS_ROUNDS:-1000}" --seed "${SHIFTADD_CHAOS_SEED:-1}" --keep-going
}

part_load() {
  cmake -S . -B "$plain" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null && ninja -C "$plain" -j "$jobs" serve_load || return 1
  local package=()
  if [[ -n ${SHIFTADD_LOAD_PACKAGE_DIR:-} ]]; then
    package=(--package "$SHIFTADD_LOAD_PACKAGE" --package-dir "$SHIFTADD_LOAD_PACKAGE_DIR")
  fi
  "$plain/tests/serve_load" --clients 200 --seconds "${SHIFTADD_LOAD_SECONDS:-600}" --max-growth-mb 16 "${package[@]}"
}

part_scale() {
  cmake -S . -B "$plain" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null && ninja -C "$plain" -j "$jobs" scale_run || return 1
  local status=0
  for store in sqlite postgres; do
    "$plain/tests/scale_run" --header --store "$store" --max-idle 0.05 || status=1
  done
  return "$status"
}

# 10,000 strings a tokenizer against Hugging Face's tokenizers, which are installed into build/.
part_tokenizers() {
  local venv=build/tokenizers_venv
  cmake -S . -B "$plain" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null && ninja -C "$plain" -j "$jobs" tokenizer_kinds_test || return 1
  python3 -m venv "$venv" &&
    "$venv/bin/pip" install --quiet $(grep -E '^(tokenizers|sentencepiece|protobuf)==' tests/golden/requirements.txt) &&
    "$venv/bin/python" tests/golden/make_tokenizers.py --count 10000 --seed 2 --out build/tokenizers_venv || return 1
  SHIFTADD_TOKENIZER_GOLDEN=$venv "$plain/tests/tokenizer_kinds_test"
}

reference_tests='^(lm_eval_test|lm_eval_attach_test|lm_eval_names_test|export_transformers_test)$'

part_references() {
  if [[ -z ${SHIFTADD_TEST_PYTHON:-} ]]; then
    deploy/setup.sh references || return 1
    export SHIFTADD_TEST_PYTHON=${SHIFTADD_CACHE:-$HOME/.cache/shiftadd}/references/bin/python
  fi
  cmake -S . -B "$plain" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null && ninja -C "$plain" -j "$jobs" || return 1
  local log=build/deep_references.ctest
  ctest --test-dir "$plain" --output-on-failure --no-tests=error -R "$reference_tests" | tee "$log" && ! grep -q 'Skipped' "$log"
}

# counts PART: what its log says was run.
counts() {
  local log=build/deep_$1.log
  case $1 in
    asan | tsan | references) grep -E '^[0-9]+% tests passed' "$log" | tail -1 ;;
    fuzz) grep -cE '^\[       OK' "$log" | sed 's/$/ tests passed/' ;;
    libfuzzer) grep -E ' executions in ' "$log" ;;
    chaos) grep -E '^chaos: ' "$log" | tail -1 ;;
    scale) grep -E '^(sqlite|postgres) ' "$log" | tail -2 ;;
    load) grep -E ' streams whole' "$log" | tail -1 ;;
    tokenizers) grep -E 'strings differ$' "$log" | tail -30 ;;
  esac
}

run_part() {
  local part=$1 started status=0 verdict=passed
  started=$(date +%s)
  printf '\n== %s, %s\n' "$part" "$(date -u '+%Y-%m-%d %H:%M UTC')"
  # A shell of its own: the sanitizers' settings of one part must not reach the next.
  ( "part_$part" ) 2>&1 | tee "build/deep_$part.log" || status=$?
  if [[ $status -ne 0 ]]; then verdict=FAILED; failed=1; fi
  closing+=("$part $verdict in $(($(date +%s) - started)) s: $(counts "$part"), $(reports "build/deep_$part.log") sanitizer reports")
}

[[ $# -eq 1 ]] || usage
mkdir -p build
case $1 in
  asan | tsan | fuzz | libfuzzer | chaos | load | scale | tokenizers | references) run_part "$1" ;;
  all) for part in asan tsan fuzz libfuzzer chaos load scale tokenizers references; do run_part "$part"; done ;;
  *) usage ;;
esac
printf '\n'
printf '%s\n' "${closing[@]}"
exit $failed
