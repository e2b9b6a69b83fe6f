#!/usr/bin/env bash
# MinHash sketches, ours and datatrove's, in one run on one core over the same documents. Prints both and their ratio.
#
#     python3 -m venv /tmp/peers && /tmp/peers/bin/pip install 'datatrove[processing]' pyarrow xxhash spacy
#     PYTHON=/tmp/peers/bin/python benches/peers/minhash.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}

cargo bench --bench minhash -- document/minhash >&2
theirs=$("$python" benches/peers/minhash_datatrove.py ../shared/data/math_docs/*.parquet)

"$python" - "$theirs" <<'PYTHON'
import json
import pathlib
import sys

theirs = json.loads(sys.argv[1])
measured = pathlib.Path("target/criterion/document/minhash/new")
seconds = json.loads((measured / "estimates.json").read_text())["mean"]["point_estimate"] / 1e9
megabytes = json.loads((measured / "benchmark.json").read_text())["throughput"]["Bytes"] / 1e6
assert abs(megabytes - theirs["megabytes"]) < 0.01, "the two read different documents"
ours = megabytes / seconds
print(json.dumps(dict(engine="four-habits", documents=theirs["documents"], sketch_megabytes_per_second=round(ours, 1))))
print(json.dumps(theirs))
print(f"ratio: {ours / theirs['sketch_megabytes_per_second']:.0f} x datatrove's hashing alone, {ours / theirs['step_megabytes_per_second']:.0f} x its stage")
PYTHON
