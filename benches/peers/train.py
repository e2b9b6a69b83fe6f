#!/usr/bin/env python3
"""Training, ours and PyTorch's, in one run at the same shapes. Prints both and their ratios.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install torch
    PYTHON=/tmp/peers/bin/python benches/peers/train.py [--runs mini-0.3m:f32,mini-10m:f32,smollm2-135m:bf16] [--rounds 3]

A step is forward, backward, clipping and AdamW on 4 sequences of 512 random tokens. The two take turns, so that what else the machine
does hits both; processor seconds a step, which it hits less, are there as well.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DTYPES = {"f32": "float32", "bf16": "bfloat16"}


def timed(command):
    """The command's JSON and the processor seconds of its whole life."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout)
    result["process_cpu_seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="mini-0.3m:f32,mini-10m:f32,smollm2-135m:bf16")
    parser.add_argument("--steps", help="measured steps of each run, in their order; by default what takes about ten seconds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "pipeline"))
    parser.add_argument("--peer", default=os.path.join(ROOT, "..", "shared", "bench", "torch_train.py"))
    args = parser.parse_args()

    python = os.environ.get("PYTHON", sys.executable)
    steps_of = {"mini-0.3m": 60, "mini-10m": 20}
    runs = args.runs.split(",")
    steps = args.steps.split(",") if args.steps else [str(steps_of.get(run.split(":")[0], 3)) for run in runs]
    if len(steps) != len(runs):
        parser.error(f"{len(runs)} runs and {len(steps)} numbers of steps")
    size = ["--batch", str(args.batch), "--length", str(args.length)]
    rows = {}
    for _ in range(args.rounds):
        for run, count in zip(runs, steps):
            shape, precision = run.split(":")
            what = ["--shape", shape, *size, "--steps", count]
            ours = [args.program, "bench", "train", "--json", "--precision", precision, *what]
            theirs = [python, args.peer, "--dtype", DTYPES[precision], *what]
            rows.setdefault((shape, precision, "four-habits"), []).append(timed(ours))
            rows.setdefault((shape, precision, "torch"), []).append(timed(theirs))
    median = lambda row, key: statistics.median(result[key] for result in rows[row])

    print(f"{time.strftime('%Y-%m-%d')}, {args.batch} x {args.length}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| shape | precision | engine | tokens/s | of torch's | processor seconds, start included |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        shape, precision, engine = row
        rate = median(row, "tokens_per_second")
        ratio = rate / median((shape, precision, "torch"), "tokens_per_second")
        print(f"| {shape} | {precision} | {engine} | {rate:,.0f} | {ratio:.2f} x | {median(row, 'process_cpu_seconds'):.1f} |")
    print()
    for (shape, precision, engine), results in rows.items():
        if engine == "four-habits":
            share = statistics.median(result["share_of_peak"] for result in results)
            memory = max(result["memory_of_estimate"] or 0 for result in results)
            print(f"{shape}, {precision}: {100 * share:.0f} % of the kernel's peak, memory {memory:.2f} of the estimate")


if __name__ == "__main__":
    main()
