#!/usr/bin/env bash
# A package goes from an image layout to a packager, is signed, pushed to a registry and pulled to another packager:
# the same digest everywhere, its signature with it; and a server that wants a signature takes it, and no other.
#   publish_test.sh BIN_DIR SOURCE_DIR
# Exits 77 (skipped) where docker-registry or skopeo is absent.
set -euo pipefail
. "$(dirname "$0")/has.sh"
bin=$1 source=$2
for tool in docker-registry skopeo openssl; do
  command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
fail() { echo "FAILED: $*"; exit 1; }
await() { for _ in $(seq 200); do [ -s "$1" ] && return; sleep 0.05; done; fail "no $1: $(cat "$2")"; }
# refused EXIT_CODE WORDS COMMAND…: it fails so, and says so.
refused() {
  local code=$1 words=$2 status=0
  shift 2
  "$@" >"$work/refused" 2>&1 || status=$?
  [ $status = "$code" ] || fail "$*: expected exit code $code, found $status: $(cat "$work/refused")"
  grep -q "$words" "$work/refused" || fail "$*: expected \"$words\" in: $(cat "$work/refused")"
}
# packager NAME [FLAG…]
packager() {
  "$bin/shiftadd-packager" "${@:2}" --listen 127.0.0.1:0 --http 127.0.0.1:0 --data-dir "$work/$1" --port-file "$work/$1.ports" \
    >"$work/$1.log" 2>&1 &
  pids+=($!)
  await "$work/$1.ports" "$work/$1.log"
}
address() { echo "127.0.0.1:$(head -1 "$work/$1.ports")"; }

# The registry picks no port for us: try a few.
start_registry() {
  local port wait
  for wait in 1 2 3 4 5; do
    port=$((20000 + (RANDOM * 7 + wait) % 20000))
    printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: 127.0.0.1:%s}\n' \
      "$work/registry" $port >"$work/registry.yml"
    docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 100); do
      kill -0 "${pids[-1]}" 2>/dev/null || break
      if curl -fs "http://127.0.0.1:$port/v2/" >/dev/null; then registry=127.0.0.1:$port; return; fi
      sleep 0.05
    done
  done
  fail "docker-registry does not start: $(cat "$work/registry.log")"
}

cp -r "$source/tests/golden/tiny_package" "$work/layout"
# Whoever only reads a layout leaves it as it is: it may lie on a disk that is mounted read-only.
untouched() { (cd "$work/layout" && find . -printf '%p %T@ %C@\n' | sort); }
untouched >"$work/layout.before"
packager one
packager two
start_registry
one=(--packager "$(address one)") two=(--packager "$(address two)")
openssl genpkey -algorithm ed25519 -out "$work/key.pem" 2>/dev/null
openssl pkey -in "$work/key.pem" -pubout -out "$work/key.pub"
openssl genpkey -algorithm ed25519 -out "$work/other.pem" 2>/dev/null
openssl pkey -in "$work/other.pem" -pubout -out "$work/other.pub"

"$bin/shiftadd" pull "$work/layout" golden:v1 "${one[@]}"
digest=$("$bin/shiftadd" packages --json "${one[@]}" | jq -r '.packages[0].digest')
expected=$(jq -r '.manifests[0].digest' "$source/tests/golden/tiny_package/index.json")
[ "$digest" = "$expected" ] || fail "pulled $digest, expected $expected"

refused 1 "found none" "$bin/shiftadd" verify golden:v1 --key "$work/key.pub" "${one[@]}"
serve=("$bin/shiftadd-server" --package golden:v1 --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1)
refused 1 "found none" timeout 20 "${serve[@]}" "${one[@]}" --require-signature "$work/key.pub"
refused 2 "expected an Ed25519 private key" "$bin/shiftadd" sign golden:v1 --key "$work/key.pub" "${one[@]}"
"$bin/shiftadd" sign golden:v1 --key "$work/key.pem" "${one[@]}"
"$bin/shiftadd" sign golden:v1 --key "$work/key.pem" "${one[@]}"  # again: the same one
"$bin/shiftadd" verify golden:v1 --key "$work/key.pub" --deep "${one[@]}"
refused 1 "one by the key" "$bin/shiftadd" verify golden:v1 --key "$work/other.pub" "${one[@]}"

remote=http://$registry/team/golden
"$bin/shiftadd" push golden:v1 "$remote:v1" "${one[@]}" | tee "$work/push"
"$bin/shiftadd" push golden:v1 "$remote:v1" "${one[@]}" | has -q "20 of 20 blobs.*20 were there" ||
  fail "a second push moves blobs again"
# A terminal gets a bar that is redrawn, and the same last line.
TERM=xterm script -qec "'$bin/shiftadd' push golden:v1 '$remote:bar' ${one[*]}" /dev/null >"$work/bar"
grep -qE '\[#+\.*\] [0-9]+ of 20 blobs' "$work/bar" || fail "no bar on a terminal: $(cat "$work/bar")"
grep -q "20 of 20 blobs" "$work/bar" || fail "no end of the bar: $(cat "$work/bar")"
seen=$(skopeo inspect --raw --tls-verify=false "docker://$registry/team/golden:v1" | sha256sum | cut -d' ' -f1)
[ "sha256:$seen" = "$digest" ] || fail "skopeo sees $seen"

"$bin/shiftadd" pull "$remote:v1" copy:v2 "${two[@]}"
[ "$("$bin/shiftadd" packages --json "${two[@]}" | jq -r '.packages[0].digest')" = "$digest" ] || fail "another digest"
"$bin/shiftadd" verify copy:v2 --key "$work/key.pub" --deep "${two[@]}"
"$bin/shiftadd" inspect copy:v2 "${two[@]}" >"$work/inspect"
for words in '"family":"llama"' 'blocks.1.mlp.down  *4 ' '"perplexity_quantized"' '^signatures: 1$' '^provenance: '; do
  grep -q "$words" "$work/inspect" || fail "inspect shows no $words"
done
[ "$("$bin/shiftadd" inspect copy:v2 --json "${two[@]}" | jq '.signature_json | length')" = 1 ] || fail "expected one signature"

# skopeo's copy of it, back into a cluster.
skopeo copy --quiet --preserve-digests --src-tls-verify=false "docker://$registry/team/golden:v1" "oci:$work/back:golden:v1"
"$bin/shiftadd" pull "$work/back" golden:v1 "${two[@]}"

"$bin/shiftadd-server" --package copy:v2 --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1 "${two[@]}" \
  --require-signature "$work/key.pub" --port-file "$work/server.ports" >"$work/server.log" 2>&1 &
pids+=($!)
await "$work/server.ports" "$work/server.log"
curl -fs "http://127.0.0.1:$(tail -1 "$work/server.ports")/v1/models" | has -q copy:v2 || fail "the server does not serve"
refused 1 "one by the key" timeout 20 "$bin/shiftadd-server" --package copy:v2 --listen 127.0.0.1:0 --http 127.0.0.1:0 \
  --threads 1 "${two[@]}" --require-signature "$work/other.pub"

# The same without a packager: from a registry that a packager keeps its packages in, from a layout, and from a repository
# that was pushed to, by what stands before its name or by all of it.
packager kept --blobs "http://$registry/kept"
"$bin/shiftadd" pull "$remote:v1" golden:v1 --packager "$(address kept)"
"$bin/shiftadd" push copy:v2 "$work/signed" "${two[@]}"
number=0
for place in "http://$registry/kept golden:v1" "$work/signed copy:v2" "http://$registry/team golden:v1" \
  "http://$registry/team/golden any:v1" "http://$registry/team/ golden@$digest"; do
  read -r dir reference <<<"$place"
  alone=("$bin/shiftadd-server" --package "$reference" --package-dir "$dir" --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1)
  number=$((number + 1))
  "${alone[@]}" --require-signature "$work/key.pub" --port-file "$work/alone$number.ports" >"$work/alone$number.log" 2>&1 &
  pids+=($!)
  await "$work/alone$number.ports" "$work/alone$number.log"
  curl -fs "http://127.0.0.1:$(tail -1 "$work/alone$number.ports")/v1/models" | has -q "$reference" || fail "$dir is not served"
  refused 1 "one by the key" timeout 20 "${alone[@]}" --require-signature "$work/other.pub"
done
# skopeo took the package along, not what refers to it.
refused 1 "found none" timeout 20 "$bin/shiftadd-server" --package golden:v1 --package-dir "$work/back" --listen 127.0.0.1:0 \
  --http 127.0.0.1:0 --threads 1 --require-signature "$work/key.pub"

"$bin/shiftadd-export" golden:v1 "$work/exported" --format gguf --package-dir "http://$registry/team"
[ -s "$work/exported/model-f16.gguf" ] || fail "no export from a registry"

"$bin/shiftadd-export" golden:v1 "$work/exported_too" --format gguf --package-dir "$work/layout"
refused 1 "there are: golden:v1" timeout 20 "${serve[@]:0:1}" --package golden:v9 --package-dir "$work/layout" --listen 127.0.0.1:0 \
  --http 127.0.0.1:0 --threads 1
"$bin/shiftadd-server" --package golden:v1 --package-dir "$work/layout" --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1 \
  --port-file "$work/untouched.ports" >"$work/untouched.log" 2>&1 &
pids+=($!)
await "$work/untouched.ports" "$work/untouched.log"
untouched | diff "$work/layout.before" - || fail "reading a layout writes into it"

# Bad input.
alone=("$bin/shiftadd-server" --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1 --package)
refused 1 "golden:v9 is not in http://$registry/team; there are: golden:bar, golden:v1" timeout 20 "${alone[@]}" golden:v9 \
  --package-dir "http://$registry/team"
refused 1 "there are: golden:v1" timeout 20 "${alone[@]}" golden:v9 --package-dir "http://$registry/kept"
refused 1 "no package is there" timeout 20 "${alone[@]}" golden:v1 --package-dir "http://$registry/nobody"
refused 1 "expected http.s.://HOST.:PORT./PREFIX" timeout 20 "${alone[@]}" golden:v1 --package-dir "http://$registry/Upper"
curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' "http://$registry/v2/team/golden/manifests/other" \
  -d '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
refused 1 "expected artifactType application/vnd.shiftadd.package.v1" timeout 20 "${alone[@]}" golden:other \
  --package-dir "http://$registry/team"
refused 1 "404" "$bin/shiftadd" pull "http://$registry/team/none:v1" x:v1 "${two[@]}"
refused 3 "127.0.0.1:1" "$bin/shiftadd" push copy:v2 http://127.0.0.1:1/x:v1 "${two[@]}"
refused 2 "repository" "$bin/shiftadd" push copy:v2 "http://$registry/Upper:v1" "${two[@]}"
refused 1 "no such tag" "$bin/shiftadd" pull "$work/layout" other:v1 "${two[@]}"
# An index that was damaged while it is served, and then: what is served stays, and whoever opens it says where it is wrong.
cp -r "$source/tests/golden/tiny_package" "$work/torn"
"$bin/shiftadd-server" --package golden:v1 --package-dir "$work/torn" --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1 \
  --port-file "$work/torn.ports" >"$work/torn.log" 2>&1 &
pids+=($!)
await "$work/torn.ports" "$work/torn.log"
jq '.manifests[0].digest = 5' "$source/tests/golden/tiny_package/index.json" >"$work/torn/index.json"
sleep 3  # it looks every two seconds
curl -fs "http://127.0.0.1:$(tail -1 "$work/torn.ports")/v1/models" | has -q golden:v1 || fail "a damaged index ends the server"
torn="torn/index.json: manifests.0..digest: expected a string, found 5"
refused 1 "$torn" "$bin/shiftadd-export" golden:v1 "$work/never" --format gguf --package-dir "$work/torn"
refused 1 "$torn" "$bin/shiftadd" pull "$work/torn" golden:v1 "${two[@]}"
# A target whose blobs are damaged: another size is seen at once, other bytes of the same size with --verify.
layer=$(jq -r '.layers[0].digest' "$work/signed/blobs/sha256/${digest#sha256:}")
blob=$work/signed/blobs/sha256/${layer#sha256:}
cp "$blob" "$work/whole"
: >"$blob"
"$bin/shiftadd" push copy:v2 "$work/signed" "${two[@]}" | has -q "20 of 20 blobs.*19 were there" || fail "an empty blob was there"
cmp "$blob" "$work/whole"
tr '\000-\377' '\001-\377\000' <"$work/whole" >"$blob"
"$bin/shiftadd" push copy:v2 "$work/signed" "${two[@]}" --verify | has -q "20 of 20 blobs.*19 were there" || fail "--verify sees nothing"
cmp "$blob" "$work/whole"
rm "$blob" && mkdir "$blob"
refused 1 "$blob: expected a regular file" "$bin/shiftadd" push copy:v2 "$work/signed" "${two[@]}"

# Two who vouch for the same package, and push it to the same place from packagers of their own.
"$bin/shiftadd" sign golden:v1 --key "$work/other.pem" "${two[@]}"
for target in "$work/both" "http://$registry/both/golden:v1"; do
  "$bin/shiftadd" push golden:v1 "$target" "${one[@]}"
  "$bin/shiftadd" push golden:v1 "$target" "${two[@]}"
done
packager four
"$bin/shiftadd" pull "$work/both" golden:v1 --packager "$(address four)"
"$bin/shiftadd" pull "http://$registry/both/golden:v1" other:v1 --packager "$(address four)"
for name in golden other; do
  for key in key other; do
    "$bin/shiftadd" verify $name:v1 --key "$work/$key.pub" --packager "$(address four)" || fail "$name has lost the signature by $key"
  done
done

# A manifest that another version wrote is refused before a tag moves to what comes out of it.
cp -r "$source/tests/golden/tiny_package" "$work/foreign"
jq -c '.annotations.by = "others"' "$work/foreign/blobs/sha256/${expected#sha256:}" >"$work/manifest"
foreign=$(sha256sum <"$work/manifest" | cut -d' ' -f1)
cp "$work/manifest" "$work/foreign/blobs/sha256/$foreign"
jq --arg d "sha256:$foreign" --argjson s "$(stat -c %s "$work/manifest")" '.manifests[0].digest = $d | .manifests[0].size = $s' \
  "$source/tests/golden/tiny_package/index.json" >"$work/foreign/index.json"
packager five
refused 1 "expected to publish sha256:$foreign" "$bin/shiftadd" pull "$work/foreign" golden:v1 --packager "$(address five)"
left=$("$bin/shiftadd" packages --json --packager "$(address five)") || fail "packages: $left"
[ "$(jq '.packages | length' <<<"$left")" = 0 ] || fail "published what was refused: $left"

# A manifest that leaves out what its config names, or says other sizes.
# torn NAME FILTER: a layout whose manifest is what jq makes of it.
torn() {
  rm -rf "${work:?}/$1"
  cp -r "$source/tests/golden/tiny_package" "$work/$1"
  # Without a line's end, as the packager would write it.
  printf %s "$(jq -c "$2" "$work/$1/blobs/sha256/${expected#sha256:}")" >"$work/manifest"
  made=$(sha256sum <"$work/manifest" | cut -d' ' -f1)
  cp "$work/manifest" "$work/$1/blobs/sha256/$made"
  jq --arg d "sha256:$made" --argjson s "$(stat -c %s "$work/manifest")" '.manifests[0].digest = $d | .manifests[0].size = $s' \
    "$source/tests/golden/tiny_package/index.json" >"$work/$1/index.json"
}
alone=("$bin/shiftadd-server" --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1 --package golden:v1 --package-dir)
while IFS='|' read -r filter words; do
  torn edited "$filter"
  refused 1 "edited:golden:v1: .*$words" "$bin/shiftadd-export" golden:v1 "$work/never" --format gguf --package-dir "$work/edited"
  refused 1 "edited:golden:v1: .*$words" timeout 20 "${alone[@]}" "$work/edited"
  [ ! -e "$work/never" ] || fail "$filter: exported"
done <<'ROWS'
.layers = []|layers: expected at least one
.layers = .layers[1:]|is none of the package's layers
.layers += [.layers[0]]|is there twice
.layers[].size += 1|size: expected .*, found
.config.size += 1|size: expected .*, found
ROWS
torn edited '.layers = []'
refused 2 "more faults" "$bin/shiftadd" pull "$work/edited" golden:v1 --packager "$(address five)"

# Keys that are none of the kind.
for key in key.pem whole; do
  refused 2 "$work/$key: key: expected an Ed25519 public key" "$bin/shiftadd" verify golden:v1 --key "$work/$key" "${two[@]}"
  refused 2 "$work/$key: key: expected an Ed25519 public key" timeout 20 "${serve[@]}" "${two[@]}" --require-signature "$work/$key"
done

# Places that are none; nothing is made there.
refused 1 "$work/none: no OCI image layout is there" "$bin/shiftadd" pull "$work/none" golden:v1 "${two[@]}"
mkdir "$work/empty"
refused 1 "$work/empty: no OCI image layout is there" "$bin/shiftadd" pull "$work/empty" golden:v1 "${two[@]}"
[ -z "$(ls -A "$work/empty")" ] || fail "pull writes into its source: $(ls -A "$work/empty")"
refused 1 "nobody" "$bin/shiftadd" push nobody:v1 "$work/none" "${two[@]}"
[ ! -e "$work/none" ] || fail "a layout was made for no package"
for command in push pull; do
  for place in ftp://x http://127.0.0.1:99999/x; do
    arguments=(copy:v2 "$place")
    [ $command = push ] || arguments=("$place" copy:v2)
    words="expected http:// or https://"
    [ "$place" = ftp://x ] || words="port: expected 1 to 65535"
    refused 2 "$words" "$bin/shiftadd" $command "${arguments[@]}" "${two[@]}"
  done
done
victim=$(jq -r '.layers[0].digest' "$work/layout/blobs/sha256/${digest#sha256:}")
# A packager's own store that was damaged, with bytes of the same size: a pull mends it.
mine=$work/two/blobs/blobs/sha256/${victim#sha256:}
tr '\000-\377' '\001-\377\000' <"$mine" >"$work/other_bytes" && chmod u+w "$mine" && cp "$work/other_bytes" "$mine"
"$bin/shiftadd" pull "$work/layout" golden:v1 "${two[@]}" 2>"$work/mended" || fail "pull: $(cat "$work/mended")"
grep -q "$victim.*was damaged on disk.*moved again" "$work/mended" || fail "nothing is said of the damage: $(cat "$work/mended")"
cmp "$mine" "$work/layout/blobs/sha256/${victim#sha256:}" || fail "pull trusts what is damaged"
echo damaged >"$work/layout/blobs/sha256/${victim#sha256:}"
packager three
refused 1 "$victim" "$bin/shiftadd" pull "$work/layout" golden:v1 --packager "$(address three)"
grep -q "push the package there again" "$work/refused" || fail "no advice that helps: $(cat "$work/refused")"
left=$("$bin/shiftadd" packages --json --packager "$(address three)") || fail "packages: $left"
[ "$(jq '.packages | length' <<<"$left")" = 0 ] || fail "half a package: $left"
echo ok
