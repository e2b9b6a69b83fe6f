#!/usr/bin/env python3
"""Decoding, ours and transformers' `generate`, in one run with random weights of the same shapes. Prints both and their ratios.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install torch transformers
    /tmp/peers/bin/python benches/peers/generate.py [--shapes mini-0.3m,mini-10m] [--batch 128] [--precisions f32] [--rounds 1]

Both draw 96 tokens after prompts of 32 at temperature 1 from all tokens, with a cache of keys and values; no token ends a
sequence. Each takes the median of three times after one that does not count. The two take turns, so that what else the
machine does hits both; processor seconds, which it hits less, are there as well.
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


def timed(command):
    """The command's JSON and the processor seconds of its whole life."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout)
    result["process_cpu_seconds"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    return result


def ours(args, shape, precision):
    result = timed([args.program, "bench", "generate", "--json", "--shape", shape, "--precision", precision,
                    "--batch", str(args.batch), "--prompt-tokens", str(args.prompt), "--new-tokens", str(args.new)])
    result["generated_tokens_per_second"] = result["batches"][0]["generated_tokens_per_second"]
    return result


def theirs(args, shape):
    return timed([sys.executable, args.peer, "--shape", shape, "--batch", str(args.batch), "--prompt", str(args.prompt),
                  "--new", str(args.new)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "pipeline"))
    parser.add_argument("--peer", default=os.path.join(ROOT, "..", "shared", "bench", "transformers_generate.py"))
    parser.add_argument("--shapes", default="mini-0.3m,mini-10m")
    parser.add_argument("--precisions", default="f32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()

    rows = {}
    for _ in range(args.rounds):
        for shape in args.shapes.split(","):
            for precision in args.precisions.split(","):
                rows.setdefault((shape, "four-habits", precision), []).append(ours(args, shape, precision))
            rows.setdefault((shape, "transformers", "f32"), []).append(theirs(args, shape))
    median = lambda row, key: statistics.median(result[key] for result in rows[row])

    print(f"{time.strftime('%Y-%m-%d')}, batch {args.batch}, {args.new} tokens after prompts of {args.prompt}, "
          f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| shape | engine | precision | generated tokens/s | ratio | processor seconds, start included |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        rate, peer = (median(which, "generated_tokens_per_second") for which in (row, (row[0], "transformers", "f32")))
        print(f"| {' | '.join(row)} | {rate:.0f} | {rate / peer:.2f} × | {median(row, 'process_cpu_seconds'):.1f} |")


if __name__ == "__main__":
    main()
