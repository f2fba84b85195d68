#!/usr/bin/env python3
"""The cluster of deploy/compose/compose.yaml as plain processes: its commands and environments, other addresses.

  compose_test.py BIN_DIR TESTS_DIR

A job that is submitted to the second coordinator is done by workers of the first, published through the registry and
served. Exits 77 (skipped) without PyYAML, docker-registry or PostgreSQL.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

try:
    import yaml
except ImportError:
    print("skipped: no PyYAML")
    sys.exit(77)

COMPOSE = pathlib.Path(__file__).resolve().parent.parent / "deploy/compose/compose.yaml"
POSTGRES = pathlib.Path("/usr/lib/postgresql/15/bin")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def compose_services(variables):
    text = re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: variables.get(m[1], m[2] or ""), COMPOSE.read_text())
    return yaml.safe_load(text)["services"]


class Project:
    """Processes for services, each a command and an environment, as Compose names them. Also for kubernetes_test.py."""

    def __init__(self, bin_dir, services):
        self.bin = pathlib.Path(bin_dir)
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.work.chmod(0o755)
        self.services = services
        self.ports, self.processes = {}, []

    def port(self, service, number):
        return self.ports.setdefault((service, int(number)), free_port())

    # host:port of the project's network -> here. An alias means the first service that has it.
    def local(self, service, value):
        names = {name: name for name in self.services}
        for name, spec in reversed(list(self.services.items())):
            for network in (spec.get("networks") or {}).values():
                names.update({alias: name for alias in network.get("aliases", [])})
        value = re.sub(r"0\.0\.0\.0:(\d+)", lambda m: f"127.0.0.1:{self.port(service, m[1])}", value)
        value = re.sub(r"@postgres/", f"@127.0.0.1:{self.port('postgres', 5432)}/", value)
        value = re.sub(r"\b([a-z][a-z0-9-]*):(\d+)",
                       lambda m: f"127.0.0.1:{self.port(names[m[1]], m[2])}" if m[1] in names else m[0], value)
        return value.replace("/var/lib/shiftadd", str(self.work / service)).replace("/models", str(self.work / "models"))

    def environment(self, service):
        given = self.services[service].get("environment", {})
        return dict(os.environ, **{k: self.local(service, str(v)) for k, v in given.items()})

    def spawn(self, name, command, environment):
        log = open(self.work / f"{name}.log", "w")
        self.processes.append(subprocess.Popen([str(c) for c in command], env=environment, stdout=log, stderr=log))

    def start(self, service, copies=1):
        command = list(self.services[service]["command"])
        if not command[0].startswith("shiftadd-"):  # the image's entry point
            command.insert(0, f"shiftadd-{service}")
        command[0] = self.bin / command[0]
        for copy in range(copies):
            environment = self.environment(service)
            if copy > 0:  # of its own address, as each container has one
                environment = {k: re.sub(r"^127\.0\.0\.1:\d+$", f"127.0.0.1:{free_port()}", v) if k.endswith("_HTTP") else v
                               for k, v in environment.items()}
            self.spawn(f"{service}-{copy}", command, environment)

    def start_postgres(self):
        data, port = self.work / "postgres", self.port("postgres", 5432)
        environment = self.environment("postgres")
        data.mkdir()
        password = self.work / "password"
        password.write_text(environment["POSTGRES_PASSWORD"])
        run = []
        if os.geteuid() == 0:
            shutil.chown(data, "postgres")
            run = ["runuser", "-u", "postgres", "--"]
        subprocess.run([*run, POSTGRES / "initdb", "-D", data, "-U", environment["POSTGRES_USER"], "-A", "scram-sha-256",
                        f"--pwfile={password}"], check=True, stdout=subprocess.DEVNULL)
        self.spawn("postgres", [*run, POSTGRES / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", ""],
                   environment)
        url = f"postgres://{environment['POSTGRES_USER']}:{environment['POSTGRES_PASSWORD']}@127.0.0.1:{port}/postgres"
        for _ in range(200):
            made = subprocess.run([POSTGRES / "psql", url, "-c", f"CREATE DATABASE {environment['POSTGRES_DB']}"],
                                  capture_output=True, text=True)
            if made.returncode == 0 or "already exists" in made.stderr:
                return
            time.sleep(0.1)
        raise RuntimeError("postgres does not start: " + made.stderr)

    def start_registry(self):
        config = self.work / "registry.yml"
        config.write_text(f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {self.work}/registry}}}}\n"
                          f"http: {{addr: '127.0.0.1:{self.port('registry', 5000)}'}}\n")
        self.spawn("registry", ["docker-registry", "serve", config], self.environment("registry"))

    def await_ready(self, service, number, path="/ready"):
        url = f"http://127.0.0.1:{self.port(service, number)}{path}"
        for _ in range(600):
            try:
                return urllib.request.urlopen(url, timeout=5).read().decode()
            except OSError:
                time.sleep(0.1)
        logs = "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in self.work.glob("*.log"))
        raise RuntimeError(f"{service} is not ready at {url}\n{logs}")

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.work, ignore_errors=True)


def main():
    if not shutil.which("docker-registry") or not POSTGRES.exists():
        print("skipped: no docker-registry or PostgreSQL")
        return 77
    project = Project(sys.argv[1], compose_services({"POSTGRES_PASSWORD": "secret", "PACKAGE": "tiny:latest"}))
    try:
        (project.work / "models").mkdir()
        subprocess.run([pathlib.Path(sys.argv[2]) / "make_golden_package", "model", project.work / "models/tiny"],
                       check=True)
        project.start_registry()
        project.start_postgres()
        project.start("packager")
        project.await_ready("packager", 9471)
        for coordinator in ("coordinator-1", "coordinator-2"):
            project.start(coordinator)
            project.await_ready(coordinator, 9470)
        project.start("worker", project.services["worker"]["deploy"]["replicas"])
        project.await_ready("worker", 9470)
        submitted = subprocess.run(
            [project.bin / "shiftadd", "submit", project.work / "models/tiny", "--bits", "3", "--name", "tiny", "--watch",
             "--calibration-sequences", "8", "--calibration-length", "32", "--eval-sequences", "2",
             "--coordinator", f"127.0.0.1:{project.port('coordinator-2', 7070)}",
             "--packager", f"127.0.0.1:{project.port('packager', 7071)}"], capture_output=True, text=True, timeout=200)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        project.start("server")
        models = json.loads(project.await_ready("server", 8000, "/v1/models"))
        assert models["data"][0]["id"] == "tiny:latest", models
        workers = project.await_ready("coordinator-1", 9470, "/metrics")
        assert 'shiftadd_jobs{state="succeeded"} 1' in workers, workers
        print(f"{len(project.processes)} processes of {COMPOSE.name}: a job of one coordinator done by workers of the other, "
              "published in the registry, served")
    finally:
        project.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
