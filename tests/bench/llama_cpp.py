"""Measures for llama_cpp.sh, which says what and how: interleaved rounds, then a table and ratios as Markdown."""
import argparse
import collections
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import time

OURS = "shiftadd"
PROMPT, GENERATE = 512, 128
# llama.cpp's, with and without busy neighbours: a token can take it half a second there.
BUSY_PROMPT, BUSY_GENERATE = 128, 24


def run(command):
    """The JSON objects that `command` prints, a line each, and its peak resident memory in bytes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines = [json.loads(line) for line in process.stdout if line.strip()]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status != 0 or not lines:
        sys.exit(f"{' '.join(command)}: failed (status {status})")
    return lines, usage.ru_maxrss * 1024


class Bench:
    def __init__(self, options):
        self.options = options
        self.rates = collections.defaultdict(list)  # (who, threads, test, busy) -> tokens a second; busy None: the main part
        self.memory = collections.defaultdict(int)
        self.build = "unknown"  # llama.cpp's commit and number
        self.read = {}  # bytes of weights that a token reads

    def measure(self, who, threads, busy):
        o = self.options
        prompt, generate = (PROMPT, GENERATE) if busy is None or who == OURS else (BUSY_PROMPT, BUSY_GENERATE)
        if who == OURS:
            lines, memory = run([o.ours, "--package", o.package, "--package-dir", o.package_dir, "--threads", str(threads),
                                 "--prompt", str(prompt), "--generate", str(generate)])
            for line in lines:
                self.rates[who, threads, line["test"], busy].append(line["tokens_per_second"])
                self.read[who] = line["weight_bytes"]
        else:
            lines, memory = run([o.llama_bench, "-m", f"{o.models}-{who}.gguf", "-p", str(prompt), "-n", str(generate),
                                 "-t", str(threads), "-r", "1", "-ngl", "0", "-o", "jsonl"])
            for line in lines:
                test = "prompt" if line["n_prompt"] else "generation"
                self.rates[who, threads, test, busy].append(line["avg_ts"])
                self.read[who] = line["model_size"]
                self.build = f"{line.get('build_commit')} ({line.get('build_number')})"
        self.memory[who] = max(self.memory[who], memory)

    def rounds(self, plan, seconds):
        """Runs every (who, threads, busy) of the plan once a round, until the time is over or another round would not fit."""
        start = time.monotonic()
        done = 0
        while done == 0 or (time.monotonic() - start) * (done + 1) / done < seconds:
            # Every other round backwards, so that none always follows the same one.
            for who, threads, busy in plan if done % 2 == 0 else reversed(plan):
                neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy or 0)]
                try:
                    self.measure(who, threads, busy)
                finally:
                    for neighbour in neighbours:
                        neighbour.kill()
                        neighbour.wait()
            done += 1
        return done


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown CPU")


def table(bench, types, threads):
    yield "| weights | MB read a token | peak resident MB | threads | prompt, best | median | generation, best | median |"
    yield "|---|---|---|---|---|---|---|---|"
    for who in [OURS, *types]:
        for t in threads:
            cells = []
            for test in ("prompt", "generation"):
                rates = bench.rates[who, t, test, None]
                cells += [f"{max(rates):.1f}", f"{statistics.median(rates):.1f}"]
            name = who if who == OURS else f"llama.cpp {who}"
            yield f"| {name} | {bench.read[who] / 1e6:.1f} | {bench.memory[who] / 1e6:.0f} | {t} | {' | '.join(cells)} |"


def ratios(bench, types, threads):
    """Ours over llama.cpp's best type: by the best rounds, and by the median of each round's own ratio."""
    def line(what, test, rivals, t):
        mine = bench.rates[OURS, t, test, None]
        best = max(rivals, key=lambda who: max(bench.rates[who, t, test, None]))
        theirs = bench.rates[best, t, test, None]
        paired = statistics.median(a / b for a, b in zip(mine, theirs))
        return (f"{what}, {t} thread{'s' if t > 1 else ''}: {max(mine) / max(theirs):.2f} times llama.cpp's fastest ({best}) "
                f"by the best rounds, {paired:.2f} by the median of the rounds' ratios")
    # Nominal bits are below 5 for these; the embedding and head are wider in all of them.
    small = [who for who in types if who.startswith(("Q4_0", "IQ", "Q3", "Q2", "Q4_K"))] or types
    for t in threads:
        yield line("generation, types below 5 bits", "generation", small, t)
        yield line("prompt, any type", "prompt", types, t)
    leanest = min(types, key=lambda who: bench.memory[who])
    yield (f"peak resident memory: {bench.memory[OURS] / bench.memory[leanest]:.2f} times llama.cpp's smallest ({leanest}); "
           f"bytes read a token: {bench.read[OURS] / min(bench.read[who] for who in types):.2f} times its fewest")


def disturbed(bench, who, threads, busy):
    for t in threads:
        for test in ("prompt", "generation"):
            alone, beside = bench.rates[who, t, test, 0], bench.rates[who, t, test, busy]
            name = who if who == OURS else f"llama.cpp {who}"
            yield (f"{name}, {t} thread{'s' if t > 1 else ''}, {test}: {statistics.median(beside):.1f} tokens/s beside {busy} busy "
                   f"processes, {statistics.median(beside) / statistics.median(alone):.0%} of {statistics.median(alone):.1f} (medians)")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no neighbour outlives this
    parser = argparse.ArgumentParser()
    for name in ("ours", "package", "package-dir", "llama-bench", "models", "types", "threads", "out", "command"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--busy", type=int, required=True)
    options = parser.parse_args()
    types, threads = options.types.split(), [int(t) for t in options.threads.split()]
    bench = Bench(options)
    loads = [os.getloadavg()[0]]
    # A part of the time, if there are busy neighbours to try: one type of llama.cpp's is enough there.
    share = 0.4 if options.busy else 0
    done = bench.rounds([(who, t, None) for t in threads for who in [OURS, *types]], options.seconds * (1 - share))
    loads.append(os.getloadavg()[0])
    rival = "Q4_0" if "Q4_0" in types else types[0]
    if options.busy:
        bench.rounds([(who, t, busy) for t in threads for busy in (0, options.busy) for who in (OURS, rival)],
                     options.seconds * share)
    lines = [
        f"$ {options.command}",
        f"shiftadd {options.package} beside llama.cpp on {os.path.basename(options.models)}: tokens a second, {done} interleaved rounds",
        f"{datetime.date.today()}, {cpu_name()}, {len(os.sched_getaffinity(0))} usable cores; load average at the start "
        f"{loads[0]:.2f}, at the end {loads[1]:.2f} (these programs' own threads count)",
        f"llama.cpp build {bench.build}",
        "", *table(bench, types, threads), "", *ratios(bench, types, threads)]
    if options.busy:
        lines += ["", *disturbed(bench, OURS, threads, options.busy), *disturbed(bench, rival, threads, options.busy)]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(text)


main()
