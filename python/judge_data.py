"""Lays out the data from which `pipelines/judge.toml` trains the embedded judge.

    python/judge_data.py [--data ../shared/data] [--out target/judge]

writes, from files that are not part of this repository and from the embedded sample:

    tuning.jsonl     the half of the labeled documents whose id has a SHA-256 that begins with an even byte
    held-out.jsonl   the other half: for evaluation alone
    sample.jsonl     the sample shard, documents and labels in one
    thoughts.jsonl   chains of thought of language models, as documents with url, text, date, metadata

Needs nothing but Python.
"""

import argparse
import glob
import hashlib
import json
import os

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write(folder, name, rows):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{name}: {len(rows)} documents")


def thoughts(row):
    """The answers in one line of a file; the files have four shapes."""
    if isinstance(row.get("final_output"), str):
        yield row["final_output"]
    response = row.get("response")
    for text in response if isinstance(response, list) else [response]:
        if isinstance(text, str):
            yield text
    for name in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
        if isinstance(row.get(name), dict):
            yield row[name]["solution"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.path.join(ROOT, "..", "shared", "data"))
    parser.add_argument("--out", default=os.path.join(ROOT, "target", "judge"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)

    halves = ([], [])
    for document in lines(os.path.join(args.data, "labels", "dev.jsonl")):
        halves[hashlib.sha256(document["id"].encode()).digest()[0] % 2].append(document)
    write(args.out, "tuning.jsonl", halves[0])
    write(args.out, "held-out.jsonl", halves[1])

    sample = os.path.join(ROOT, "assets", "sample")
    pairs = zip(lines(os.path.join(sample, "documents.jsonl")), lines(os.path.join(sample, "labels.jsonl")), strict=True)
    merged = [{**label, "text": document["text"]} for document, label in pairs]
    # The retold and repeated pages bear the same address in the labels only if they are the same line.
    write(args.out, "sample.jsonl", list({row["id"]: row for row in merged}.values()))

    documents = []
    for path in sorted(glob.glob(os.path.join(args.data, "chains_of_thought", "*.jsonl"))):
        for index, row in enumerate(lines(path)):
            for text in thoughts(row):
                url = f"{os.path.basename(path)}#{index}"
                documents.append({"url": url, "text": text, "date": None, "metadata": "{}"})
    write(args.out, "thoughts.jsonl", documents)


if __name__ == "__main__":
    main()
