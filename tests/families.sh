#!/usr/bin/env bash
# Every family and form of file against transformers, by executor, and the tokenizers' mismatches, as two tables.
#   tests/families.sh TESTS_DIRECTORY      (build/tests/tests: family_test, packed_family_test, tokenizer_kinds_test;
#                                           serve_cuda_test too where it is built and a GPU is here)
# SHIFTADD_TOKENIZER_GOLDEN: a folder with the tokenizers.json of tests/deep.sh tokenizers, in place of the 200 strings of
# tests/golden. Exits 1 if a test fails.
set -euo pipefail
if [ $# -ne 1 ] || [ ! -x "$1/family_test" ]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
for program in family_test packed_family_test serve_cuda_test; do
  [ -x "$1/$program" ] || continue
  "$1/$program" --gtest_filter='*LogitsAreThoseOfTransformers*' >>"$log" 2>&1 || status=1
done
awk '
  / largest error .* of the range of logits/ {
    if (!($1 in seen)) { seen[$1] = 1; names[++count] = $1 }
    if ($3 == "tokens") { # the server on a GPU, for several lengths: the largest
      if ($9 > error[$1, "served_cuda"]) error[$1, "served_cuda"] = $9
    } else {
      error[$1, $2] = $5
    }
  }
  END {
    columns = split("cpu operators cuda gguf packed served_cuda", column)
    print "Largest error of a logit against transformers, of the range of logits (tests/golden: tiny models, fp32)."
    print "cpu: the full-precision executor; operators: its code for GPUs, on the CPU; cuda: the same on a GPU, where one is here;"
    print "gguf: the first, from a GGUF file; packed: the server'"'"'s executor on plain weights; served_cuda: that on a GPU (keys and"
    print "values in fp16).\n"
    printf "%-14s", "family"
    for (c = 1; c <= columns; ++c) printf " %11s", column[c]
    print ""
    for (i = 1; i <= count; ++i) {
      printf "%-14s", names[i]
      for (c = 1; c <= columns; ++c) printf " %11s", ((names[i], column[c]) in error) ? error[names[i], column[c]] : "-"
      print ""
    }
  }' "$log"
grep -E '^\[  FAILED' "$log" || true
echo
echo "Strings whose ids differ from those of Hugging Face tokenizers."
echo
"$1/tokenizer_kinds_test" --gtest_filter='Kinds/*' >"$log" 2>&1 || status=1
grep -E 'strings differ$' "$log"
exit $status
