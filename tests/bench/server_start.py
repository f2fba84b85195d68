#!/usr/bin/env python3
"""Time from the start of shiftadd-server to the first token of a chat, some times in a row, each with its
processor time and the load average:
server_start.py SERVER_BINARY REFERENCE PACKAGE_DIR [TIMES]."""
import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


def first_token(port, model):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"model": model, "messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 1, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"status {answer.status}: {answer.read()}")
    while line := answer.readline():
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
            return time.monotonic()
    sys.exit("no token came")


def once(binary, reference, layout):
    with tempfile.TemporaryDirectory() as folder:
        ports = pathlib.Path(folder) / "ports"
        start = time.monotonic()
        server = subprocess.Popen(
            [binary, "--package", reference, "--package-dir", layout, "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0",
             "--port-file", ports], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not ports.exists():
            if server.poll() is not None:
                sys.exit(f"the server ended with {server.returncode}")
            time.sleep(0.005)
        ready = time.monotonic()
        token = first_token(int(ports.read_text().split()[1]), reference)
        fields = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        busy = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        server.terminate()
        server.wait()
        return ready - start, token - start, busy


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    for _ in range(int(sys.argv[4]) if len(sys.argv) == 5 else 5):
        ready, token, busy = once(*sys.argv[1:4])
        print(f"serves after {ready:.2f} s, first token after {token:.2f} s, processor time {busy:.2f} s (load average {os.getloadavg()[0]:.1f})", flush=True)


if __name__ == "__main__":
    main()
