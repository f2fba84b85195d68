#!/usr/bin/env bash
# deploy/lm-eval.sh --attach on a cluster: lm-eval's figures over the server, kept with the package that it serves.
#   lm_eval_attach_test.sh BIN_DIR SOURCE_DIR
# Exits 77 (skipped) where lm-eval is neither in ${SHIFTADD_TEST_PYTHON:-python3} nor where lm-eval.sh looks for it.
set -euo pipefail
bin=$1 source=$2
if [ -n "${SHIFTADD_TEST_PYTHON:-}" ]; then
  SHIFTADD_LM_EVAL=$("$SHIFTADD_TEST_PYTHON" -c 'import sys; print(sys.prefix)')
  export SHIFTADD_LM_EVAL
fi
"$source/deploy/lm-eval.sh" --found >/dev/null 2>&1 || { echo "skipped: no lm-eval"; exit 77; }
work=$(mktemp -d)
export SHIFTADD_CLI=$bin/shiftadd SHIFTADD_DATA_DIR=$work/data HF_HOME=$work/hf HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
trap '"$SHIFTADD_CLI" down >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
"$SHIFTADD_CLI" up --workers 1 --coordinator-port 0 --packager-port 0 >"$work/up.log" 2>&1 || { cat "$work/up.log"; exit 1; }
"$SHIFTADD_CLI" pull "$source/tests/golden/tiny_package" golden:v1
"$SHIFTADD_CLI" serve golden:v1 --port 0 --grpc-port 0 --detach | tee "$work/serve.log"
url=$(grep -o 'http://[0-9.]*:[0-9]*' "$work/serve.log" | head -1)

mkdir "$work/tasks"
for i in $(seq 12); do printf '{"q": "ab %d", "c": [" cd", " ef"], "a": %d}\n' "$i" $((i % 2)); done >"$work/tasks/letters.jsonl"
cat >"$work/tasks/letters.yaml" <<EOF
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: $work/tasks/letters.jsonl}}
test_split: test
output_type: multiple_choice
metric_list: [{metric: acc}, {metric: acc_norm}]
doc_to_text: "{{q}}"
doc_to_choice: "{{c}}"
doc_to_target: "{{a}}"
target_delimiter: ""
EOF
"$source/deploy/lm-eval.sh" "$url" --local "$work/tasks" --attach golden:v1 >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
grep -q 'kept with golden:v1' "$work/log" || { cat "$work/log"; exit 1; }
"$SHIFTADD_CLI" inspect golden:v1 --json | jq -e '[.evaluations[] | select(.harness == "lm-eval 0.4.13")][0].tasks |
  length == 2 and .[0].task == "letters" and .[0].metric == "acc" and .[0].rows == 12 and .[0].value.standard_error > 0' >/dev/null ||
  { "$SHIFTADD_CLI" inspect golden:v1; exit 1; }
"$SHIFTADD_CLI" inspect golden:v1 | grep -A4 '^evaluation'
if "$source/deploy/lm-eval.sh" "$url" --local "$work/tasks" --model other --attach golden:v1 >"$work/log" 2>&1; then exit 1; fi
grep -q 'expected the same package' "$work/log" || { cat "$work/log"; exit 1; }
