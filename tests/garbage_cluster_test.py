#!/usr/bin/env python3
"""The collector runs without a pause while jobs run, packages are published, tags move and a server holds a version.

  garbage_cluster_test.py BIN_DIR TESTS_DIR SOURCE_DIR

Real daemons, blobs collectable 5 seconds after they were stored. Nothing fails, every package that has a name at the end
is whole, what the server holds stays though no tag names it any more, and goes once the server has gone.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from served import http_address


class Test:
    def __init__(self, bin_dir, tests_dir, source):
        self.bin, self.tests, self.source = pathlib.Path(bin_dir), pathlib.Path(tests_dir), pathlib.Path(source)
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.env = dict(os.environ, SHIFTADD_DATA_DIR=str(self.work / "data"), SHIFTADD_PACKAGER_GC_GRACE_SECONDS="5")
        self.over = threading.Event()
        self.faults, self.counts = [], {}
        self.lock = threading.Lock()

    def shiftadd(self, *arguments, expect=(0,)):
        done = subprocess.run([self.bin / "shiftadd", *arguments], env=self.env, capture_output=True, text=True, timeout=240)
        if done.returncode not in expect:
            raise AssertionError(f"shiftadd {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def count(self, what, number=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + number

    def loop(self, step):
        def body():
            round_number = 0
            while not self.over.is_set() and not self.faults:
                try:
                    step(round_number)
                except Exception as fault:  # whatever it is, the test ends with it
                    self.faults.append(f"{step.__name__}: {fault}")
                round_number += 1
        return threading.Thread(target=body)

    def collect(self, _):
        freed = json.loads(self.shiftadd("gc", "--json").stdout)
        self.count("collections")
        self.count("blobs freed", int(freed.get("blobs", 0)))

    def publish(self, number):
        """A package comes, is there whole, and goes again: now and then for long enough to be collected."""
        name = f"passing:v{number % 3}"
        self.shiftadd("pull", str(self.work / "layout"), "golden:v1")
        self.shiftadd("tag", "golden:v1", name)
        self.shiftadd("rm", "golden:v1")
        self.shiftadd("push", name, str(self.work / f"copy-{number % 2}"))
        self.shiftadd("rm", name)
        self.count("packages published")
        if number % 3 == 2:
            self.over.wait(7)

    def move(self, number):
        """A tag goes to and fro between the two jobs' packages."""
        self.shiftadd("tag", f"tiny@{self.digests[number % 2]}", "tiny:moving")
        self.count("tags moved")

    def digest(self, reference):
        return json.loads(self.shiftadd("inspect", reference, "--json").stdout)["digest"]

    def job(self, name, seed):
        recipe = self.work / f"recipe-{seed}.json"
        recipe.write_text(json.dumps({"method": "shiftadd", "seed": seed}))
        self.shiftadd("submit", str(self.work / "model"), "--bits", "3", "--calibration-sequences", "64", "--calibration-length",
                      "128", "--eval-sequences", "32", "--watch", "--name", name, "--recipe", str(recipe))

    def ask(self, server):
        body = json.dumps({"prompt": "Hello", "max_tokens": 2}).encode()
        request = urllib.request.Request(f"http://{server}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200

    def run(self):
        subprocess.run([self.tests / "make_golden_package", "model", self.work / "model"], check=True)
        shutil.copytree(self.source / "tests/golden/tiny_package", self.work / "layout")
        self.shiftadd("up", "--workers", "2", "--coordinator-port", "0", "--packager-port", "0")
        self.job("tiny:one", 1)
        self.job("tiny:two", 2)
        self.job("held:one", 3)
        self.digests = [self.digest("tiny:one"), self.digest("tiny:two")]
        held = "held@" + self.digest("held:one")
        server = http_address(self.shiftadd("serve", "held:one", "--port", "0", "--grpc-port", "0", "--detach").stdout)
        self.shiftadd("rm", "held:one")  # nothing but the server holds it now
        threads = [self.loop(step) for step in (self.collect, self.publish, self.move)]
        for thread in threads:
            thread.start()
        try:
            for seed in (4, 5):
                self.job(f"new:v{seed}", seed)
                self.ask(server)
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
        assert not self.faults, self.faults
        time.sleep(6)
        self.collect(0)
        self.check(held)

    def check(self, held):
        names = [f"{p['name']}:{p['tag']}" for p in json.loads(self.shiftadd("packages", "--json").stdout)["packages"]]
        assert {"tiny:one", "tiny:two", "tiny:moving", "new:v4", "new:v5"} <= set(names), names
        for name in names:  # every blob is read and its digest compared
            self.shiftadd("push", name, str(self.work / "whole"))
        details = json.loads(self.shiftadd("inspect", held, "--json").stdout)
        print(f"{len(names)} packages are whole, and the server's {details['digest']}; {self.counts}")
        for what in ("collections", "packages published", "tags moved", "blobs freed"):
            assert self.counts.get(what, 0) > 0, f"no {what}"
        pid = self.server_pid()
        os.kill(pid, 15)
        for _ in range(200):  # its pin goes with its stream
            self.shiftadd("gc")
            if self.shiftadd("inspect", held, expect=(0, 1)).returncode == 1:
                print("once the server has gone, so has its version")
                return
            time.sleep(0.1)
        raise AssertionError(f"{held} is there after its server has gone")

    def server_pid(self):
        for entry in pathlib.Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"shiftadd-server") and any(str(self.work).encode() in w for w in words):
                return int(entry.name)
        raise AssertionError("no server runs")

    def stop(self):
        subprocess.run([self.bin / "shiftadd", "down"], env=self.env, capture_output=True, timeout=120)
        shutil.rmtree(self.work, ignore_errors=True)


def main():
    test = Test(*sys.argv[1:4])
    try:
        test.run()
    finally:
        test.stop()
    print("ok")


if __name__ == "__main__":
    main()
