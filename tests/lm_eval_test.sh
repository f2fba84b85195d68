#!/usr/bin/env bash
# deploy/lm-eval.sh on rows made here, over our server and by lm-eval's own transformers backend on the same weights: the
# same choices, log-likelihoods that agree, and generated texts that end where the task says. And rows that are wrong are
# named.
#   lm_eval_test.sh BIN_DIR SOURCE_DIR
# Exits 77 (skipped) where ${SHIFTADD_TEST_PYTHON:-python3} has no lm-eval, transformers or torch.
set -euo pipefail
bin=$1 source=$2 python=${SHIFTADD_TEST_PYTHON:-python3}
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
work=$(mktemp -d)
export HF_HOME=$work/hf
"$python" -c 'import accelerate, lm_eval, peft, tenacity, torch, transformers' 2>/dev/null ||
  { echo "skipped: $python has no lm-eval with its hf and api parts"; rm -rf "$work"; exit 77; }
SHIFTADD_LM_EVAL=$("$python" -c 'import sys; print(sys.prefix)')
export SHIFTADD_LM_EVAL
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; fi || true; rm -rf "$work"' EXIT

# Two tasks of multiple choice: an answer by number among four, and one by its text among two.
mkdir "$work/tasks"
"$python" - "$work/tasks" <<'PY'
import json, pathlib, random, sys
folder, rng = pathlib.Path(sys.argv[1]), random.Random(5)
word = lambda: "".join(rng.choice("abcdeiourstn") for _ in range(rng.randint(2, 6)))
words = lambda n: " ".join(word() for _ in range(n))
KIND = "test_split: test\noutput_type: multiple_choice\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
def task(name, rows, fields):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(f"task: {name}\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {path}}}}}\n{KIND}{fields}", encoding="utf-8")
task("numbered", [{"q": words(6), "c": [" " + words(rng.randint(1, 4)) for _ in range(4)], "a": i % 4} for i in range(24)],
     'doc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\ndoc_to_target: "{{a}}"\ntarget_delimiter: ""\n')
task("named", [{"passage": words(10), "answer": ["yes", "no"][i % 2]} for i in range(12)],
     'doc_to_text: "{{passage}}\\nAnswer:"\ndoc_to_choice: ["yes", "no"]\ndoc_to_target: answer\n')
# Generated until a letter comes, which it does soon in what a random model says.
(folder / "said.jsonl").write_text("".join(json.dumps({"q": words(5)}) + "\n" for _ in range(12)), encoding="utf-8")
(folder / "said.yaml").write_text(f"""task: said
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "said.jsonl"}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{q}}}}"
generation_kwargs: {{until: ["e", "a", "\\n"], max_gen_toks: 24, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match}}]
""", encoding="utf-8")
PY

cp -r "$source/tests/golden/tiny_package" "$work/layout"
"$bin/shiftadd-export" golden:v1 "$work/hf" --format hf-fp16 --package-dir "$work/layout"
# 16-bit activations: what is compared is scoring, not the server's rounding of activations.
"$bin/shiftadd-server" --package golden:v1 --package-dir "$work/layout" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
  --port-file "$work/ports" --precision a16 --threads 1 2>"$work/server.log" &
server=$!
for _ in $(seq 300); do [ -s "$work/ports" ] && break; sleep 0.1; done
[ -s "$work/ports" ] || { cat "$work/server.log"; exit 1; }
url=http://127.0.0.1:$(sed -n 2p "$work/ports")

"$source/deploy/lm-eval.sh" "$url" --local "$work/tasks" --out "$work/ours" -- --log_samples >"$work/ours.log" 2>&1 ||
  { cat "$work/ours.log"; exit 1; }
"$python" -m lm_eval run --model hf --model_args "pretrained=$work/hf,dtype=float32" --device cpu --include_path "$work/tasks" \
  --tasks named,numbered,said --output_path "$work/theirs" --log_samples >"$work/theirs.log" 2>&1 || { cat "$work/theirs.log"; exit 1; }

"$source/tests/clients/zero_shot.py" "$url" "$work/tasks/numbered.jsonl" "$work/own"

"$python" - "$work" <<'PY'
import glob, json, sys
def samples(side, task):
    [path] = glob.glob(f"{sys.argv[1]}/{side}/**/samples_{task}_*.jsonl", recursive=True)
    rows = sorted((json.loads(line) for line in open(path)), key=lambda r: r["doc_id"])
    if task == "said":
        return [row["filtered_resps"][0] for row in rows]
    return [[float(r[0]) for r in row["filtered_resps"]] for row in rows]
def results(side):
    [path] = glob.glob(f"{sys.argv[1]}/{side}/**/results_*.json", recursive=True)
    return json.load(open(path))["results"]
ours, theirs, worst = results("ours"), results("theirs"), 0
for task, rows in (("numbered", 24), ("named", 12)):
    a, b = samples("ours", task), samples("theirs", task)
    assert len(a) == len(b) == rows, (task, len(a), len(b))
    worst = max(worst, max(abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q)))
    print(f"{task}: log-likelihoods differ by at most {worst:.2e} nats")
    for metric in ("acc,none", "acc_norm,none", "acc_stderr,none"):
        assert abs(ours[task][metric] - theirs[task][metric]) < 1e-9, (task, metric, ours[task], theirs[task])
    print(f"{task}: acc {ours[task]['acc,none']:.4f} +- {ours[task]['acc_stderr,none']:.4f} on both sides, {rows} rows")
assert worst < 0.05, worst
# No text holds what ends it, and some were ended early. Where two tokens are about as likely, 16-bit activations may choose
# the other: most texts are the same.
a, b = samples("ours", "said"), samples("theirs", "said")
assert len(a) == len(b) == 12, (a, b)
assert not any(stop in text for text in a for stop in ("e", "a", "\n")), a
same = sum(x == y for x, y in zip(a, b))
print(f"said: {same} of 12 generated texts are the same on both sides")
assert same >= 8 and len(set(a)) > 2, (a, b)
# The scorer that does without lm-eval.
own = json.load(open(f"{sys.argv[1]}/own/results_zero_shot.json"))
for metric in ("acc,none", "acc_stderr,none"):
    assert abs(own["results"]["numbered"][metric] - ours["numbered"][metric]) < 1e-9, (own["results"], ours["numbered"])
apart = max(abs(x - y) for p, q in zip(samples("ours", "numbered"), own["log_likelihoods"]) for x, y in zip(p, q))
print(f"zero_shot.py: log-likelihoods {apart:.2e} nats from lm-eval's")
assert apart < 1e-3, apart
PY

# Malformed rows, all named at once, before anything is run.
printf '%s\n' '{"q":"x","c":[" a"," b"," c"," d"]}' '{"q":"x","c":" a","a":0}' '{"q":"x","c":[" a"," b"],"a":7}' '[1]' '{"q"' \
  >"$work/tasks/numbered.jsonl"
if "$source/deploy/lm-eval.sh" "$url" --local "$work/tasks" >"$work/bad.log" 2>&1; then
  echo "malformed rows were taken"
  exit 1
fi
for fault in "line 1 (task numbered): 'a' is undefined" "line 2 (task numbered): doc_to_choice: found ' a', expected two texts" \
  'line 3 (task numbered): doc_to_target: found 7, expected 0 to 1' 'line 4 (task numbered): expected a JSON object' \
  'line 5 (task numbered): Expecting'; do
  grep -qF "$fault" "$work/bad.log" || { echo "not said: $fault"; cat "$work/bad.log"; exit 1; }
done
if grep -q Traceback "$work/bad.log"; then cat "$work/bad.log"; exit 1; fi
echo "malformed rows are named"
