#!/usr/bin/env python3
"""The language-model judge, ours and transformers', in one run over the same documents. Prints both and their ratios.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install torch transformers gguf accelerate pyarrow
    /tmp/peers/bin/python benches/peers/judge.py [--limit 24] [--precisions f32,bf16,int8] [--rounds 1]

Both read four questions about each document, cut to 1,024 tokens, with the same weights. Ours reads the document once;
transformers, the way one would use it, four whole prompts in padded batches. The two take turns, so that what else the
machine does hits both; processor seconds, which it hits less, are there as well.
"""
import argparse
import glob
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHARED = os.path.join(ROOT, "..", "shared")
DTYPES = {"f32": "float32", "bf16": "bfloat16"}


def timed(command):
    """The command's JSON and the processor seconds of its whole life."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout)
    result["process_cpu_seconds"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    return result


def ours(args, precision):
    program = os.path.join(ROOT, "target", "release", "pipeline")
    what = ["--docs", args.docs, "--limit", str(args.limit), "--max-doc-tokens", str(args.max_doc_tokens)]
    return timed([program, "bench", "judge", "--json", "--model", args.model, "--precision", precision, *what])


def theirs(args, dtype):
    what = ["--docs", args.docs, "--n", str(args.limit), "--max-doc-tokens", str(args.max_doc_tokens)]
    return timed([sys.executable, args.peer, "--model", args.model, "--dtype", dtype, *what])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shards = sorted(glob.glob(os.path.join(SHARED, "data", "math_docs", "train-00000-of-*.parquet")))
    parser.add_argument("--model", default=os.path.join(ROOT, "target", "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--docs", default=shards[0] if shards else None, required=not shards)
    parser.add_argument("--peer", default=os.path.join(SHARED, "bench", "transformers_classify.py"))
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--max-doc-tokens", type=int, default=1024)
    parser.add_argument("--precisions", default="f32,bf16,int8")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()

    rows = {}
    for _ in range(args.rounds):
        for precision in args.precisions.split(","):
            rows.setdefault(("four-habits", precision), []).append(ours(args, precision))
            if precision in DTYPES:
                rows.setdefault(("transformers", precision), []).append(theirs(args, DTYPES[precision]))
    median = lambda row, key: statistics.median(result[key] for result in rows[row])

    print(f"{time.strftime('%Y-%m-%d')}, {args.limit} documents, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| engine | precision | documents/s | prompt tokens/s | processor seconds, start included |")
    print("|---|---|---|---|---|")
    for row in rows:
        rate, tokens = median(row, "documents_per_second"), median(row, "prompt_tokens_per_second")
        print(f"| {row[0]} | {row[1]} | {rate:.3f} | {tokens:.0f} | {median(row, 'process_cpu_seconds'):.1f} |")
    print()
    for precision in args.precisions.split(","):
        for peer in DTYPES:
            if ("transformers", peer) not in rows:
                continue
            mine, other = ("four-habits", precision), ("transformers", peer)
            by_clock = median(mine, "documents_per_second") / median(other, "documents_per_second")
            by_cpu = median(other, "process_cpu_seconds") / median(mine, "process_cpu_seconds")
            print(f"ours in {precision} against theirs in {peer}: {by_clock:.2f} x by the clock, {by_cpu:.2f} x by processor seconds")


if __name__ == "__main__":
    main()
