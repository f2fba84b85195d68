#!/usr/bin/env bash
# Runs clang-tidy with the checks of .clang-tidy (every finding is an error) over the project's sources.
#   tests/tidy.sh             every .cc file of the build's compile_commands.json, 10 seconds of a core each
#   tests/tidy.sh REVISION    only those that differ from a git revision (e.g. main, HEAD, HEAD~3), and those
#                             that include a header that differs
# SHIFTADD_BUILD_DIR: a configured and built folder (default build/tests; generated protos must be there).
# SHIFTADD_JOBS: how many at a time (default: the cores). CLANG_TIDY: the program (default clang-tidy-14).
# Prints the findings, once each, and their counts by check. Exits 1 if there are any, 2 if it could not run.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${SHIFTADD_BUILD_DIR:-build/tests}
jobs=${SHIFTADD_JOBS:-$(nproc)}
tidy=${CLANG_TIDY:-clang-tidy-14}
command -v "$tidy" >/dev/null || { echo "$tidy is not installed (apt-get install clang-tidy-14)" >&2; exit 2; }
[[ -f $build/compile_commands.json ]] || { echo "$build is not a configured build folder" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/logs"

# Own sources that the build compiles: tracked or new, never what the build generated.
python3 - "$build/compile_commands.json" >"$work/files" <<'PYTHON'
import json, os, sys
names = {os.path.relpath(entry["file"]) for entry in json.load(open(sys.argv[1]))}
print("\n".join(sorted(n for n in names if n.endswith(".cc") and n.split("/")[0] in
                       ("kernels", "services", "worker", "tests") and os.path.exists(n))))
PYTHON

if [[ $# -gt 0 ]]; then
  { git diff --name-only "$1" --; git ls-files --others --exclude-standard; } >"$work/changed"
  # A changed header is checked through the sources that name it; headers behind headers are left to the full run.
  while read -r file; do
    case $file in
      *.h) git grep -lF --untracked "#include \"$file\"" -- '*.cc' || true ;;
      *.cc) echo "$file" ;;
    esac
  done <"$work/changed" | sort -u | comm -12 - "$work/files" >"$work/wanted"
  mv "$work/wanted" "$work/files"
fi
count=$(wc -l <"$work/files")
echo "clang-tidy over $count files, $jobs at a time"

# A log a file. The compiler is g++: clang need not know all of its warnings.
check_one() {
  local log="$2/logs/${1//\//+}"
  "$3" -p "$4" --quiet --extra-arg=-Wno-unknown-warning-option "$1" >"$log" 2>"$log.err" || echo "$1" >>"$2/failed"
}
export -f check_one
xargs -a "$work/files" -P "$jobs" -I{} bash -c 'check_one "$@"' _ {} "$work" "$tidy" "$build" || true

if [[ ! -e $work/failed ]]; then
  echo "clang-tidy: $count files, no findings"
  exit 0
fi
# A header's finding comes once a file that includes it: the first is enough.
cat "$work"/logs/* | grep -E '^/.*: (error|warning): ' | sed "s|^$PWD/||" | sort -u >"$work/findings" || true
cat "$work/findings"
sed -n 's/.*\[\([a-z][A-Za-z0-9.-]*\).*\]$/\1/p' "$work/findings" | sort | uniq -c | sort -rn
echo "clang-tidy: $count files, $(wc -l <"$work/failed") with findings, $(wc -l <"$work/findings") findings"
exit 1
