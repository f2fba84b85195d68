#!/usr/bin/env python3
"""The executor on the CPU beside processes that never sleep: what is left of its undisturbed rate, with and without
its way of working for crowded cores (--crowding watched and never of cpu_serve_benchmark).

busy_neighbours.py CPU_SERVE_BENCHMARK REFERENCE PACKAGE_DIR [--busy 3] [--threads 2] [--rounds 6] [--prompt 1024] [--generate 512]

Every round runs both ways alone and then beside neighbours that were started for it, every other round backwards.
All is started here, in one session, as Linux divides the cores by sessions first."""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time

WAYS = ("never", "watched")


def run(options, way, busy):
    """Tokens a second by test."""
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        time.sleep(0.3 if busy else 0)
        lines = subprocess.run(
            [options.benchmark, "--package", options.reference, "--package-dir", options.package_dir, "--threads",
             str(options.threads), "--prompt", str(options.prompt), "--generate", str(options.generate), "--crowding", way],
            check=True, capture_output=True, text=True).stdout.splitlines()
        return {line["test"]: line["tokens_per_second"] for line in map(json.loads, lines)}
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("benchmark", "reference", "package_dir"):
        parser.add_argument(name)
    for name, value in (("busy", 3), ("threads", 2), ("rounds", 6), ("prompt", 1024), ("generate", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    rates = {(way, busy, test): [] for way in WAYS for busy in (0, options.busy) for test in ("generation", "prompt")}
    print(f"$ {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"{datetime.datetime.now():%Y-%m-%d %H:%M}, {len(os.sched_getaffinity(0))} usable cores, Linux {os.uname().release}; load average {os.getloadavg()[0]:.2f}")
    for i in range(options.rounds):
        for way in WAYS if i % 2 == 0 else reversed(WAYS):
            for busy in (0, options.busy):
                for test, rate in run(options, way, busy).items():
                    rates[way, busy, test].append(rate)
    for way in WAYS:
        for test in ("generation", "prompt"):
            alone = statistics.median(rates["never", 0, test])
            quiet, beside = rates[way, 0, test], [rate / alone for rate in rates[way, options.busy, test]]
            print(f"--crowding {way}, {test}: alone {statistics.median(quiet):.1f} tokens/s ({min(quiet):.1f} to {max(quiet):.1f}), "
                  f"beside {options.busy} busy processes {statistics.median(beside):.0%} ({min(beside):.0%} to {max(beside):.0%}) "
                  f"of {alone:.1f}")


if __name__ == "__main__":
    main()
