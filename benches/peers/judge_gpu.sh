#!/usr/bin/env bash
# The judge on a GPU, ours and transformers', over the same documents with random weights of two published shapes. Prints
# both and their ratio. Needs a program built with `--features cuda` (docs/gpu.md), and torch, transformers, pyarrow.
#
#     benches/peers/judge_gpu.sh DOCUMENTS.parquet
#
# PIPELINE names the program, PYTHON the interpreter, PEER the script that does the same with transformers, DOCUMENTS_COUNT
# and SHAPES what to judge. Both read 1,024 tokens of each document and ask four questions; ours are the recipe's own, some
# tokens longer than the peer's. Neither side's model loading is counted. Of ours the faster of two rounds counts, since the
# first one has the driver compile; the peer gets a round on few documents before.
set -euo pipefail
cd "$(dirname "$0")/../.."
documents=${1:?"usage: benches/peers/judge_gpu.sh DOCUMENTS.parquet"}
pipeline=${PIPELINE:-target/release/pipeline}
python=${PYTHON:-python3}
peer=${PEER:-../shared/bench/transformers_classify.py}
count=${DOCUMENTS_COUNT:-512}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for shape in ${SHAPES:-qwen2.5-1.5b qwen2.5-7b}; do
    "$pipeline" bench judge --shape "$shape" --device cuda --docs "$documents" --limit "$count" --max-doc-tokens 1024 \
        --batch-tokens "${BATCH_TOKENS:-32768}" --repeat 2 --json >"$scratch/ours.json"
    peer() { "$python" "$peer" --shape "$shape" --docs "$documents" --max-doc-tokens 1024 --device cuda --dtype bfloat16 "$@"; }
    peer --n 16 >/dev/null
    peer --n "$count" >"$scratch/theirs.json"
    "$python" - "$shape" "$scratch" <<'PYTHON'
import json
import pathlib
import sys

shape, scratch = sys.argv[1], pathlib.Path(sys.argv[2])
ours = json.loads((scratch / "ours.json").read_text())
theirs = json.loads((scratch / "theirs.json").read_text())
assert ours["documents"] == theirs["documents"], "the two read different documents"
rate = ours["documents"] / min(ours["seconds"])
share = ours["flops"] / ours["repeats"] / min(ours["seconds"]) / ours["peak_flops_per_second"]
print(json.dumps(ours))
print(json.dumps(theirs))
print(f"{shape}: {rate:.1f} documents/s at {share:.0%} of the card's bf16 products of 8192 x 8192; "
      f"transformers {theirs['documents_per_second']:.1f}; ratio {rate / theirs['documents_per_second']:.1f}")
PYTHON
done
