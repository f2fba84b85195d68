#!/usr/bin/env python3
"""A real Prometheus watches a real tiny job and a server under load.

  prometheus_test.py BIN_DIR TESTS_DIR [RESULT_FILE]

Every daemon's /metrics passes `promtool check metrics`; what the series say agrees with the job's own report; every
query of every panel of deploy/grafana gives data. RESULT_FILE gets all of it: tests/results/panels.txt was written so.
Exits 77 (skipped) without Prometheus.
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
import threading
import time
import urllib.parse
import urllib.request

from served import http_address

SOURCE = pathlib.Path(__file__).resolve().parent.parent
# Where no device has a meter; the code must export them all the same (deploy/check_dashboards.py).
QUIET = {"shiftadd_device_power_watts",
         "sum by (instance, device) (increase(shiftadd_server_energy_joules_total[1m]))",
         "sum by (instance, device) (increase(shiftadd_worker_energy_joules_total[1m]))"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=60) as r:
        return r.read().decode()


class Run:
    def __init__(self, bin_dir, tests_dir):
        self.bin, self.tests = pathlib.Path(bin_dir), pathlib.Path(tests_dir)
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.env = dict(os.environ, SHIFTADD_DATA_DIR=str(self.work / "data"))
        self.prometheus = None
        self.faults, self.asserted = [], []

    def shiftadd(self, *arguments):
        done = subprocess.run([self.bin / "shiftadd", *arguments], env=self.env, capture_output=True, text=True, timeout=240)
        if done.returncode != 0:
            raise RuntimeError(f"shiftadd {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def expect(self, what, holds):
        self.asserted.append(("ok      " if holds else "FAILED  ") + what.strip())
        print(self.asserted[-1])
        if not holds:
            self.faults.append(what)

    def targets(self):
        cluster = json.loads((self.work / "data/cluster.json").read_text())
        groups = {"coordinator": [], "packager": [], "worker": [], "server": [self.server]}
        for daemon in cluster["daemons"]:
            groups[daemon["name"].split("-")[0]].append(daemon["http"])
        return groups

    def start_prometheus(self):
        config = {"global": {"scrape_interval": "250ms", "evaluation_interval": "1s"},
                  "rule_files": [str(SOURCE / "deploy/prometheus/rules.yml")],
                  "scrape_configs": [{"job_name": name, "honor_labels": name == "coordinator",
                                      "static_configs": [{"targets": targets}]} for name, targets in self.targets().items()]}
        (self.work / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={self.work}/prometheus.yml", f"--storage.tsdb.path={self.work}/tsdb",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"])
        for _ in range(200):
            try:
                get(self.url + "/-/ready")
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("prometheus does not start")

    def query(self, expression, at=None):
        parameters = {"query": expression, **({"time": at} if at else {})}
        return json.loads(get(self.url + "/api/v1/query?" + urllib.parse.urlencode(parameters)))["data"]["result"]

    def query_range(self, expression, begin, end):
        parameters = {"query": expression, "start": begin, "end": end, "step": "500ms"}
        return json.loads(get(self.url + "/api/v1/query_range?" + urllib.parse.urlencode(parameters)))["data"]["result"]

    def value(self, expression):
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else 0.0

    def load_server(self, stop):
        body = {"model": "tiny:one", "prompt": "Hello, hello, hello, hello", "max_tokens": 24}
        while not stop.is_set():
            get(f"http://{self.server}/v1/completions", body)

    def run(self):
        subprocess.run([self.tests / "make_golden_package", "model", self.work / "model"], check=True)
        self.shiftadd("up", "--workers", "2", "--coordinator-port", "0", "--packager-port", "0")
        job = ["submit", str(self.work / "model"), "--bits", "3", "--calibration-sequences", "256", "--calibration-length",
               "256", "--eval-sequences", "160", "--watch", "--name"]
        self.shiftadd(*job, "tiny:one")
        self.server = http_address(self.shiftadd("serve", "tiny:one", "--port", "0", "--grpc-port", "0", "--detach"))
        self.start_prometheus()
        time.sleep(2.5)
        begin = time.time()
        stop = threading.Event()
        loader = threading.Thread(target=self.load_server, args=(stop,))
        loader.start()
        try:
            self.shiftadd(*job, "tiny:two", "--recipe", self.recipe())
        finally:
            end = time.time()
            stop.set()
            loader.join()
        time.sleep(2.5)
        self.check_lint()
        self.check_values(begin, end)
        return self.check_panels(begin, time.time())

    # Another seed: another job, not the first one's blobs again.
    def recipe(self):
        path = self.work / "recipe.json"
        path.write_text('{"method": "shiftadd", "seed": 7}')
        return str(path)

    def check_lint(self):
        for name, targets in self.targets().items():
            text = get(f"http://{targets[0]}/metrics")
            lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
            self.expect(f"promtool check metrics: {name} {lint.stdout.strip()}{lint.stderr.strip()}".strip(), lint.returncode == 0)

    def check_values(self, begin, end):
        jobs = json.loads(self.shiftadd("jobs", "--json"))["jobs"]
        done = self.value('sum(shiftadd_tasks{state="done"})')
        progress = self.query_range("shiftadd_job_progress_ratio", begin, end + 2)
        seen = [float(v) for series in progress for _, v in series["values"]]
        self.expect(f"progress was seen to rise to {max(seen, default=0):.2f}, in order",
                    bool(seen) and max(seen) == 1 and seen == sorted(seen))
        self.expect("no time left and no layer of ended jobs is left",
                    not self.query("shiftadd_job_eta_seconds or shiftadd_layer_bits or shiftadd_layer_output_error_ratio"))
        for _ in range(90):  # it stays for half a minute
            if not self.query("shiftadd_job_progress_ratio"):
                break
            time.sleep(0.5)
        self.expect("their progress has gone too, after its time", not self.query("shiftadd_job_progress_ratio"))
        self.expect(f"{len(jobs)} jobs succeeded", self.value('shiftadd_jobs{state="succeeded"}') == len(jobs) == 2)
        self.expect(f"the histogram of tasks counts the {done:.0f} that are done",
                    done > 0 and self.value("sum(shiftadd_task_seconds_count)") == done)
        self.expect("the workers count as many",
                    self.value('sum(shiftadd_worker_tasks_total{outcome="done"})') == done)
        self.expect("2 packages were published", self.value("shiftadd_packages_published_total") == 2)
        stored = self.value('sum(shiftadd_store_seconds_count{method="CompleteTask",code="OK"})')
        self.expect(f"the store's histogram counts {stored:.0f} completions", stored >= done)
        self.expect("workers and server tell their memory",
                    self.value("count(shiftadd_device_memory_used_bytes > 1e6)") == 3 and
                    self.value("count(shiftadd_device_memory_used_bytes < shiftadd_device_memory_bytes)") == 3)
        self.expect("both workers are idle", self.value("sum(shiftadd_worker_busy)") == 0)
        self.expect("every target answers", self.value("count(up == 1)") == 5 and self.value("count(up)") == 5)
        tokens, requests = self.value("shiftadd_generated_tokens_total"), self.value(
            'sum(shiftadd_requests_total{code="200"})')
        self.expect(f"{requests:.0f} requests gave {tokens:.0f} tokens", requests > 0 and 0 < tokens <= 24 * requests)
        self.expect("no alert fires", not self.query('ALERTS{alertstate="firing"}'))

    def check_panels(self, begin, end):
        samples = []
        for path in sorted((SOURCE / "deploy/grafana/dashboards").glob("*.json")):
            for panel in json.loads(path.read_text())["panels"]:
                for target in panel["targets"]:
                    asked = re.sub(r"\$(job|model)", ".*", target["expr"])
                    asked = re.sub(r"\[\d+m\]", "[5s]", asked)  # the run is short
                    series = self.query_range(asked, begin, end)
                    points = [v for s in series for _, v in s["values"] if v != "NaN"]
                    where = f"{path.stem} panel {panel['id']} '{panel['title']}'"
                    samples.append(f"{where}: {target['expr']}: {len(series)} series, last {points[-1] if points else '-'}")
                    if target["expr"] not in QUIET:
                        self.expect(f"{where}: {len(series)} series", bool(points))
        return samples

    def stop(self):
        if self.prometheus:
            self.prometheus.terminate()
            self.prometheus.wait()
        subprocess.run([self.bin / "shiftadd", "down"], env=self.env, capture_output=True, timeout=120)
        shutil.rmtree(self.work, ignore_errors=True)


def write_results(path, run, samples):
    version = subprocess.run(["prometheus", "--version"], capture_output=True, text=True)
    version = re.search(r"version (\S+)", version.stdout + version.stderr)[1]
    cpu = next(l.split(":", 1)[1].strip() for l in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in l)
    panel_lines = [a for a in run.asserted if " panel " in a]
    values = [a for a in run.asserted if " panel " not in a]
    pathlib.Path(path).write_text("\n".join([
        f"# A real Prometheus ({version}) watched a tiny job on two workers and a server under load; written by",
        "#   tests/prometheus_test.py BIN_DIR TESTS_DIR tests/results/panels.txt    (rates over 5 s, for the run is short)",
        f"# {cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {time.strftime('%Y-%m-%d')}",
        "", "What was asserted of the daemons' series:", *values,
        f"{sum(a.startswith('ok') for a in panel_lines)} of the {len(panel_lines)} queries of panels that need no energy meter gave data",
        "", "Every query of every panel of deploy/grafana, its number of series and its last sample:", *samples]) + "\n")


def main():
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        print("skipped: no prometheus")
        return 77
    run = Run(sys.argv[1], sys.argv[2])
    try:
        samples = run.run()
    finally:
        run.stop()
    if len(sys.argv) > 3:
        write_results(sys.argv[3], run, samples)
    print(f"{len(samples)} queries of panels, {len(run.faults)} faults")
    return 1 if run.faults else 0


if __name__ == "__main__":
    sys.exit(main())
