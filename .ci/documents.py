"""Writes JSON-lines shards of made-up documents for the tests on schedulers: `documents.py FOLDER SHARDS DOCUMENTS`."""

import json
import pathlib
import random
import sys

WORDS = "we check that the sum of two primes is even and try another way since this does not work so first find x".split()

folder, shards, documents = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
for shard in range(shards):
    draw = random.Random(shard)
    with open(folder / f"{shard}.jsonl", "w") as out:
        for document in range(documents):
            text = " ".join(draw.choices(WORDS, k=4000))
            out.write(json.dumps({"url": f"https://example.org/{shard}/{document}", "text": text}) + "\n")
