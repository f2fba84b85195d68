#!/usr/bin/env bash
# Quantizes a model of Llama-3-8B's shape (random weights: llama3_8b_folder.py) with the whole service on this machine's GPU:
# coordinator, packager, workers, store; candidates of 2, 3 and 4 planes. Prints the seconds of every state and task kind, the
# stages of PROFILE, and a digest over all candidates of the job.
#   tests/bench/llama3_8b_quantize.sh --bin DIR [--folder DIR] [--blocks N] [--sequences N] [--length N] [--workers N] [--kill]
#     [--self-written] [--evaluation N] [--recipe FILE] [--until STATE] [--tasks FILE] [--timeline FILE]
# --until PROFILING stops when that state has ended, where the layers are made: EVALUATING reads the model anew, and measures on
# --evaluation windows of --length tokens (default: one of 64 tokens). --self-written lets the model write its calibration windows
# (CALIBRATE's seconds: it samples on the CPU) instead of giving a text. --recipe: as for submit (default: the default recipe).
# --kill kills worker-1 with -9 once a task of PROFILING is done. --tasks writes a line a task: kind, ordinal, and the digests of what
# it made, in order (two such files tell where two jobs part). --timeline writes when each worker began and ended each task, in
# seconds from the first of them. Files go to /dev/shm.
set -euo pipefail

bin='' folder=/dev/shm/llama3 blocks=32 sequences=128 length=2048 workers=1 kill='' until=SUCCEEDED tasks='' timeline='' written='' evaluation='' recipe=''
while [ $# -gt 0 ]; do
  case $1 in
    --kill) kill=1; shift; continue ;;
    --self-written) written=1; shift; continue ;;
    --bin) bin=$2 ;; --folder) folder=$2 ;; --blocks) blocks=$2 ;; --sequences) sequences=$2 ;; --length) length=$2 ;;
    --workers) workers=$2 ;; --until) until=$2 ;; --tasks) tasks=$2 ;;
    --timeline) timeline=$2 ;;
    --evaluation) evaluation=$2 ;; --recipe) recipe=$2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$bin" ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
[ -e "$folder/config.json" ] || python3 "$here/llama3_8b_folder.py" "$folder" --blocks "$blocks"

data=$(mktemp -d /dev/shm/shiftadd.XXXXXX)
export SHIFTADD_DATA_DIR=$data
# More workers than GPUs: they share.
[ "$workers" -le "$(nvidia-smi -L | wc -l)" ] || export SHIFTADD_WORKER_SHARE_DEVICE=1
trap '"$bin/shiftadd" down >/dev/null 2>&1 || true; rm -rf "$data"' EXIT
"$bin/shiftadd" up --workers "$workers" --device cuda --coordinator-port 0 --packager-port 0 >"$data/up.log" 2>&1 || { cat "$data/up.log"; exit 1; }
started=$(date +%s.%N)
evaluated=(--eval-sequences "${evaluation:-1}" --eval-length "$([ -n "$evaluation" ] && echo "$length" || echo 64)")
given=(--calibration "$folder/text.txt")
[ -z "$written" ] || given=()
job=$("$bin/shiftadd" submit "$folder" --bits 3 --name llama3 ${given[@]+"${given[@]}"} --calibration-sequences "$sequences" \
  --calibration-length "$length" "${evaluated[@]}" ${recipe:+--recipe "$recipe"} --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["job_id"])')
python3 - "$bin/shiftadd" "$started" "$until" "$kill" "$data" <<'PY'
import json, os, signal, subprocess, sys, time
shiftadd, started, until, kill, data = sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
seen, last, job = [], "", None
while True:
    job = json.loads(subprocess.check_output([shiftadd, "jobs", "--json"]))["jobs"][0]
    state = job["state"].upper()
    if state != last:
        seen.append((state, time.time() - started))
        last = state
    done = job.get("progress", {}).get("tasks_done", 0)
    if kill and state == "PROFILING" and int(done) >= 1:
        worker = [d for d in json.load(open(data + "/cluster.json"))["daemons"] if d["name"] == "worker-1"][0]
        os.kill(worker["pid"], signal.SIGKILL)
        print(f"killed worker-1 after {done} tasks of PROFILING")
        kill = ""
    passed = until in [name for name, _ in seen] and state not in (until, "ALLOCATING")
    if state in ("SUCCEEDED", "FAILED", "CANCELLED") or passed:
        break
    time.sleep(0.05)
for (state, begin), (_, end) in zip(seen, seen[1:]):
    print(f"{state.lower():12} {end - begin:8.2f} s")
print(f"{'total':12} {seen[-1][1]:8.2f} s, to {last}")
if last == "FAILED":
    print(job.get("error", job))
if job.get("package_digest"):
    print("package", job["package_digest"])
PY
"$bin/shiftadd" report "$job" >"$data/report.txt" 2>/dev/null || true
"$bin/shiftadd" report "$job" --json >"$data/report.json" 2>/dev/null || true
python3 - "$data/report.json" <<'PY'
import hashlib, json, re, sys
text = open(sys.argv[1]).read()
digests = sorted(set(re.findall(r"sha256:[0-9a-f]{64}", json.dumps(json.loads(text).get("layers", [])))))
print(f"candidates {len(digests)}, digest over them {hashlib.sha256(''.join(digests).encode()).hexdigest()}")
PY
if [ -n "$tasks" ]; then
  python3 - "$data/coordinator/coordinator.db" >"$tasks" <<'PY'
import re, sqlite3, sys
kinds = ["", "INGEST", "HASH", "CALIBRATE", "FORWARD", "PROFILE", "ENDS", "EVALUATE", "REFINE", "MEASURE"]
rows = sqlite3.connect(sys.argv[1]).execute("SELECT kind, ordinal, result FROM tasks ORDER BY kind, ordinal")
for kind, ordinal, result in rows:
    made = re.findall(rb"sha256:([0-9a-f]{64})", bytes(result))
    print(kinds[kind] if kind < len(kinds) else kind, ordinal, *(d.decode()[:16] for d in made))
PY
fi
if [ -n "$timeline" ]; then
  python3 - "$data"/logs/worker*.log >"$timeline" <<'PY'
import datetime, os, re, sys
events = []
for path in sys.argv[1:]:
    for line in open(path, errors="replace"):
        at = re.search(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d+", line)
        task = re.search(r"task (\S+) ([A-Z]+) (of|done in)( [0-9.]+ s)?", line)
        if at and task:
            events.append((datetime.datetime.fromisoformat(at[0]).timestamp(), os.path.basename(path)[:-4], task[1].split("-")[-1], task[2],
                           "begins" if task[3] == "of" else "ends after" + task[4]))
for at, *rest in sorted(events):
    print(f"{at - min(events)[0]:8.2f}", *rest)
PY
fi
sed -n '/^Time (phase/,$p' "$data/report.txt" | sed -n 1,60p
grep -hE 'done in|failed|error' "$data"/logs/worker*.log 2>/dev/null | sed -E 's/.*task ([^ ]+) ([A-Z]+) done in ([0-9.]+) s.*/\2 \3/' | awk 'NF==2 {n[$1]++; s[$1]+=$2} END {for (k in n) printf "task %-10s %4d  %8.2f s\n", k, n[k], s[k]}'
