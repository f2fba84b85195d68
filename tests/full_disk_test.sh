#!/usr/bin/env bash
# What the coordinator says of itself when the disk of its database is full, and when it no longer is. Exits 77 (skipped)
# where no small disk can be mounted.
#   full_disk_test.sh BIN_DIR
set -euo pipefail
bin=$1
if [ -z "${SHIFTADD_OWN_MOUNTS:-}" ]; then
  unshare -m true 2>/dev/null || { echo "unshare -m does not work here"; exit 77; }
  SHIFTADD_OWN_MOUNTS=1 exec unshare -m "$0" "$@"
fi
work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true; umount "$work/disk" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/disk"
mount -t tmpfs -o size=8m none "$work/disk" || exit 77

"$bin/shiftadd-coordinator" --data-dir "$work/disk/c" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
  --port-file "$work/ports" >"$work/log" 2>&1 &
daemon=$!
for _ in $(seq 300); do [ -s "$work/ports" ] && break || sleep 0.1; done
port=$(sed -n 2p "$work/ports")

ready() {
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf 'GET /ready HTTP/1.0\r\nHost: x\r\n\r\n' >&3
  cat <&3
  exec 3>&-
}
expect() {
  local answer
  answer=$(ready)
  [[ $answer == *" $1 "*"$2"* ]] && return
  echo "FAILED: expected $1 with: $2, found:"
  echo "$answer"
  cat "$work/log"
  exit 1
}
expect 200 ready
cat /dev/zero >"$work/disk/others" 2>/dev/null || true
expect 503 "the disk is full"
rm "$work/disk/others"
expect 200 ready
kill "$daemon"
wait "$daemon"
daemon=
echo "all good"
