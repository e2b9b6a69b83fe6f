"""Makes a shard of OpenWebMath's size and shape: 55,400 rows, about 490 MB of text, row groups of 1,000 rows, snappy.

    python benches/peers/make_shard.py /tmp/shard.parquet

Paragraphs of the sample documents, one in 250 from one that shows a behavior, shuffled over documents with a fixed seed;
2 % of the rows are near duplicates.
Needs pyarrow.
"""

import json
import pathlib
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq

ROWS, ROW_GROUP, MEAN_CHARS = 55_400, 1_000, 8_900
SAMPLE = pathlib.Path(__file__).parents[2] / "assets/sample/documents.jsonl"


def documents():
    rng = random.Random(0)
    plain, rich = [], []
    for document, labels in zip(SAMPLE.open(), SAMPLE.with_name("labels.jsonl").open()):
        group = plain if json.loads(labels)["source"] == "none" else rich
        group.extend(part for part in json.loads(document)["text"].split("\n\n") if len(part) > 20)
    last = ""
    for row in range(ROWS):
        if last and rng.random() < 0.02:
            words = last.split(" ")
            words[rng.randrange(len(words))] = "indeed"
            text = " ".join(words)
        else:
            parts, size, wanted = [], 0, rng.lognormvariate(0, 0.8) * MEAN_CHARS * 0.72
            while size < wanted:
                # A number makes paragraphs differ, so that the corpus is not all duplicates.
                parts.append(f"{rng.choice(rich if rng.random() < 0.004 else plain)} ({rng.randrange(10**6)})")
                size += len(parts[-1])
            text = "\n\n".join(parts)
        last = text
        yield f"https://example.org/{row}", text, None if row % 23 == 0 else "2023-03-22T16:01:24", "{}"


def main():
    schema = pa.schema([(name, pa.string()) for name in ("url", "text", "date", "metadata")])
    rows = documents()
    with pq.ParquetWriter(sys.argv[1], schema, compression="snappy") as writer:
        for start in range(0, ROWS, ROW_GROUP):
            columns = zip(*(next(rows) for _ in range(min(ROW_GROUP, ROWS - start))))
            writer.write_table(pa.table([list(column) for column in columns], schema=schema))


main()
