#!/bin/sh
# A published package, seen by tools that are not ours: skopeo inspects it in the OCI layout and copies
# it, with its provenance, to a docker-registry and back, byte for byte.
#   skopeo_test.sh MAKE_PACKAGE_PROGRAM
# MAKE_PACKAGE_PROGRAM DIR publishes skopeo:latest into the layout DIR and prints the manifest's digest.
# Exits 77 (skipped) where skopeo or docker-registry is absent.
#
# Reference form: the whole name:tag stands in org.opencontainers.image.ref.name, and skopeo takes
# oci:DIR:NAME:TAG. A package is no container image, so `skopeo inspect` needs --raw.
set -eu
for tool in skopeo docker-registry; do
  command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
work=$(mktemp -d)
registry=
cleanup() {
  if [ -n "$registry" ]; then kill "$registry" 2>/dev/null || true; wait "$registry" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT
fail() { echo "FAILED: $*"; exit 1; }

digest=$("$1" "$work/layout" 2>"$work/make.log") || { cat "$work/make.log"; fail "cannot publish"; }
hex=${digest#sha256:}
source=oci:$work/layout:skopeo:latest
referrers=sha256-$hex

raw=$(skopeo inspect --raw "$source" | sha256sum | cut -d' ' -f1)
[ "$raw" = "$hex" ] || fail "skopeo inspect --raw: expected $hex, found $raw"

# The registry picks no port for us: try a few.
port=0
for candidate in $(seq 1 20); do
  port=$((20000 + ($$ * 7 + candidate * 131) % 20000))
  printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: 127.0.0.1:%s}\n' \
    "$work/registry" "$port" >"$work/registry.yml"
  docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
  registry=$!
  up=0
  for wait in $(seq 1 50); do
    kill -0 "$registry" 2>/dev/null || break
    if skopeo inspect --raw --tls-verify=false "docker://127.0.0.1:$port/none:none" 2>&1 |
      grep -q 'manifest unknown\|name unknown\|NAME_UNKNOWN'; then up=1; break; fi
    sleep 0.1
  done
  [ "$up" = 1 ] && break
  kill "$registry" 2>/dev/null || true
  registry=
done
[ -n "$registry" ] || { cat "$work/registry.log"; fail "docker-registry does not start"; }
remote=docker://127.0.0.1:$port/team/skopeo

copy() { skopeo copy --quiet "$@" || fail "skopeo copy $*"; }
copy --preserve-digests --dest-tls-verify=false "$source" "$remote:latest"
copy --preserve-digests --src-tls-verify=false "$remote:latest" "oci:$work/back:skopeo:latest"
# The index of referrers is rewritten by skopeo 1.9 (it drops artifactType); the provenance it lists is not.
copy --all --dest-tls-verify=false "oci:$work/layout:skopeo:$referrers" "$remote:$referrers"
copy --all --src-tls-verify=false "$remote:$referrers" "oci:$work/back:skopeo:$referrers"

there=$(skopeo inspect --raw --tls-verify=false "$remote:latest" | sha256sum | cut -d' ' -f1)
[ "$there" = "$hex" ] || fail "registry: expected $hex, found $there"
index=$(skopeo inspect --raw "oci:$work/layout:skopeo:$referrers" | sha256sum | cut -d' ' -f1)
for blob in "$work"/layout/blobs/sha256/*; do
  name=$(basename "$blob")
  [ "$name" = "$index" ] && continue
  cmp "$blob" "$work/back/blobs/sha256/$name" || fail "blob $name differs after the round trip"
done
count=$(ls "$work/layout/blobs/sha256" | wc -l)
echo "ok: $((count - 1)) blobs are byte-identical after OCI layout -> docker-registry -> OCI layout"
