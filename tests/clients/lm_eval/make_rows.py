#!/usr/bin/env python3
"""Makes lm-eval tasks from any plain text, for machines that reach no hub: make_rows.py TEXT FOLDER [ROWS].

FOLDER gets next.yaml (multiple choice: which of four half sentences goes on from the first half; the other three are
the second halves of other rows, so chance is 0.25) and text.yaml (rolling log-likelihood of whole paragraphs), with
their rows. The same text and count give the same rows.
"""
import json
import pathlib
import sys

TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
"""
CHOICE = """doc_to_text: "{{q}}"
doc_to_choice: "{{c}}"
doc_to_target: "{{a}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""


def paragraphs(path):
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if len(line.split()) >= 60 and not line.lstrip().startswith("="):
            yield line.strip()


def write(folder, name, kind, tail, rows):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, kind=kind, rows=path.resolve()) + tail, encoding="utf-8")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    count = int(sys.argv[3]) if len(sys.argv) == 4 else 100
    found = [p for _, p in zip(range(count), paragraphs(sys.argv[1]))]
    if len(found) < 8:
        sys.exit(f"{sys.argv[1]}: {len(found)} paragraphs of 60 words or more, at least 8 are needed")
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    words = [p.split()[:50] for p in found]
    ends = [" " + " ".join(w[30:]) for w in words]
    rows = []
    for i, w in enumerate(words):
        choices = [ends[(i + k * (len(ends) // 4)) % len(ends)] for k in range(4)]
        answer = i % 4  # the true end moves through the places
        choices[0], choices[answer] = choices[answer], choices[0]
        rows.append({"q": " ".join(w[:30]), "c": choices, "a": answer})
    write(folder, "next", "multiple_choice", CHOICE, rows)
    write(folder, "text", "loglikelihood_rolling", ROLLING, [{"text": p} for p in found[: max(8, count // 5)]])


if __name__ == "__main__":
    main()
