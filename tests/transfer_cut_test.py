#!/usr/bin/env python3
"""Pushes and pulls that are cut in the middle go on where they ended.

  transfer_cut_test.py BIN_DIR SOURCE_DIR

And of those that are not cut: a push writes the tag last, a pull asks for nothing twice.

A real docker-registry behind a proxy that breaks every connection once a certain number of bytes has passed, and a
client that is killed with -9 half way. Exits 77 (skipped) where docker-registry is absent.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request


class Proxy:
    """Passes bytes to `port` until `limit` of them have gone either way, then breaks all connections and takes no more.
    `pause`: seconds before each piece, so that a client can be met half way."""

    def __init__(self, port, limit=None, pause=0.0):
        self.target, self.limit, self.pause = port, limit, pause
        self.passed, self.lock, self.pairs = 0, threading.Lock(), []
        self.requests = []  # (method, path) in order
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def broken(self):
        return self.limit is not None and self.passed >= self.limit

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.broken():
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            self.pairs.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source, sink):
        try:
            while piece := source.recv(2048):
                time.sleep(self.pause)
                with self.lock:
                    self.passed += len(piece)
                    # A client sends nothing before its last request is answered: one begins a piece.
                    if begun := re.match(rb"([A-Z]+) (\S+) HTTP/", piece):
                        self.requests.append((begun[1].decode(), begun[2].decode()))
                    over = self.broken()
                if over:
                    self.break_all()
                    return
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def paths(self, method):
        with self.lock:
            return [path for used, path in self.requests if used == method]

    def break_all(self):
        for pair in self.pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class Test:
    def __init__(self, bin_dir, source):
        self.bin, self.source = pathlib.Path(bin_dir), pathlib.Path(source)
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.processes = []

    def start(self, name, command):
        log = open(self.work / f"{name}.log", "wb")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        return self.processes[-1]

    def packager(self, name):
        ports = self.work / f"{name}.ports"
        process = self.start(name, [self.bin / "shiftadd-packager", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir",
                                    self.work / name, "--port-file", ports])
        for _ in range(400):
            if ports.exists():
                return f"127.0.0.1:{ports.read_text().split()[0]}"
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError((self.work / f"{name}.log").read_text())

    def registry(self):
        for _ in range(5):
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            config = {"version": "0.1", "log": {"level": "error"}, "http": {"addr": f"127.0.0.1:{port}"},
                      "storage": {"filesystem": {"rootdirectory": str(self.work / "registry")}}}
            (self.work / "registry.yml").write_text(json.dumps(config))
            process = self.start("registry", ["docker-registry", "serve", self.work / "registry.yml"])
            for _ in range(200):
                if process.poll() is not None:
                    break
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5)
                    return port
                except OSError:
                    time.sleep(0.05)
        raise AssertionError((self.work / "registry.log").read_text())

    def shiftadd(self, *arguments):
        return subprocess.run([self.bin / "shiftadd", *arguments], capture_output=True, text=True, timeout=120)

    def cut(self, *arguments):
        """The command fails and says that it can be repeated."""
        done = self.shiftadd(*arguments)
        said = done.stdout + done.stderr
        assert done.returncode in (1, 3), f"{arguments}: exit code {done.returncode}: {said}"
        assert "the same command goes on from there" in said, said

    def whole(self, *arguments):
        """The command ends well; how many blobs it found, of how many."""
        done = self.shiftadd(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"of (\d+) blobs, .*, (\d+) were there", done.stdout)
        print("  " + done.stdout.strip().replace("\n", "\n  "))
        return int(found[2]), int(found[1])

    def killed(self, proxy, bytes_before, *arguments):
        """kill -9 once so many bytes have passed the proxy."""
        process = subprocess.Popen([self.bin / "shiftadd", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while proxy.passed < bytes_before and process.poll() is None:
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
        proxy.break_all()

    def digest(self, packager):
        packages = json.loads(self.shiftadd("packages", "--json", "--packager", packager).stdout)["packages"]
        return [p["digest"] for p in packages]

    def run(self):
        shutil.copytree(self.source / "tests/golden/tiny_package", self.work / "layout")
        one, two, three, four = (self.packager(name) for name in ("one", "two", "three", "four"))
        port = self.registry()
        assert self.shiftadd("pull", str(self.work / "layout"), "golden:v1", "--packager", one).returncode == 0
        expected = self.digest(one)
        size = sum(f.stat().st_size for f in (self.work / "layout/blobs/sha256").iterdir())
        direct = f"http://127.0.0.1:{port}/team"

        def remote(proxy, name):
            return f"http://127.0.0.1:{proxy.port}/team/{name}:v1"

        print("a push that is cut")
        self.cut("push", "golden:v1", remote(Proxy(port, size // 2), "cut"), "--packager", one)
        there, blobs = self.whole("push", "golden:v1", f"{direct}/cut:v1", "--packager", one)
        assert 0 < there < blobs, f"{there} of {blobs}"
        print("a pull that is cut")
        self.cut("pull", remote(Proxy(port, size // 2), "cut"), "golden:v1", "--packager", two)
        assert self.digest(two) == [], "half a package is published"
        there, blobs = self.whole("pull", f"{direct}/cut:v1", "golden:v1", "--packager", two)
        assert 0 < there < blobs, f"{there} of {blobs}"
        assert self.digest(two) == expected
        print("a push whose client is killed")
        slow = Proxy(port, pause=0.005)
        self.killed(slow, size // 2, "push", "golden:v1", remote(slow, "killed"), "--packager", one)
        there, blobs = self.whole("push", "golden:v1", f"{direct}/killed:v1", "--packager", one)
        assert 0 < there < blobs, f"{there} of {blobs}"
        print("a pull whose client is killed")
        slow = Proxy(port, pause=0.005)
        self.killed(slow, size // 2, "pull", remote(slow, "killed"), "golden:v1", "--packager", three)
        assert self.digest(three) == [], "half a package is published"
        there, blobs = self.whole("pull", f"{direct}/killed:v1", "golden:v1", "--packager", three)
        assert 0 < there < blobs, f"{there} of {blobs}"
        assert self.digest(three) == expected
        print("a push and a pull that are watched")
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self.work / "key.pem"], check=True)
        assert self.shiftadd("sign", "golden:v1", "--key", str(self.work / "key.pem"), "--packager", one).returncode == 0
        watched = Proxy(port)
        self.whole("push", "golden:v1", remote(watched, "signed"), "--packager", one)
        # Who follows the tag finds the signature: the tag is the last to be written, what refers to the package before it.
        hexadecimal = expected[0].removeprefix("sha256:")
        assert watched.paths("PUT")[-2:] == [f"/v2/team/signed/manifests/{tag}" for tag in (f"sha256-{hexadecimal}", "v1")], watched.requests
        watched = Proxy(port)
        self.whole("pull", remote(watched, "signed"), "golden:v1", "--packager", four)
        asked = watched.paths("GET")
        # Its manifest, the index of what refers to it, the signature with its manifest, and the blobs.
        assert len(asked) == 4 + blobs, asked
        assert len(set(asked)) == len(asked), sorted(asked)

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.work, ignore_errors=True)


def main():
    if not shutil.which("docker-registry"):
        print("skipped: no docker-registry")
        return 77
    os.environ.pop("http_proxy", None)
    test = Test(sys.argv[1], sys.argv[2])
    try:
        test.run()
    finally:
        test.stop()
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
