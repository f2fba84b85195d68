#!/usr/bin/env python3
"""One package by shiftadd-server and its GGUF export by llama-server: token ids, log-probabilities, greedy text.

  llama_cpp.py BASE_URL MODEL LLAMA_SERVER GGUF TEXT_FILE...

BASE_URL, MODEL: a shiftadd-server (--precision a16 --cache-precision f32) and the package's name there. Every text is a prompt.
llama.cpp is asked for the distribution behind each prefix of a prompt, one token after the other on its cache, and behind the whole
prompt at once. It is not asked for the probabilities of tokens it wrote: llama-server leaves out those that end within a
character, and all entries behind them move up.
"""
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

GREEDY = 32  # tokens


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


class LlamaServer:
    """llama-server on one GGUF file; keys and values in fp32, as the file's arithmetic is what is compared, and those of sliding windows
    kept whole: else it takes what an earlier prompt left in the cache for its own (the same prefix uncached gives other numbers)."""

    def __init__(self, program, gguf, vocab):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.base, self.vocab = f"http://127.0.0.1:{port}", vocab
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [program, "-m", gguf, "--host", "127.0.0.1", "--port", str(port), "-c", "1024", "-t", "1", "-np", "1", "-ngl", "0",
             "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--swa-full", "--no-warmup"], stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(1200):
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.base + "/health", timeout=5):
                    self.plain = self.tokens("a")[-1]
                    return
            except OSError:
                time.sleep(0.05)
        self.log.seek(0)
        said = self.log.read().decode(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"llama-server does not load {gguf}:\n{said}")

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def tokens(self, text):
        return post(self.base + "/tokenize", {"content": text, "add_special": False})["tokens"]

    def logprob(self, prefix, token, cached):
        """Of `token` behind `prefix`. What it writes itself does not matter: a letter, for a token that ends within a character has
        no entry in the answer."""
        body = {"prompt": prefix, "n_predict": 1, "temperature": 0, "cache_prompt": cached, "n_probs": 1,
                "logit_bias": [[token, 1000]]}
        for bias, count in ((token, 1), (self.plain, self.vocab)):
            body.update(logit_bias=[[bias, 1000]], n_probs=count)
            for entry in post(self.base + "/completion", body).get("completion_probabilities", [])[:1]:
                for one in [entry, *entry["top_logprobs"]]:
                    if one["id"] == token:
                        return one["logprob"]
        raise RuntimeError(f"llama-server does not tell the probability of token {token}")

    def greedy(self, prompt):
        answer = post(self.base + "/completion", {"prompt": prompt, "n_predict": GREEDY, "temperature": 0, "return_tokens": True,
                                                  "repeat_penalty": 1.0})
        return answer["content"], answer["tokens"]


class Ours:
    def __init__(self, base, model):
        self.base, self.model = base, model

    def tokens(self, text):
        return post(self.base + "/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": False})["tokens"]

    def logprobs(self, ids, top=0):
        """Of each token but the first, and the likeliest one's."""
        answer = post(self.base + "/v1/completions", {"model": self.model, "prompt": ids, "max_tokens": 0, "echo": True,
                                                      "logprobs": top})["choices"][0]["logprobs"]
        return answer["token_logprobs"][1:], [max(t.values()) for t in answer["top_logprobs"][1:]]

    def greedy(self, prompt):
        return post(self.base + "/v1/completions", {"model": self.model, "prompt": prompt, "max_tokens": GREEDY,
                                                    "temperature": 0})["choices"][0]["text"]


def compare(ours, theirs, ids):
    """Largest differences of log-probabilities over a prompt (by the cache, at once); greedy text equal, or how near to a tie ours
    was where it parted."""
    mine, _ = ours.logprobs(ids)
    stepwise = max(abs(m - theirs.logprob(ids[:i + 1], ids[i + 1], cached=True)) for i, m in enumerate(mine))
    whole = abs(mine[-1] - theirs.logprob(ids[:-1], ids[-1], cached=False))
    text, written = theirs.greedy(ids)
    result = {"tokens": len(ids), "stepwise": stepwise, "whole": whole, "equal": text == ours.greedy(ids), "gap": 0.0}
    if not result["equal"]:
        chosen, best = ours.logprobs(ids + written, top=1)
        result["gap"] = max(b - c for b, c in list(zip(best, chosen))[len(ids) - 1:])
    return result


def line(name, result):
    greedy = "greedy text equal" if result["equal"] else f"greedy text parts where our two likeliest are {result['gap']:.2g} apart"
    return (f"{name}: {result['tokens']} tokens, log-probabilities within {result['stepwise']:.2g} token by token, "
            f"{result['whole']:.2g} at once, {greedy}")


def main():
    base, model, program, gguf = sys.argv[1:5]
    ours = Ours(base, model)
    theirs = LlamaServer(program, gguf, 1 << 30)
    worst = 0
    try:
        for path in sys.argv[5:]:
            text = pathlib.Path(path).read_text(encoding="utf-8")
            ids = ours.tokens(text)
            if theirs.tokens(text) != ids:
                sys.exit(f"{path}: token ids differ: {ids[:20]}… and {theirs.tokens(text)[:20]}…")
            result = compare(ours, theirs, ids)
            worst = max(worst, result["stepwise"], result["whole"])
            print(line(pathlib.Path(path).name, result), flush=True)
    finally:
        theirs.stop()
    print(f"largest difference {worst:.2g}")


if __name__ == "__main__":
    main()
