#!/usr/bin/env python3
"""What the daemons tell of their device while they work: memory, utilization, power, joules.

  device_metrics.py BIN_DIR TESTS_DIR [cpu|cuda]     (default: cuda)

A tiny job and a server under load on the device; /metrics of worker and server are read every half second meanwhile. On a GPU every
series must be there, memory and power must be what nvidia-smi says, and the counters of joules must be the integral of the power.
A CPU may have no meter of power: what it has is checked alike. BIN_DIR: the programs of a build (-DSHIFTADD_CUDA=ON for a GPU);
TESTS_DIR: make_golden_package's folder. A GPU's worker wants LibTorch with CUDA on LD_LIBRARY_PATH.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from served import http_address

NAMES = ["memory_used_bytes", "memory_bytes", "utilization_ratio", "power_watts"]
ENERGY = {"worker": "shiftadd_worker_energy_joules_total", "server": "shiftadd_server_energy_joules_total"}


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        return answer.read().decode()


def value(text, name, label):
    found = re.search(rf'^{name}{{[^}}]*device="{label}"[^}}]*}} (\S+)$', text, re.M)
    return float(found[1]) if found else None


def nvidia_smi(field):
    said = subprocess.run(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"], capture_output=True, text=True)
    return float(said.stdout.splitlines()[0])


class Run:
    def __init__(self, bin_dir, tests_dir, device):
        self.bin, self.tests, self.device = pathlib.Path(bin_dir), pathlib.Path(tests_dir), device
        self.label = "gpu" if device == "cuda" else "cpu"
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.env = dict(os.environ, SHIFTADD_DATA_DIR=str(self.work / "data"))
        self.samples = {"worker": [], "server": []}  # (time, {name: value})
        self.job = (0.0, 0.0)  # when it began and ended: a worker counts joules while tasks run
        self.faults, self.over = [], threading.Event()

    def expect(self, holds, what):
        print(("ok      " if holds else "FAILED  ") + what)
        if not holds:
            self.faults.append(what)

    def shiftadd(self, *arguments):
        done = subprocess.run([self.bin / "shiftadd", *arguments], env=self.env, capture_output=True, text=True, timeout=400)
        if done.returncode != 0:
            raise RuntimeError(f"shiftadd {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def watch(self, who, address):
        while not self.over.is_set():
            text = scrape(address)
            sample = {n: value(text, "shiftadd_device_" + n, self.label) for n in NAMES}
            sample["joules"] = value(text, ENERGY[who], self.label)
            if self.device == "cuda":
                sample["smi_memory"], sample["smi_watts"] = nvidia_smi("memory.used") * 2**20, nvidia_smi("power.draw")
            self.samples[who].append((time.time(), sample))
            self.over.wait(0.5)

    def load(self, server):
        while not self.over.is_set():
            body = json.dumps({"prompt": "Hello, hello, hello", "max_tokens": 64}).encode()
            urllib.request.urlopen(urllib.request.Request(f"http://{server}/v1/completions", body,
                                                          {"Content-Type": "application/json"}), timeout=60).read()

    def run(self):
        subprocess.run([self.tests / "make_golden_package", "model", self.work / "model"], check=True)
        self.shiftadd("up", "--workers", "1", "--device", self.device, "--coordinator-port", "0", "--packager-port", "0")
        job = ["submit", str(self.work / "model"), "--bits", "3", "--calibration-sequences", "128", "--calibration-length", "128",
               "--eval-sequences", "32", "--watch", "--name"]
        cluster = json.loads((self.work / "data/cluster.json").read_text())
        worker = next(d["http"] for d in cluster["daemons"] if d["name"].startswith("worker"))
        threads = [threading.Thread(target=self.watch, args=("worker", worker))]
        threads[0].start()
        try:
            began = time.time()
            self.shiftadd(*job, "tiny:one")
            self.job = (began, time.time())
            server = http_address(
                self.shiftadd("serve", "tiny:one", "--device", self.device, "--port", "0", "--grpc-port", "0", "--detach"))
            for target in ((self.watch, ("server", server)), (self.load, (server,))):
                threads.append(threading.Thread(target=target[0], args=target[1]))
                threads[-1].start()
            time.sleep(12)
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
        for who in ("worker", "server"):
            self.check(who)

    def check(self, who):
        samples = self.samples[who]
        last = samples[-1][1]
        must = self.device == "cuda"
        for name in [*NAMES, "joules"]:
            if must or name in NAMES[:3]:
                self.expect(last[name] is not None, f"{who}: {name} of the {self.label}: {last[name]}")
        used, memory = last["memory_used_bytes"], last["memory_bytes"]
        self.expect(used and memory and 0 < used < memory, f"{who}: uses {used} of {memory} bytes")
        busy = max(s["utilization_ratio"] or 0 for _, s in samples)
        self.expect(0 < busy <= 1, f"{who}: utilization was seen at {busy:.2f} of 1")
        if must:
            ratio = used / last["smi_memory"]
            self.expect(0.9 < ratio < 1.1, f"{who}: memory is {ratio:.3f} times what nvidia-smi says")
            ours, theirs = (sum(s[k] for _, s in samples) for k in ("power_watts", "smi_watts"))
            self.expect(0.7 < ours / theirs < 1.4, f"{who}: power is {ours / theirs:.2f} times nvidia-smi's, on average")
        if last["joules"] is not None and last["power_watts"]:
            begin, end = self.job if who == "worker" else (0.0, time.time())
            # The worker's counter appears with its first task, at 0.
            metered = [(t, dict(s, joules=s["joules"] or 0.0)) for t, s in samples
                       if begin <= t <= end and s["power_watts"] and (who == "worker" or s["joules"] is not None)]
            integral = sum((b[0] - a[0]) * (a[1]["power_watts"] + b[1]["power_watts"]) / 2 for a, b in zip(metered, metered[1:]))
            counted = metered[-1][1]["joules"] - metered[0][1]["joules"]
            self.expect(0.7 < counted / integral < 1.4, f"{who}: {counted:.1f} J counted, the integral of the power is {integral:.1f} J")
        elif not must:
            print(f"        {who}: this CPU has no meter of power")

    def stop(self):
        subprocess.run([self.bin / "shiftadd", "down"], env=self.env, capture_output=True, timeout=120)
        shutil.rmtree(self.work, ignore_errors=True)


def main():
    run = Run(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "cuda")
    try:
        run.run()
    finally:
        run.stop()
    print(f"{len(run.faults)} faults")
    return 1 if run.faults else 0


if __name__ == "__main__":
    sys.exit(main())
