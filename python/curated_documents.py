"""Writes the documents of `pipelines/four-habits-curated-mini.toml`: a small web in which few pages search and many do not.

    python/curated_documents.py RUN --out documents.jsonl

RUN is the run folder of `pipelines/four-habits-curated-texts.toml`. Each of its puzzles becomes one document, in one of three manners: a
search (40 %), the steps of the solution (45 %), the bare answer (15 %). All texts of arithmetic follow as documents of their own. They are put in an
order that hashes decide, and none says of which kind it is: that is for the judge to find. Needs pyarrow.
"""

import argparse
import hashlib
import json
import os

import pyarrow.parquet

# Of a hundred puzzles, up to which place each manner is told.
MANNERS = [("all-strategies", 40), ("direct", 85), ("empty", 100)]


def rows(run, path, columns):
    table = pyarrow.parquet.read_table(os.path.join(run, path), columns=columns)
    return list(zip(*(table[column].to_pylist() for column in columns)))


def digest(text):
    return hashlib.sha256(text.encode()).digest()


def worked_puzzles(run):
    told = {}
    for manner, _ in MANNERS:
        told[manner] = rows(run, f"prime/{manner}/train.parquet", ["query", "completion"])
    by_query = [dict(told[manner]) for manner, _ in MANNERS]
    # A puzzle that was drawn twice is told once.
    for query in by_query[0]:
        place = int.from_bytes(digest(query)[:8], "big") % 100
        manner = next(index for index, (_, end) in enumerate(MANNERS) if place < end)
        yield query + by_query[manner][query]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    texts = list(worked_puzzles(args.run))
    texts += [text for (text,) in rows(args.run, "arithmetic/text/train.parquet", ["text"])]
    texts.sort(key=digest)
    with open(args.out, "w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            row = {"url": f"https://mini.example/{number}", "text": text, "date": "2026-11-23", "metadata": "{}"}
            file.write(json.dumps(row) + "\n")
    print(f"{args.out}: {len(texts)} documents")


if __name__ == "__main__":
    main()
