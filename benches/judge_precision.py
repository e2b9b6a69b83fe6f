#!/usr/bin/env python3
"""How exact the judge's precisions are: their scores on labeled documents against those in f32.

    benches/judge_precision.py [--labels ../shared/data/labels/dev.jsonl] [--limit 286] [--precisions bf16,int8]

Prints, per precision: how often it decides as f32 does (score at least 0.5), how far scores lie from f32's, and the area
under the ROC curve against the labels, mean of the four behaviors. Needs nothing but Python and the release build.
"""
import argparse
import json
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BEHAVIORS = ["verification", "backtracking", "subgoal_setting", "backward_chaining"]


def scores(args, precision):
    command = [args.program, "bench", "judge", "--json", "--model", args.model, "--precision", precision,
               "--docs", args.labels, "--limit", str(args.limit)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["scores"]


def auc(scores, labels):
    """The probability that a document that shows the behavior scores higher than one that does not."""
    shows = [score for score, label in zip(scores, labels) if label]
    others = [score for score, label in zip(scores, labels) if not label]
    wins = sum((a > b) + 0.5 * (a == b) for a in shows for b in others)
    return wins / (len(shows) * len(others))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "pipeline"))
    parser.add_argument("--model", default=os.path.join(ROOT, "target", "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--labels", default=os.path.join(ROOT, "..", "shared", "data", "labels", "dev.jsonl"))
    parser.add_argument("--limit", type=int, default=286)
    parser.add_argument("--precisions", default="bf16,int8")
    args = parser.parse_args()

    with open(args.labels) as lines:
        gold = [json.loads(line) for line in lines if line.strip()][: args.limit]
    exact = scores(args, "f32")
    print("| precision | decides as f32 | mean distance of scores | largest | ROC AUC, mean of four |")
    print("|---|---|---|---|---|")
    for precision in ["f32", *args.precisions.split(",")]:
        found = exact if precision == "f32" else scores(args, precision)
        pairs = [(a, b) for ours, f32 in zip(found, exact) for a, b in zip(ours, f32)]
        agree = sum((a >= 0.5) == (b >= 0.5) for a, b in pairs) / len(pairs)
        distances = [abs(a - b) for a, b in pairs]
        areas = [auc([row[i] for row in found], [row[name] > 0 for row in gold]) for i, name in enumerate(BEHAVIORS)]
        print(f"| {precision} | {100 * agree:.1f} % | {sum(distances) / len(distances):.4f} | {max(distances):.3f} "
              f"| {sum(areas) / 4:.3f} |", flush=True)


if __name__ == "__main__":
    main()
