#!/usr/bin/env bash
# The tasks that deploy/lm-eval.sh names are lm-eval's, and one that is not is named before any server or hub is asked.
#   lm_eval_names_test.sh SOURCE_DIR
# Exits 77 (skipped) where lm-eval is neither in ${SHIFTADD_TEST_PYTHON:-python3} nor where lm-eval.sh looks for it.
set -euo pipefail
script=$1/deploy/lm-eval.sh
if [ -n "${SHIFTADD_TEST_PYTHON:-}" ]; then
  SHIFTADD_LM_EVAL=$("$SHIFTADD_TEST_PYTHON" -c 'import sys; print(sys.prefix)')
  export SHIFTADD_LM_EVAL
fi
"$script" --found >/dev/null 2>&1 || { echo "skipped: no lm-eval"; exit 77; }
names=$("$script" --names)
for name in arc_easy arc_challenge boolq copa piqa rte mmlu storycloze_2016; do
  case ,$names, in *,$name,*) ;; *) echo "$name is not among $names"; exit 1 ;; esac
done
# Nobody listens on port 9: the name is looked at first.
if said=$("$script" http://127.0.0.1:9 --tasks arc_easy,no_such_task 2>&1); then
  echo "a task that does not exist was taken"
  exit 1
fi
case $said in *"no task 'no_such_task'"*) ;; *) echo "not named: $said"; exit 1 ;; esac
if said=$("$script" http://127.0.0.1:9 2>&1); then exit 1; fi
case $said in *"storycloze_2016 is left out"*"/v1/models does not answer"*) ;; *) echo "not said: $said"; exit 1 ;; esac
echo "lm-eval has $names"
