#!/usr/bin/env python3
"""llama.cpp reads the GGUF exports of every family as the server serves the packages.

  llama_cpp_test.py BIN_DIR SOURCE_DIR MAKE_FAMILY_PACKAGES [RESULT_FILE]

Token ids of texts are equal; so is every token's log-probability (token by token on llama.cpp's cache, and a whole prompt at once), and
greedy text; what GGUF cannot say is refused by name. llama.cpp is given the exports widened to fp32 by its own llama-quantize: beside fp16
weights it rounds a layer's inputs to fp16 on some processors (AVX2) and not on others. llama-server and llama-quantize: in the folder
SHIFTADD_LLAMA_CPP, or where tests/bench/build_llama_cpp.sh builds them. Exits 77 (skipped) without.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

BIN, SOURCE, MAKE = map(pathlib.Path, sys.argv[1:4])
sys.path.insert(0, str(SOURCE / "tests/clients"))
import llama_cpp  # noqa: E402

LLAMA = pathlib.Path(os.environ.get("SHIFTADD_LLAMA_CPP", pathlib.Path.home() / ".cache/shiftadd/llama_cpp/build/bin"))
VOCAB = 320
REFUSED = {"mistral": "local_blocks", "qwen2-windows": "local_blocks", "gemma2": "attention_scale", "gemma3": "attention_scale",
           "opt": "family opt", "opt-post-norm": "family opt"}
TEXTS = ["Hello, families: the quick brown fox jumps.", "日本語のテキスト、中文 and 😀 12345", "def f(x):\n    return x ** 2\t# no\r\n"]
# Of log-probabilities, in nats. The families' weights are fp16 numbers, and fp32 holds them: nothing is rounded between the two programs,
# but that llama.cpp's GELU is a table of fp16 (ggml_table_gelu_f16). The golden package is quantized: its export rounds weights, and the
# server its activations, to 16 bits.
BOUND, GELU_BOUND, QUANTIZED_BOUND = 1e-4, 5e-3, 2e-2


def wait_for(path, process, log):
    for _ in range(600):
        if path.exists() and path.read_text().count("\n") >= 2:
            return path.read_text().split()
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(log.read_text())


class Test:
    def __init__(self):
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.server, self.faults, self.lines = None, [], []

    def expect(self, holds, what):
        if not holds:
            self.faults.append(what)
            print("FAILED: " + what)

    def export(self, name):
        """The file, its matrices in fp32, or what the refusal says."""
        layout = self.work / ("golden-layout" if name == "golden" else "layout")
        done = subprocess.run([BIN / "shiftadd-export", f"{name}:v1", self.work / name, "--format", "gguf", "--package-dir", layout],
                              capture_output=True, text=True)
        if done.returncode != 0:
            return None, done.stderr.strip()
        wide = self.work / name / "model-f32.gguf"
        subprocess.run([LLAMA / "llama-quantize", "--allow-requantize", self.work / name / "model-f16.gguf", wide, "F32"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return wide, ""

    def serve(self, names, layout):
        ports, log = self.work / "ports", self.work / "server.log"
        ports.unlink(missing_ok=True)
        command = [BIN / "shiftadd-server", "--package-dir", layout, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--port-file",
                   ports, "--precision", "a16", "--cache-precision", "f32", "--threads", "1", "--cache-mib", "4"]
        for name in names:
            command += ["--package", f"{name}:v1"]
        with log.open("w") as out:
            self.server = subprocess.Popen(command, stdout=out, stderr=out)
        return f"http://127.0.0.1:{wait_for(ports, self.server, log)[1]}"

    def stop(self):
        if self.server:
            self.server.terminate()
            self.server.wait()
            self.server = None

    def prompts(self, ours, theirs, name):
        ids = [[(i * 37 + 11) % VOCAB for i in range(48)]] if name != "golden" else []
        for text in TEXTS:
            mine = ours.tokens(text)
            self.expect(theirs.tokens(text) == mine, f"{name}: {text!r}: ids {mine}, in llama.cpp {theirs.tokens(text)}")
            ids.append(mine)
        return ids

    def check(self, name, base, gguf):
        ours = llama_cpp.Ours(base, f"{name}:v1")
        theirs = llama_cpp.LlamaServer(LLAMA / "llama-server", gguf, 1 << 20)
        try:
            results = [llama_cpp.compare(ours, theirs, ids) for ids in self.prompts(ours, theirs, name)]
        finally:
            theirs.stop()
        worst = max(max(r["stepwise"], r["whole"]) for r in results)
        gap = max(r["gap"] for r in results)
        equal = sum(r["equal"] for r in results)
        bound = QUANTIZED_BOUND if name == "golden" else GELU_BOUND if name.startswith(("gemma", "bloom")) else BOUND
        prompts = ", ".join(f"{r['tokens']} tokens {max(r['stepwise'], r['whole']):.1e}" for r in results)
        text = f"{name:14} log-probabilities within {worst:.1e} ({prompts}), greedy text equal for {equal} of {len(results)}"
        text += f", parts where ours are {gap:.1e} apart" if gap > 0 else ""
        self.lines.append(text)
        print(text, flush=True)
        self.expect(worst <= bound, f"{name}: log-probabilities differ by {worst:.3g}, expected at most {bound}")
        self.expect(gap <= 2 * bound, f"{name}: greedy text parts where ours are {gap:.3g} apart")

    def run(self):
        names = subprocess.run([MAKE, self.work], check=True, capture_output=True, text=True).stdout.split()
        shutil.copytree(SOURCE / "tests/golden/tiny_package", self.work / "golden-layout")
        exported = {}
        for name in [*names, "golden"]:
            file, said = self.export(name)
            if name in REFUSED:
                self.expect(file is None and said.count("\n") == 0 and "gguf: " in said and REFUSED[name] in said,
                            f"{name}: expected to be refused for '{REFUSED[name]}', found '{said}'")
                self.lines.append(f"{name:14} {said.removeprefix('shiftadd-export: ')}")
                print(self.lines[-1])
                continue
            self.expect(file is not None, f"{name}: {said}")
            if file:
                exported[name] = file
        for layout, some in ((self.work / "layout", [n for n in exported if n != "golden"]), (self.work / "golden-layout", ["golden"])):
            base = self.serve(some, layout)
            for name in some:
                self.check(name, base, exported[name])
            self.stop()


def main():
    for program in ("llama-server", "llama-quantize"):
        if not (LLAMA / program).exists():
            print(f"skipped: {LLAMA} has no {program}; tests/bench/build_llama_cpp.sh builds it")
            return 77
    test = Test()
    try:
        test.run()
    finally:
        test.stop()
        shutil.rmtree(test.work, ignore_errors=True)
    if len(sys.argv) > 4:
        pathlib.Path(sys.argv[4]).write_text("\n".join(test.lines) + "\n")
    print(f"{len(test.faults)} faults")
    return 1 if test.faults else 0


if __name__ == "__main__":
    sys.exit(main())
