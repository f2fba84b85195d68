#!/usr/bin/env bash
# Every C++ file is as clang-format would have it, every shell script parses. Exits 77 (skipped) without clang-format.
set -euo pipefail
cd "$(dirname "$0")/.."

# Tracked and new files, but not deleted ones. A source archive without .git has the same files in these folders.
files() {
  local name
  if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard -- "$@" | while read -r name; do
      if [[ -e $name ]]; then echo "$name"; fi
    done
  else
    for name in "$@"; do find .ci deploy kernels proto services tests worker -path "*$name"; done
  fi
}

failed=0
scripts=0
while read -r script; do
  scripts=$((scripts + 1))
  bash -n "$script" || failed=$((failed + 1))
done < <(files '*.sh' '.ci/run')
[[ $scripts -gt 0 ]] || { echo "no shell scripts found: this test looks in the wrong place" >&2; exit 1; }
echo "bash -n: $scripts scripts, $failed do not parse"

if ! command -v clang-format >/dev/null; then
  [[ $failed -eq 0 ]] || exit 1
  echo "clang-format is not installed: formatting was not checked" >&2
  exit 77
fi
sources=$(files '*.cc' '*.h' | wc -l)
[[ $sources -gt 0 ]] || { echo "no sources found: this test looks in the wrong place" >&2; exit 1; }
unformatted=$(files '*.cc' '*.h' | xargs clang-format --dry-run 2>&1 |
  sed -n 's/^\(.*\):[0-9]*:[0-9]*: warning: .*/\1/p' | sort -u)
[[ -z $unformatted ]] || { echo "clang-format -i these:"; echo "$unformatted"; failed=$((failed + 1)); }
echo "clang-format: $sources files, $(grep -c . <<<"$unformatted" || true) not formatted"
[[ $failed -eq 0 ]]
