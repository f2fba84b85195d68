#!/usr/bin/env bash
# Makes the golden package again, with the binaries of a build: tests/golden/tiny_package/make.sh build/release
# Only when the format's major version changes: a package that an earlier version wrote must stay.
set -euo pipefail

[ $# -eq 1 ] || { sed -n 2,3p "$0" >&2; exit 2; }
bin=$(realpath "$1")/bin
tool=$(find "$(realpath "$1")" -name make_golden_package -type f -perm -u+x | sed -n 1p)
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
export SHIFTADD_DATA_DIR=$work/data
trap '"$bin/shiftadd" down >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

"$tool" model "$work/model"
cat >"$work/recipe.json" <<'JSON'
{"method": "shiftadd", "head": "int8", "overrides": [
  {"glob": "*.attn.?", "bits": 2}, {"glob": "*.mlp.gate", "bits": 3}, {"glob": "*.mlp.up", "bits": 3},
  {"glob": "*.mlp.down", "bits": 4}]}
JSON
"$bin/shiftadd" up --workers 1 --coordinator-port 0 --packager-port 0
"$bin/shiftadd" submit "$work/model" --bits 4 --name golden:v1 --recipe "$work/recipe.json" \
  --calibration-sequences 4 --calibration-length 64 --eval-sequences 2 --watch
digest=$("$bin/shiftadd" packages --json | jq -r '.packages[0].digest')
"$bin/shiftadd" down

# What the manifest reaches, and nothing else of the cluster's store.
rm -rf "$here/blobs" "$here/index.json" "$here/oci-layout" "$here/answers.json"
mkdir -p "$here/blobs/sha256"
store=$work/data/store
blob() { echo "$store/blobs/sha256/${1#sha256:}"; }
cp "$store/oci-layout" "$here/"
for d in "$digest" $(jq -r '.config.digest, .layers[].digest' "$(blob "$digest")"); do
  install -m 644 "$(blob "$d")" "$here/blobs/sha256/"
done
jq --arg d "$digest" '.manifests |= map(select(.digest == $d and
  .annotations["org.opencontainers.image.ref.name"] == "golden:v1"))' "$store/index.json" >"$here/index.json"
"$tool" answers "$here"
rm -rf "$here/tmp" "$here/scratch" "$here/.index.lock"  # of a store that is open
du -sb "$here"
