#!/usr/bin/env python3
"""How exact the judge's precisions are: their scores on labeled documents against those in f32.

    benches/judge_precision.py [--labels ../shared/data/labels/dev.jsonl] [--limit 286] [--precisions bf16,int8]

Prints two tables. The first says, per precision, how often it decides as f32 does (score at least 0.5) and how far scores lie
from f32's; the second, per behavior, the area under the ROC curve and the F1 at 0.5 against the labels. Needs nothing but
Python and the release build.
"""
import argparse
import json
import os
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BEHAVIORS = ["verification", "backtracking", "subgoal_setting", "backward_chaining"]


def scores(args, precision):
    command = [args.program, "bench", "judge", "--json", "--model", args.model, "--precision", precision,
               "--docs", args.labels, "--limit", str(args.limit), "--max-doc-tokens", str(args.max_doc_tokens)]
    if args.threads:
        command += ["--threads", str(args.threads)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["scores"]


def auc(scores, labels):
    """The probability that a document that shows the behavior scores higher than one that does not."""
    shows = [score for score, label in zip(scores, labels) if label]
    others = [score for score, label in zip(scores, labels) if not label]
    wins = sum((a > b) + 0.5 * (a == b) for a in shows for b in others)
    return wins / (len(shows) * len(others))


def f1(scores, labels):
    """Of the decision that a score of at least 0.5 is."""
    right = sum(score >= 0.5 and label for score, label in zip(scores, labels))
    return 2 * right / (sum(score >= 0.5 for score in scores) + sum(labels))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "pipeline"))
    parser.add_argument("--model", default=os.path.join(ROOT, "target", "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--labels", default=os.path.join(ROOT, "..", "shared", "data", "labels", "dev.jsonl"))
    parser.add_argument("--limit", type=int, default=286)
    parser.add_argument("--max-doc-tokens", type=int, default=1024)
    parser.add_argument("--precisions", default="bf16,int8")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    with open(args.labels) as lines:
        gold = [json.loads(line) for line in lines if line.strip()][: args.limit]
    precisions = ["f32", *args.precisions.split(",")]
    found = {precision: scores(args, precision) for precision in precisions}

    print(f"{time.strftime('%Y-%m-%d')}, {os.path.basename(args.model)}, {len(gold)} documents, "
          f"their first {args.max_doc_tokens} tokens\n")
    print("| precision | decides as f32 | mean distance of scores | largest |")
    print("|---|---|---|---|")
    for precision in precisions[1:]:
        pairs = [(a, b) for ours, f32 in zip(found[precision], found["f32"]) for a, b in zip(ours, f32)]
        agree = sum((a >= 0.5) == (b >= 0.5) for a, b in pairs) / len(pairs)
        distances = [abs(a - b) for a, b in pairs]
        print(f"| {precision} | {100 * agree:.1f} % | {sum(distances) / len(distances):.4f} | {max(distances):.3f} |")
    print()
    print("| behavior | " + " | ".join(f"ROC AUC, F1 in {precision}" for precision in precisions) + " |")
    print("|---" * (1 + len(precisions)) + "|")
    cells = []
    for index, name in enumerate(BEHAVIORS):
        labels = [row[name] > 0 for row in gold]
        columns = [[row[index] for row in found[precision]] for precision in precisions]
        cells.append([(auc(column, labels), f1(column, labels)) for column in columns])
        print(f"| {name} | " + " | ".join(f"{area:.3f}, {score:.3f}" for area, score in cells[-1]) + " |")
    means = [[sum(pair[which] for pair in column) / len(column) for which in (0, 1)] for column in zip(*cells)]
    print("| mean | " + " | ".join(f"{area:.3f}, {score:.3f}" for area, score in means) + " |")


if __name__ == "__main__":
    main()
