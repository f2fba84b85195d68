#!/usr/bin/env bash
# Zero-shot multiple choice by lm-eval over a running shiftadd-server.
#
#   deploy/lm-eval.sh URL [--tasks LIST | --local FOLDER] [--model NAME:TAG] [--out FOLDER] [--attach NAME:TAG]
#     [-- OPTIONS OF lm-eval…]
#
#   URL            http://host:port of the server; OPENAI_API_KEY is its key, if it asks for one
#   --tasks LIST   lm-eval's names, with commas between; default those that the paper reports, but for StoryCloze:
#                  arc_easy,arc_challenge,boolq,copa,piqa,rte,mmlu. Their rows come from the Hugging Face hub
#   --storycloze   storycloze_2016 too, whose rows must be asked for by hand (lm-eval's tasks/storycloze says where); without
#                  them lm-eval fails as a whole
#   --local FOLDER every task of a folder of YAML files with their rows beside them: no hub is asked. Each row is checked first.
#                  tests/clients/lm_eval/make_rows.py makes such a folder from any text
#   --model        default: the server's first
#   --attach NAME:TAG  keep the figures with this package, which is then the model: `shiftadd inspect` and `report` show them. The
#                  packager is found as `shiftadd` finds it; $SHIFTADD_CLI is that program (default: a build here, then on PATH)
#   --found        alone: asks no server; exit code 0 if lm-eval is here
#   --names        alone: asks no server and no hub; prints the default tasks; exit code 0 if lm-eval has every one of them
#   --out FOLDER   results and, with `-- --log_samples`, every row's scores as JSON
#
# Each figure stands with its standard error. lm-eval is looked for in $SHIFTADD_LM_EVAL (a virtual environment's folder), in
# $SHIFTADD_CACHE/lm-eval (deploy/setup.sh lm-eval), then on PATH.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

paper_tasks=arc_easy,arc_challenge,boolq,copa,piqa,rte,mmlu
storycloze=storycloze_2016

usage() {
  say "$1"
  sed -n '2,/^set/{/^#/!d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}

# find_lm_eval: sets `python` to one that has lm-eval.
find_lm_eval() {
  local candidate
  for candidate in ${SHIFTADD_LM_EVAL:+"$SHIFTADD_LM_EVAL/bin/python"} "$SHIFTADD_CACHE/lm-eval/bin/python" python3; do
    command -v "$candidate" >/dev/null || continue
    "$candidate" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("lm_eval") is None)' || continue
    python=$candidate
    return 0
  done
  die "lm-eval is not here" "run: deploy/setup.sh lm-eval"
}

# find_cli: sets `cli` to the program shiftadd.
find_cli() {
  local candidate
  for candidate in ${SHIFTADD_CLI:+"$SHIFTADD_CLI"} "$SHIFTADD_SOURCE"/build/{release,quickstart}/bin/shiftadd shiftadd; do
    command -v "$candidate" >/dev/null || continue
    cli=$candidate
    return 0
  done
  die "the program shiftadd is not here" "build it, or say where it is with SHIFTADD_CLI"
}

# check_names LIST: every name is one of lm-eval's tasks, groups or tags. Asks no hub.
check_names() {
  HF_HUB_OFFLINE=1 "$python" - "$1" <<'PY' || die "lm-eval has not all of these tasks: $1" "lm-eval ls tasks lists them"
import sys
from lm_eval.tasks import TaskManager
names, known = sys.argv[1].split(","), TaskManager()
missing = [name for name in names if not known.match_tasks([name])]
for name in missing:
    print(f"no task '{name}'", file=sys.stderr)
sys.exit(bool(missing))
PY
}

[ $# -gt 0 ] || usage 'which server?'
case $1 in
  -h | --help) usage '' ;;
  --found) find_lm_eval && exit 0 ;;
  --names)
    find_lm_eval
    check_names "$paper_tasks,$storycloze"
    echo "$paper_tasks,$storycloze"
    exit 0
    ;;
esac
url=${1%/} tasks=$paper_tasks local='' model='' out='' attach=''
shift
while [ $# -gt 0 ]; do
  case $1 in
    --) shift && break ;;
    --storycloze)
      tasks+=,$storycloze
      shift
      continue
      ;;
    --tasks | --local | --model | --out | --attach) [ $# -gt 1 ] || usage "$1 needs a value" ;;
    *) usage "unknown option $1" ;;
  esac
  case $1 in
    --tasks) tasks=$2 ;; --local) local=$2 ;; --model) model=$2 ;; --out) out=$2 ;; --attach) attach=$2 ;;
  esac
  shift 2
done
case $url in http://* | https://*) ;; *) usage "URL: found '$url', expected http://host:port" ;; esac

find_lm_eval
if [ -n "$attach" ]; then
  [ -z "$model" ] || [ "$model" = "$attach" ] || usage "--model $model --attach $attach: expected the same package"
  case $attach in *:*) model=$attach ;; *) model=$attach:latest ;; esac
  find_cli
fi
declare -a options=(--model shiftadd-completions)
if [ -n "$local" ]; then
  [ -d "$local" ] || usage "--local $local: no such folder"
  tasks=$("$python" "$SHIFTADD_SOURCE/deploy/check_tasks.py" "$local") || exit 1
  options+=(--include_path "$local")
  export HF_HUB_OFFLINE=1
else
  [ "$tasks" != "$paper_tasks" ] || say "lm-eval: $storycloze is left out, as its rows must be asked for by hand: --storycloze adds it"
  check_names "$tasks"
fi
key=${OPENAI_API_KEY:-}
models=$(curl -fsS --max-time 20 ${key:+-H "Authorization: Bearer $key"} "$url/v1/models") ||
  die "$url/v1/models does not answer" "start it with: shiftadd serve NAME:TAG"
if [ -z "$model" ]; then
  model=$("$python" -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])' <<<"$models")
fi
# lm-eval splits at commas and equals signs.
case $model in *[,=]*) die "model $model: lm-eval cannot name it" "give the package a tag without , and =" ;; esac
options+=(--model_args "base_url=$url/v1/completions,model=$model,num_concurrent=4,max_retries=3")
work=''
if [ -n "$attach" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  : "${out:=$work/results}"
fi
[ -z "$out" ] || options+=(--output_path "$out")
say "lm-eval: $tasks on $model"
# lm-eval wants a key in any case.
export OPENAI_API_KEY=${key:-none} TOKENIZERS_PARALLELISM=false
hint='read what it says above'
[ -n "$local" ] || hint='the rows come from the Hugging Face hub, or from its cache; where neither has them: --local FOLDER'
"$python" "$SHIFTADD_SOURCE/deploy/lm_eval_shiftadd.py" run "${options[@]}" --tasks "$tasks" "$@" || die "lm-eval failed" "$hint"
if [ -n "$attach" ]; then
  # lm-eval makes a folder by the model's name in it, and a file by the time.
  results=$(find "$out" -name 'results_*.json' -newer "$work" -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
  [ -n "$results" ] || die "lm-eval left no results in $out" "read what it says above"
  "$cli" eval "$attach" --attach-results "$results" || die "the figures could not be kept with $attach" "they are in $results"
fi
