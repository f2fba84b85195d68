#!/usr/bin/env python3
"""What shiftadd-server answers to bad input: starts one on a package and prints, for every row, what was sent, the
status and the message, and whether that is what is wanted. Ends with 1 if a row is not.

bad_input.py SERVER_BINARY REFERENCE PACKAGE_DIR"""
import datetime
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "hi"}]
failed = []


class Answer:
    """Of one connection: what came until `seconds` passed or the server closed."""

    def __init__(self, port, data, seconds=120.0, read=True):
        self.start = time.monotonic()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(seconds)
        self.text = b""
        self.status, self.headers, self.body = 0, {}, ""
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # refused before all was sent: the answer is there
        if read:
            self.receive()

    def receive(self):
        try:
            while not self.whole():
                more = self.socket.recv(1 << 16)
                if not more:
                    break
                self.text += more
        except OSError:
            pass
        self.seconds = time.monotonic() - self.start
        self.socket.close()

    def whole(self):
        head, found, body = self.text.partition(b"\r\n\r\n")
        if not found:
            return False
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        self.body = body.decode("utf-8", "replace")
        if self.headers.get("transfer-encoding") == "chunked":
            return body.endswith(b"0\r\n\r\n")
        return len(body) >= int(self.headers.get("content-length", 0))


def request(path, body, method="POST", headers="Content-Type: application/json\r\n", length=None):
    body = body if isinstance(body, bytes) else body.encode()
    length = len(body) if length is None else length
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n".encode() + body


def with_field(field, value):
    return f'{{"prompt": "hello", "max_tokens": 3, "{field}": {value}}}'


def chat(messages, **more):
    return json.dumps({"max_tokens": 3, "messages": messages, **more})


def rows():
    """(what, request, wanted status, what the answer must say)"""
    words = " ".join(f"w{i}" for i in range(6000))
    yield "not JSON", request(CHAT, "hello"), 400, "not valid JSON"
    yield "an empty body", request(CHAT, ""), 400, "empty"
    yield "half a document", request(CHAT, '{"messages": ['), 400, "not valid JSON"
    yield "invalid UTF-8", request(CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'), 400, "UTF-8"
    yield "100,000 nested brackets", request(CHAT, "[" * 100000), 400, "nests deeper"
    yield "a JSON array as body", request(CHAT, "[1]"), 400, "object"
    yield "no messages", request(CHAT, "{}"), 400, "messages"
    yield "messages a string", request(CHAT, chat("hello")), 400, "messages"
    yield "content a number", request(CHAT, chat([{"role": "user", "content": 5}])), 400, "messages[0].content"
    yield "max_tokens a string", request(TEXT, with_field("max_tokens", '"3"')), 400, "max_tokens"
    yield "temperature a string", request(TEXT, with_field("temperature", '"1"')), 400, "temperature"
    yield "messages: []", request(CHAT, chat([])), 400, "empty"
    yield "unknown role", request(CHAT, chat([{"role": "wizard", "content": "x"}])), 400, "wizard"
    yield "unknown field", request(TEXT, with_field("no_such_field", '{"a": [1, null]}')), 200, "choices"
    yield "unknown model name", request(TEXT, with_field("model", '"gpt-4"')), 404, "model_not_found"
    yield "max_tokens -5", request(TEXT, with_field("max_tokens", "-5")), 400, "-5"
    yield "max_tokens -1", request(TEXT, with_field("max_tokens", "-1")), 400, "-1"
    yield "max_tokens 10^12", request(TEXT, with_field("max_tokens", "1000000000000")), 400, "1000000000000"
    yield "max_tokens 0", request(TEXT, with_field("max_tokens", "0")), 200, '"completion_tokens":0'
    yield ("max_tokens 0 with echo and logprobs", request(TEXT, '{"prompt": "hello", "max_tokens": 0, "echo": true, "logprobs": 1}'),
           200, '"token_logprobs":[null')
    yield "temperature -1", request(TEXT, with_field("temperature", "-1")), 400, "temperature"
    yield "temperature NaN", request(TEXT, with_field("temperature", "NaN")), 400, "not valid JSON"
    yield "top_p 7", request(TEXT, with_field("top_p", "7")), 400, "top_p"
    yield "top_p -0.1", request(TEXT, with_field("top_p", "-0.1")), 400, "top_p"
    yield "logprobs -1", request(TEXT, with_field("logprobs", "-1")), 400, "logprobs"
    yield "n 0", request(TEXT, with_field("n", "0")), 400, "n: "
    yield "n 1000", request(TEXT, with_field("n", "1000")), 400, "n: "
    yield "token id out of range", request(TEXT, '{"prompt": [99999999]}'), 400, "token id"
    yield "token id negative", request(TEXT, '{"prompt": [-1]}'), 400, "-1"
    yield "no prompt", request(TEXT, "{}"), 400, "prompt"
    too_long = "exceed_context_size_error"
    yield "prompt longer than the context, plain", request(TEXT, json.dumps({"prompt": words * 2})), 400, too_long
    yield "prompt longer than the context, chat", request(CHAT, chat([{"role": "user", "content": words * 2}])), 400, "n_prompt_tokens"
    yield ("prompt longer than the context, stream", request(CHAT, chat([{"role": "user", "content": words * 2}], stream=True)), 400,
           "n_ctx")
    yield "GET on a POST path", request(CHAT, "", "GET", ""), 405, "POST"
    yield "DELETE on a POST path", request(TEXT, "", "DELETE", ""), 405, "POST"
    yield "text/plain", request(TEXT, with_field("n", "1"), headers="Content-Type: text/plain\r\n"), 415, "application/json"
    yield "a stop of 100 strings", request(TEXT, with_field("stop", json.dumps([f"s{i}" for i in range(100)]))), 400, "stop"
    yield "tools", request(CHAT, chat(USER, tools=[{"type": "function", "function": {"name": "f"}}])), 400, "not supported"
    yield "JSON mode", request(CHAT, chat(USER, response_format={"type": "json_object"})), 400, "response_format"
    yield "unknown path", request("/v1/images", "{}"), 404, "no such path"


def message(answer):
    try:
        error = json.loads(answer.body)["error"]
        return f"{error['type']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return answer.body


def show(what, wanted, got, said, good):
    said = " ".join(said.split())
    said = said if len(said) <= 200 else said[:200] + "…"
    print(f"{'ok   ' if good else 'FAIL '} {what}: {got}{'' if good else f' (wanted {wanted})'} {said}", flush=True)
    if not good:
        failed.append(what)


def table(port):
    for what, data, status, says in rows():
        answer = Answer(port, data)
        good = answer.status == status and says in answer.body and answer.headers.get("x-request-id", "") != ""
        if status == 405:
            good = good and "POST" in answer.headers.get("allow", "")
        show(what, status, answer.status, message(answer), good)


def sizes(port, pid):
    """Bodies that are refused by their length: at once, and without their memory."""
    def peak():
        return int(next(l for l in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])
    for megabytes in (20, 50):
        before = peak()
        answer = Answer(port, request(TEXT, b'{"prompt": "' + b"x" * (megabytes << 20) + b'"}'))
        grown = peak() - before
        show(f"a prompt of {megabytes} MB", 413, answer.status,
             f"{message(answer)} (after {answer.seconds:.2f} s; peak memory {grown / 1024:+.1f} MB)", answer.status == 413 and grown < 10240)


def connections(port):
    answer = Answer(port, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    show("headers that never end", 408, answer.status, f"{message(answer)} (after {answer.seconds:.0f} s)", answer.status == 408)
    for _ in range(50):
        Answer(port, request(TEXT, with_field("n", "1"), length=100000), read=False).socket.close()
    answer = Answer(port, request(TEXT, with_field("n", "1")))
    show("50 connections closed in the middle of a body, then a request", 200, answer.status, "", answer.status == 200)
    idle = []
    for _ in range(256):  # the limit; each is served, so that the server has taken it
        idle.append(socket.create_connection(("127.0.0.1", port)))
        idle[-1].sendall(request("/health", "", "GET", ""))
        idle[-1].recv(1000)
    answer = Answer(port, request(TEXT, with_field("n", "1")))
    show("a connection beside 256 others", 503, answer.status, message(answer), answer.status == 503)
    for one in idle:
        one.close()
    for _ in range(100):
        answer = Answer(port, request(TEXT, with_field("n", "1")), seconds=10)
        if answer.status == 200:
            break
        time.sleep(0.1)
    show("a request after they have gone", 200, answer.status, "", answer.status == 200)


def metric(port, name):
    text = Answer(port, request("/metrics", "", "GET", "")).body
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name) and not line.startswith("#"))


def leaving(port):
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 8000, "ignore_eos": True, "stream": True})
    stream = Answer(port, request(TEXT, body), read=False)
    stream.socket.recv(1000)
    running = metric(port, "shiftadd_running_sequences")
    stream.socket.close()
    start = time.monotonic()
    while metric(port, "shiftadd_running_sequences") > 0 and time.monotonic() - start < 60:
        time.sleep(0.01)
    left = time.monotonic() - start
    show("client leaves mid-stream", "freed", f"sequences running {running:.0f}", f"none {left:.2f} s after it left", running == 1 and left < 60)


def crowd(port, count=200):
    statuses, retry = [], []
    lock = threading.Lock()

    def one():
        answer = Answer(port, request(TEXT, '{"prompt": "Once", "max_tokens": 16}'), seconds=600)
        with lock:
            statuses.append(answer.status)
            if answer.status == 429:
                retry.append(answer.headers.get("retry-after"))
    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    show(f"{count} parallel", "200s and 429s with Retry-After", counts, f"Retry-After: {', '.join(sorted(set(map(str, retry))))}",
         set(counts) <= {200, 429} and None not in retry and counts.get(200, 0) > 0)


def drain(port, server):
    """The stream that runs ends whole, a new request is refused, and the exit status is 0."""
    def ask(*what):
        try:
            return Answer(port, request(*what)).status or "refused"
        except OSError:
            return "refused"
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True})
    stream = Answer(port, request(TEXT, body), read=False)
    first = stream.socket.recv(1000)
    start = time.monotonic()
    server.send_signal(signal.SIGTERM)
    ready = late = 200
    while ready == 200 and server.poll() is None:
        ready, late = ask("/ready", "", "GET", ""), ask(TEXT, with_field("n", "1"))
    stream.text = first
    stream.receive()
    code = server.wait()
    whole = "[DONE]" in stream.text.decode("utf-8", "replace")
    show("SIGTERM while a stream runs", "drains", f"exit {code} after {time.monotonic() - start:.2f} s",
         f"the stream {'ended whole' if whole else 'was cut'}; meanwhile /ready {ready}, a new request {late}",
         code == 0 and whole and ready in (503, "refused") and late in (503, "refused"))


def cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown CPU")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    binary, reference, layout = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        ports = pathlib.Path(folder) / "ports"
        server = subprocess.Popen([binary, "--package", reference, "--package-dir", layout, "--http", "127.0.0.1:0", "--listen",
                                   "127.0.0.1:0", "--port-file", ports, "--drain-seconds", "120"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"$ tests/clients/bad_input.py shiftadd-server {reference} PACKAGE_DIR\n{datetime.datetime.now():%Y-%m-%d %H:%M}, {cpu()}, "
              f"{len(os.sched_getaffinity(0))} usable cores, load average {os.getloadavg()[0]:.1f}")
        try:
            while not ports.exists():
                if server.poll() is not None:
                    sys.exit(f"the server ended with {server.returncode}")
                time.sleep(0.01)
            port = int(ports.read_text().split()[1])
            table(port)
            sizes(port, server.pid)
            leaving(port)
            crowd(port)
            connections(port)
            drain(port, server)
        finally:
            server.kill()
            server.wait()
    print(f"{len(failed)} rows are not as wanted{': ' + ', '.join(failed) if failed else ''}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
