#!/usr/bin/env python3
"""The overlays of deploy/kubernetes: what they name exists, and the one with TLS as plain processes, probed as the kubelet does.

  kubernetes_test.py BIN_DIR TESTS_DIR

Checked of each overlay: selectors find pods, ports and volumes have their names, Secrets are those that deploy/README.md makes. Of
cpu-tls the daemons run with its commands and environments (other addresses; certificates of deploy/certs.sh): a job is done, published
and served, every probe is answered over HTTPS to who shows no certificate, /metrics to a viewer alone. Exits 77 (skipped) without
PyYAML, kubectl (SHIFTADD_TEST_TOOLS, or what `deploy/setup.sh deploy-tools` installs), docker-registry or PostgreSQL.
"""
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

import compose_test
import yaml

SOURCE = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("SHIFTADD_CACHE", pathlib.Path.home() / ".cache/shiftadd"))
TOOLS = os.environ.get("SHIFTADD_TEST_TOOLS", str(CACHE / "deploy-tools/bin"))
NAME = "app.kubernetes.io/name"
DAEMONS = ["packager", "coordinator", "worker", "server"]


def built(kubectl, overlay):
    text = subprocess.run([kubectl, "kustomize", SOURCE / "deploy/kubernetes/overlays" / overlay], check=True, capture_output=True,
                          text=True).stdout
    return list(yaml.safe_load_all(text))


def selects(selector, labels):
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions") or [])


def of_kind(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def check_overlay(overlay, objects):
    pods = {o["metadata"]["name"]: o["spec"]["template"] for o in of_kind(objects, "Deployment", "StatefulSet")}
    labels = {name: pod["metadata"]["labels"] for name, pod in pods.items()}
    ports = {name: {p["name"] for p in pod["spec"]["containers"][0]["ports"]} for name, pod in pods.items()}
    names = {(o["kind"], o["metadata"]["name"]) for o in objects}
    readme = (SOURCE / "deploy/README.md").read_text()
    found = 0

    def expect(holds, what):
        nonlocal found
        found += 1
        assert holds, f"{overlay}: {what}"

    def targets(selector):
        return [n for n in pods if selects(selector, labels[n])]

    for o in of_kind(objects, "Service"):
        some = targets({"matchLabels": o["spec"]["selector"]})
        expect(some == [o["metadata"]["name"]], f"Service {o['metadata']['name']} selects {some}")
        for port in o["spec"]["ports"]:
            expect(port["targetPort"] in ports[some[0]], f"Service {some[0]} has no port {port['targetPort']}")
    for o in of_kind(objects, "PodDisruptionBudget"):
        expect(targets(o["spec"]["selector"]), f"PodDisruptionBudget {o['metadata']['name']} selects nothing")
    for o in of_kind(objects, "PodMonitor"):
        some = set(targets(o["spec"]["selector"]))
        expect(some == set(pods) - {"postgres", "registry"}, f"PodMonitor selects {some}")
    for o in of_kind(objects, "NetworkPolicy"):
        some = targets(o["spec"]["podSelector"])
        expect(some, f"NetworkPolicy {o['metadata']['name']} selects nothing")
        for rule in o["spec"].get("ingress") or []:
            for port in rule.get("ports") or []:
                expect(all(port["port"] in ports[n] for n in some), f"NetworkPolicy {o['metadata']['name']}: port {port['port']}")
            for peer in rule.get("from") or []:
                who = peer.get("podSelector", {}).get("matchLabels", {}).get(NAME)
                expect(who in [None, "shiftadd-client", "gpu-worker", *pods], f"NetworkPolicy {o['metadata']['name']}: from {who}")
    for o in of_kind(objects, "HorizontalPodAutoscaler"):
        target = o["spec"]["scaleTargetRef"]
        expect((target["kind"], target["name"]) in names, f"HorizontalPodAutoscaler scales {target}")
    for name, pod in pods.items():
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        expect(spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"], f"{name}: as root")
        claims = [c["metadata"]["name"] for o in objects if o["metadata"]["name"] == name
                  for c in o.get("spec", {}).get("volumeClaimTemplates") or []]
        volumes = {v["name"] for v in spec.get("volumes") or []} | set(claims)
        for mount in container["volumeMounts"]:
            expect(mount["name"] in volumes, f"{name}: no volume {mount['name']}")
        secrets = [v["secret"]["secretName"] for v in spec.get("volumes") or [] if "secret" in v]
        secrets += [e["valueFrom"]["secretKeyRef"]["name"] for e in container["env"] if "valueFrom" in e]
        for secret in secrets:
            known = re.sub("^shiftadd-tls-.*", "shiftadd-tls-$role", secret)
            expect(known in readme, f"{name}: deploy/README.md does not make the Secret {secret}")
        if name in ("postgres", "registry"):
            continue
        tls = overlay.endswith("-tls")
        expect(("--insecure-i-know" in container["command"]) != tls, f"{name}: {container['command']}")
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            expect(container[probe]["httpGet"].get("scheme", "HTTP") == ("HTTPS" if tls else "HTTP"), f"{name}: {probe}")
            expect(container[probe]["httpGet"]["port"] in ports[name], f"{name}: {probe}")
    print(f"overlay {overlay}: {len(objects)} objects, {found} of their references hold")


def services(objects, secrets):
    """Compose's form of the pods: command, environment."""
    out = {}
    for o in of_kind(objects, "Deployment", "StatefulSet"):
        container = o["spec"]["template"]["spec"]["containers"][0]
        environment = {e["name"]: e["value"] if "value" in e else
                       secrets[e["valueFrom"]["secretKeyRef"]["name"], e["valueFrom"]["secretKeyRef"]["key"]] for e in container["env"]}
        out[o["metadata"]["name"]] = {"command": container.get("command") or [], "environment": environment, "container": container,
                                      "volumes": o["spec"]["template"]["spec"].get("volumes") or []}
    return out


class Cluster(compose_test.Project):
    def local(self, service, value):
        """Addresses, and the folders of Secrets, here."""
        value = super().local(service, value)
        for volume in self.services[service]["volumes"]:
            if "secret" in volume:
                mount = next(m for m in self.services[service]["container"]["volumeMounts"] if m["name"] == volume["name"])
                value = value.replace(mount["mountPath"], str(self.work / volume["secret"]["secretName"]))
        return value

    def make_secrets(self):
        certs = self.work / "certs"
        subprocess.run([SOURCE / "deploy/certs.sh", certs], check=True, stdout=subprocess.DEVNULL)
        for role in ("coordinator", "packager", "worker", "server", "viewer"):
            folder = self.work / f"shiftadd-tls-{role}"
            folder.mkdir()
            for source, target in (("ca.crt", "ca.crt"), (f"{role}.crt", "tls.crt"), (f"{role}.key", "tls.key")):
                shutil.copy(certs / source, folder / target)
        (self.work / "shiftadd-api-keys").mkdir()
        (self.work / "shiftadd-api-keys/keys").write_text("a-key-of-a-client\n")
        return certs

    def http_port(self, service):
        return self.port(service, next(p["containerPort"] for p in self.services[service]["container"]["ports"] if p["name"] == "http"))

    def probe(self, service, kind):
        """As the kubelet: no certificate shown, none verified."""
        get = self.services[service]["container"][kind]["httpGet"]
        context = ssl._create_unverified_context()
        url = f"{get['scheme'].lower()}://127.0.0.1:{self.http_port(service)}{get['path']}"
        return urllib.request.urlopen(url, timeout=5, context=context).status

    def await_probe(self, service):
        for _ in range(600):
            try:
                if self.probe(service, "readinessProbe") == 200:
                    return
            except OSError:
                time.sleep(0.1)
        logs = "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in self.work.glob("*.log"))
        raise RuntimeError(f"{service} is not ready\n{logs}")

    def metrics(self, service, role):
        context = ssl.create_default_context(cafile=self.work / "certs/ca.crt")
        if role:
            context.load_cert_chain(self.work / f"shiftadd-tls-{role}/tls.crt", self.work / f"shiftadd-tls-{role}/tls.key")
        url = f"https://localhost:{self.http_port(service)}/metrics"  # serverName of the PodMonitor
        try:
            return urllib.request.urlopen(url, timeout=5, context=context).status
        except urllib.error.HTTPError as error:
            return error.code

    def run(self, tests_dir):
        certs = self.make_secrets()
        (self.work / "models").mkdir()
        subprocess.run([pathlib.Path(tests_dir) / "make_golden_package", "model", self.work / "models/tiny"], check=True)
        self.start_registry()
        self.start_postgres()
        for service in ("packager", "coordinator", "worker"):
            self.start(service)
            self.await_probe(service)
        submitted = subprocess.run(
            [self.bin / "shiftadd", "submit", self.work / "models/tiny", "--bits", "3", "--name", "my-model", "--watch",
             "--calibration-sequences", "8", "--calibration-length", "32", "--eval-sequences", "2",
             "--coordinator", f"127.0.0.1:{self.port('coordinator', 7070)}", "--packager", f"127.0.0.1:{self.port('packager', 7071)}"],
            env=dict(os.environ, SHIFTADD_CERTS=str(certs)), capture_output=True, text=True, timeout=200)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        self.start("server")
        self.await_probe("server")
        probes = [(s, k, self.probe(s, k)) for s in DAEMONS for k in ("livenessProbe", "readinessProbe", "startupProbe")]
        assert all(status == 200 for _, _, status in probes), probes
        scraped = {s: (self.metrics(s, "viewer"), self.metrics(s, None)) for s in DAEMONS}
        assert all(a == 200 and b in (401, 403) for a, b in scraped.values()), scraped
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.http_port('coordinator')}/health", timeout=5)
            raise AssertionError("HTTP without TLS is answered")
        except OSError:
            pass
        body = json.dumps({"prompt": "Hello", "max_tokens": 2}).encode()
        ask = urllib.request.Request(f"https://127.0.0.1:{self.http_port('server')}/v1/completions", body,
                                     {"Content-Type": "application/json", "Authorization": "Bearer a-key-of-a-client"})
        answer = urllib.request.urlopen(ask, timeout=20, context=ssl.create_default_context(cafile=certs / "ca.crt"))
        assert answer.status == 200
        print(f"overlay cpu-tls as {len(self.processes)} processes: a job done, published in the registry and served; {len(probes)} probes "
              f"answered over HTTPS, /metrics to a viewer's certificate alone")


def main():
    kubectl = shutil.which("kubectl", path=f"{TOOLS}:{os.environ['PATH']}")
    if not kubectl or not shutil.which("docker-registry") or not compose_test.POSTGRES.exists():
        print("skipped: no kubectl (deploy/setup.sh deploy-tools), docker-registry or PostgreSQL")
        return 77
    overlays = {o: built(kubectl, o) for o in ("cpu", "gpu", "cpu-tls", "gpu-tls")}
    for overlay, objects in overlays.items():
        check_overlay(overlay, objects)
    secrets = {("shiftadd-store", "password"): "secret", ("shiftadd-store", "url"): "postgres://shiftadd:secret@postgres/shiftadd"}
    cluster = Cluster(sys.argv[1], services(overlays["cpu-tls"], secrets))
    try:
        cluster.run(sys.argv[2])
    finally:
        cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
