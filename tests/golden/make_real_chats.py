#!/usr/bin/env python3
"""Writes real_chats.json: what the chat templates inside published GGUF files give, by transformers' own rendering.

  make_real_chats.py FOLDER      (pip install transformers jinja2)

FOLDER holds the files (~/.cache/shiftadd/models). Only what is rendered is kept, not the templates: they stay in the files,
where the test reads them.
"""
import json
import pathlib
import struct
import sys

from transformers.utils.chat_template_utils import render_jinja_template

FILES = ["Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"]
CHATS = [
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "  two\n\nlines  ")],
    [("user", "a"), ("assistant", "b"), ("user", "c")],
    [("system", ""), ("user", "é 日本 🙂 <|im_end|> {{ x }}"), ("assistant", "\"quoted\" 'too'")],
    [("user", "first"), ("system", "late"), ("user", "again")],
    [("assistant", "I begin")],
]
KINDS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def metadata(path):
    with open(path, "rb") as file:
        take = lambda form: struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
        text = lambda: file.read(take("Q")[0]).decode("utf-8", "replace")

        def value(kind):
            if kind == 8:
                return text()
            if kind == 9:
                of, count = take("IQ")
                return [value(of) for _ in range(count)]
            return take(KINDS[kind])[0]

        file.read(4)
        _, _, count = take("IQQ")
        return {name: value(take("I")[0]) for name in (text() for _ in range(count))}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    cases = []
    for name in FILES:
        found = metadata(pathlib.Path(sys.argv[1]) / name)
        tokens = found["tokenizer.ggml.tokens"]
        special = {word: tokens[found[f"tokenizer.ggml.{word}_id"]] for word in ("bos_token", "eos_token")}
        for chat in CHATS:
            messages = [{"role": role, "content": content} for role, content in chat]
            for opened in (False, True):
                rendered, _ = render_jinja_template(conversations=[messages], chat_template=found["tokenizer.chat_template"],
                                                    add_generation_prompt=opened, **special)
                cases.append({"file": name, "messages": messages, "add_generation_prompt": opened, "rendered": rendered[0]})
    out = pathlib.Path(__file__).with_name("real_chats.json")
    out.write_text(json.dumps({"cases": cases}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {len(cases)} cases")


if __name__ == "__main__":
    main()
