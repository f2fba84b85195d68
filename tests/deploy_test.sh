#!/usr/bin/env bash
# The files of deploy/ by the tools that know their formats.
#   deploy_test.sh DEPLOY_DIR
# Tools are those on PATH and in $SHIFTADD_TEST_TOOLS (default: where `deploy/setup.sh deploy-tools` puts hadolint, kubectl,
# kubernetes-validate and compose-spec). Exits 77 (skipped) if none of them is there.
set -euo pipefail
deploy=$1
tools=${SHIFTADD_TEST_TOOLS:-${SHIFTADD_CACHE:-$HOME/.cache/shiftadd}/deploy-tools/bin}
PATH=$tools:$PATH
python=python3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checked=0
if command -v hadolint >/dev/null; then
  hadolint "$deploy/docker/Dockerfile"
  echo "hadolint: ok"
  checked=1
fi
if command -v kubernetes-validate >/dev/null; then
  find "$deploy/kubernetes" -name '*.yaml' ! -name kustomization.yaml ! -name service-monitor.yaml ! -name server-on-gpu.yaml \
    ! -name daemon.yaml \
    -print0 | xargs -0 kubernetes-validate --strict --quiet -k 1.31
  echo "kubernetes-validate: ok"
  checked=1
  if command -v kubectl >/dev/null; then
    for overlay in cpu gpu cpu-tls gpu-tls; do
      kubectl kustomize "$deploy/kubernetes/overlays/$overlay" >"$work/$overlay.yaml"
      kubernetes-validate --strict --quiet -k 1.31 "$work/$overlay.yaml"
      echo "kubectl kustomize, overlay $overlay: $(grep -c '^kind:' "$work/$overlay.yaml") objects, ok"
    done
  fi
fi
if "$python" -c 'import compose_spec, yaml' 2>/dev/null; then
  "$python" - "$deploy/compose/compose.yaml" <<'PY'
import sys
import compose_spec
import yaml
project = compose_spec.ComposeSpecification.model_validate(yaml.safe_load(open(sys.argv[1])))
names = set(project.services)
for name, service in project.services.items():
    for needed in service.depends_on or []:
        assert str(needed) in names, f"{name} depends on {needed}, which is no service"
print(f"compose-spec: {len(names)} services, ok")
PY
  checked=1
fi
# Nothing of ours is run as root, and nothing writes but to what it is given for it.
for unit in "$deploy"/systemd/*.service; do
  for line in User=shiftadd ProtectSystem=strict NoNewPrivileges=yes CapabilityBoundingSet=; do
    grep -qx "$line" "$unit" || { echo "$unit: expected the line $line"; exit 1; }
  done
done
if command -v systemd-analyze >/dev/null; then
  for unit in "$deploy"/systemd/*.service; do
    # The daemons are not installed here: only their absence may be complained of.
    complaints=$(systemd-analyze verify "$unit" 2>&1 | grep -v 'is not executable: No such file' || true)
    [ -z "$complaints" ] || { echo "$complaints"; exit 1; }
    systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" >"$work/security" || { cat "$work/security"; exit 1; }
    tail -1 "$work/security"
  done
  checked=1
fi
[ $checked = 1 ] || { echo "skipped: no hadolint, kubernetes-validate or compose-spec"; exit 77; }
