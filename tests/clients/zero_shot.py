#!/usr/bin/env python3
"""Multiple choice over our server without lm-eval: what lm-eval calls acc, on rows {"q", "c", "a"} of make_rows.py.

  zero_shot.py BASE_URL ROWS.jsonl OUT_FOLDER

For machines that cannot have lm-eval. Of each row the choice whose tokens, after the question's, have the largest sum of
log-probabilities; a token belongs to the choice if it stands behind as many tokens as the question alone has, as in lm-eval.
Writes OUT_FOLDER/results_zero_shot.json in lm-eval's form. Standard library only.
"""
import concurrent.futures
import json
import math
import pathlib
import sys
import urllib.request

AT_ONCE = 4


class Server:
    def __init__(self, base):
        self.base = base.rstrip("/")
        with urllib.request.urlopen(self.base + "/v1/models") as answer:
            self.model = json.load(answer)["data"][0]["id"]

    def post(self, path, **body):
        request = urllib.request.Request(self.base + path, json.dumps({"model": self.model, **body}).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text):
        return self.post("/tokenize", prompt=text)["tokens"]

    def log_likelihood(self, context, continuation):
        stripped = context.rstrip()  # its spaces belong to what goes on
        whole, before = self.tokens(context + continuation), len(self.tokens(stripped))
        answer = self.post("/v1/completions", prompt=whole, max_tokens=0, echo=True, logprobs=1, temperature=0)
        return sum(answer["choices"][0]["logprobs"]["token_logprobs"][before:])


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    server, path, out = Server(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(rows) < 2:
        sys.exit(f"{path}: {len(rows)} rows, at least 2 are needed")
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        scores = list(pool.map(lambda row: [server.log_likelihood(row["q"], choice) for choice in row["c"]], rows))
    right = [max(range(len(s)), key=s.__getitem__) == row["a"] for s, row in zip(scores, rows)]
    accuracy = sum(right) / len(right)
    error = math.sqrt(accuracy * (1 - accuracy) / (len(right) - 1))
    out.mkdir(parents=True, exist_ok=True)
    (out / "results_zero_shot.json").write_text(json.dumps({
        "model": server.model, "results": {path.stem: {"acc,none": accuracy, "acc_stderr,none": error}},
        "log_likelihoods": scores}), encoding="utf-8")
    print(f"{path.stem}: acc {accuracy:.4f} +- {error:.4f}, {len(rows)} rows")


if __name__ == "__main__":
    main()
