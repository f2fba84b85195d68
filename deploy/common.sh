# shellcheck shell=bash
# Shared by deploy/*.sh and tests/run.sh; sourced, never run. Defines functions and paths only.

# shellcheck disable=SC2034  # for those who source this
SHIFTADD_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SHIFTADD_CACHE=${SHIFTADD_CACHE:-$HOME/.cache/shiftadd}

# say TEXT…: one line for the reader, on stderr so that stdout can be captured.
say() { printf '%s\n' "$*" >&2; }

# die WHAT TODO: says what failed and what to do about it, and leaves.
die() {
  say ""
  say "FAILED: $1"
  [ -z "${2:-}" ] || say "  what to do: $2"
  exit 1
}

# as_root COMMAND…: runs it as root, through sudo if need be.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "root rights are needed for: $*" "run this script as root, or install sudo"
  fi
}

# sha256_is FILE HEX: true if the file is there and has that digest.
sha256_is() {
  [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]
}

# need_space DIR GIB: fails early rather than half-way.
need_space() {
  local have
  have=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$have" -ge "$2" ] || die "$1 has $have GiB free; $2 GiB are needed" \
    "free some space, or set SHIFTADD_CACHE to a folder on another disk"
}
