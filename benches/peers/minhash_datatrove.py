#!/usr/bin/env python3
"""The peer for MinHash sketches: datatrove's MinhashDedupSignature on one core, with its default 5-grams, 14 x 8 and xxhash.

    python3 minhash_datatrove.py FILE.parquet... [--limit N]

Prints one JSON line. `sketch` is its hashing alone (get_shingles and get_signature in memory), `step` the whole stage with
its files. Needs: datatrove[processing] pyarrow xxhash spacy.
"""

import argparse
import json
import os
import tempfile
import time

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"
os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")

import pyarrow.parquet as pq
from importlib.metadata import version

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.logging import logger


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--limit", type=int, help="documents")
    arguments = parser.parse_args()
    logger.remove()

    texts = [text for file in sorted(arguments.files) for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]
    texts = texts[: arguments.limit]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6

    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder, config=MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8))
        step.get_signature(step.get_shingles("The word tokenizer loads at its first use, which is not counted."))

        begin = time.perf_counter()
        for text in texts:
            shingles = step.get_shingles(text)
            if shingles.size:
                step.get_signature(shingles)
        sketch = time.perf_counter() - begin

        begin = time.perf_counter()
        step.run((Document(text=text, id=str(i)) for i, text in enumerate(texts)), rank=0, world_size=1)
        whole = time.perf_counter() - begin

    result = dict(engine="datatrove", version=version("datatrove"), documents=len(texts), megabytes=round(megabytes, 3))
    result.update(sketch_megabytes_per_second=round(megabytes / sketch, 3), step_megabytes_per_second=round(megabytes / whole, 3))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
