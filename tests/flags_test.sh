#!/usr/bin/env bash
# What the programs say of settings that cannot be meant, before they do anything.
#   flags_test.sh BIN_DIR
set -euo pipefail
bin=$1
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
for variable in "${!SHIFTADD_@}"; do unset "$variable"; done

# expect CODE TEXT COMMAND…: how it ends and what it says.
expect() {
  local code=0 said expected=$1 text=$2
  shift 2
  said=$("$@" 2>&1 </dev/null) || code=$?
  [ $code = "$expected" ] && [[ $said == *"$text"* ]] && return
  echo "FAILED: $*: exit code $code, expected $expected with: $text"
  echo "$said"
  exit 1
}
server=("$bin/shiftadd-server" --package absent:v1 --package-dir "$work/absent")
worker=("$bin/shiftadd-worker" --blobs "$work/store" --source-root /)

# An empty value is none; taken for absent, it would let everybody in.
for option in --api-key-file --require-signature --tokens --tls-cert --tls-ca --cors-origin; do
  expect 2 "$option: expected a value, found \"\"" "${server[@]}" $option ""
done
for option in --tokens --tls-cert --tls-ca --token-file; do
  expect 2 "$option: expected a value" "$bin/shiftadd-coordinator" --data-dir "$work/c" $option ""
  expect 2 "$option: expected a value" "$bin/shiftadd-packager" --data-dir "$work/p" $option ""
  expect 2 "$option: expected a value" "${worker[@]}" $option ""
done
# Nor may a variable be empty that keeps somebody out.
empty() { expect 2 "$1: is set to nothing; unset it if none is meant" env "$1=" "${@:2}"; }
empty SHIFTADD_SERVER_API_KEY_FILE "${server[@]}"
empty SHIFTADD_SERVER_REQUIRE_SIGNATURE "${server[@]}"
for variable in SHIFTADD_TOKENS SHIFTADD_TLS_CERT SHIFTADD_TLS_KEY SHIFTADD_TLS_CA SHIFTADD_TOKEN_FILE; do
  empty $variable "${server[@]}"
  empty $variable "$bin/shiftadd-coordinator" --data-dir "$work/c"
  empty $variable "$bin/shiftadd-packager" --data-dir "$work/p"
  empty $variable "${worker[@]}"
done
empty SHIFTADD_CERTS "$bin/shiftadd" status
empty SHIFTADD_TLS_CA "$bin/shiftadd" status
for variable in SHIFTADD_REGISTRY_CA_FILE SHIFTADD_REGISTRY_AUTH_FILE; do
  expect 1 "$variable: is set to nothing" env $variable= "$bin/shiftadd-server" --package absent:v1 \
    --package-dir http://127.0.0.1:1/absent
done
# A key that would never end.
expect 2 '/dev/zero: is a pipe or a device' "${server[@]}" --require-signature /dev/zero
expect 1 '/dev/zero: is a pipe or a device' "${server[@]}" --api-key-file /dev/zero
export=("$bin/shiftadd-export" absent:v1 --package-dir "$work/absent")
expect 2 'dir: expected a value, found ""' "${export[@]}" --format gguf ""

# Addresses of others.
address='expected HOST:PORT, or several with commas, found ","'
expect 2 "--packager: $address" "$bin/shiftadd-coordinator" --data-dir "$work/c" --packager ,
expect 2 "--coordinator: $address" "${worker[@]}" --coordinator ,
expect 2 "--packager: $address" "$bin/shiftadd-server" --package absent:v1 --packager ,
expect 2 "--packager: $address" "$bin/shiftadd-export" absent:v1 "$work/out" --format gguf --packager ,

expect 2 "--coordinator: expected HOST:PORT" "${worker[@]}" --coordinator 127.0.0.1:7070,,127.0.0.1:7071
expect 2 "--packager: expected HOST:PORT" "$bin/shiftadd-server" --package absent:v1 --packager 127.0.0.1:7071,

# Names.
for bad in , a, ,a a,,b 'a, ,b'; do
  for option in --cors-origin --package; do
    expect 2 "$option: expected names with commas between them, found \"$bad\"" "${server[@]}" $option "$bad"
  done
  expect 2 "--cors-origin: expected names" env SHIFTADD_SERVER_CORS_ORIGIN="$bad" "${server[@]}"
  expect 2 "--package: expected names" \
    env SHIFTADD_SERVER_PACKAGE="$bad" "$bin/shiftadd-server" --package-dir "$work/absent"
done
printf 'cors-origin = ["https://a", "https://b,"]\n' >"$work/server.toml"
expect 2 '--cors-origin: expected names' "${server[@]}" --config "$work/server.toml"
expect 1 'no OCI image layout' "${server[@]}" --cors-origin https://a,https://b --cors-origin '*'
for bad in , rtn, ,rtn rtn,,lat; do
  expect 2 "--methods: " "$bin/shiftadd" compare / --methods "$bad"
done

# Their own: a mistake in one is a mistake of usage, wherever it was written.
# malformed FLAG VARIABLE COMMAND…
malformed() {
  local flag=$1 variable=$2 bad
  shift 2
  for bad in :18100 localhost localhost: localhost:no localhost:65536 localhost:-1 localhost:1.5 ::1:18100 '[::1]'; do
    expect 2 "$flag: expected host:port with a port from 0 to 65535, found \"$bad\"" "$@" "$flag" "$bad"
  done
  expect 2 "expected host:port with a port from 0 to 65535, found \"localhost\"" env "$variable=localhost" "$@"
  printf '%s = "localhost"\n' "${flag#--}" >"$work/malformed.toml"
  expect 2 "expected host:port with a port from 0 to 65535, found \"localhost\"" "$@" --config "$work/malformed.toml"
}
for flag in listen http; do
  malformed --$flag "SHIFTADD_COORDINATOR_${flag^^}" "$bin/shiftadd-coordinator" --data-dir "$work/c"
  malformed --$flag "SHIFTADD_PACKAGER_${flag^^}" "$bin/shiftadd-packager" --data-dir "$work/p"
  malformed --$flag "SHIFTADD_SERVER_${flag^^}" "${server[@]}"
done
malformed --http SHIFTADD_WORKER_HTTP "${worker[@]}"
# What a machine does not know or has given to another is none.
expect 1 'cannot resolve "no.such.host.invalid"' "$bin/shiftadd-packager" --data-dir "$work/p" --listen no.such.host.invalid:0
"$bin/shiftadd-packager" --data-dir "$work/p" --listen 127.0.0.1:0 --http 127.0.0.1:0 --port-file "$work/ports" \
  >"$work/packager.log" 2>&1 &
for _ in $(seq 300); do [ -s "$work/ports" ] && break || sleep 0.1; done
taken=127.0.0.1:$(sed -n 2p "$work/ports")
expect 1 "--http: address $taken is in use" "${server[@]}" --listen 127.0.0.1:0 --http "$taken"
expect 1 "--listen: address $taken is in use" "${server[@]}" --listen "$taken" --http 127.0.0.1:0
echo "all good"
