"""Join, select and write: `pipeline`'s curate stage against DuckDB doing the same on the same labels, in one run.

    cargo build --release
    python benches/peers/make_shard.py /tmp/shard.parquet
    python benches/peers/curate_duckdb.py /tmp/shard.parquet

Both read the shard and the labels, select two corpora and write them as zstd Parquet, on two threads. `pipeline` also
shuffles, and writes a card, statistics and a decision per document. They take turns, three times; the best of each counts.
Prints one JSON line. Needs duckdb.
"""

import json
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import duckdb

PROGRAM = pathlib.Path(__file__).parents[2] / "target/release/pipeline"
RICH = "verification_count >= 2 or backtracking_count >= 1 or subgoal_setting_count >= 2 or backward_chaining_count >= 1"
NONE = "verification_count + backtracking_count + subgoal_setting_count + backward_chaining_count = 0"
RECIPE = """
[fetch]
sources = ["{shard}"]
[classify.cue]
[curate]
test-share = 0.0
deduplicate = {{ exact = false, near = false }}
[curate.corpus.rich]
where = "{rich}"
[curate.corpus.minimal]
where = "{none}"
"""


def main():
    shard = pathlib.Path(sys.argv[1]).resolve()
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "recipe.toml").write_text(RECIPE.format(shard=shard, rich=RICH, none=NONE))
    run = folder / "run"
    command = [PROGRAM, "run", folder / "recipe.toml", "--run-dir", run, "--threads", "2"]

    start = time.time()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.time() - start

    ours, theirs = [], []
    for _ in range(3):
        shutil.rmtree(run / "curate")
        shutil.rmtree(run / "manifests/curate")
        start, used = time.time(), children_cpu()
        subprocess.run(command, check=True, capture_output=True)
        ours.append((time.time() - start, children_cpu() - used))
        start, used = time.time(), time.process_time()
        by_duckdb(shard, run, folder)
        theirs.append((time.time() - start, time.process_time() - used))

    rows = {name: [count(f"{run}/curate/{name}/*.parquet"), count(f"{folder}/{name}.parquet")] for name in ("rich", "minimal")}
    assert all(a == b for a, b in rows.values()), rows
    text_mb = one(f"select sum(strlen(text)) / 1e6 from '{shard}'")
    print(json.dumps({
        "curate_seconds": round(min(ours)[0], 2),
        "duckdb_seconds": round(min(theirs)[0], 2),
        "times_faster": round(min(theirs)[0] / min(ours)[0], 2),
        "curate_cpu_seconds": round(min(cpu for _, cpu in ours), 2),
        "duckdb_cpu_seconds": round(min(cpu for _, cpu in theirs), 2),
        "rows": {name: counts[0] for name, counts in rows.items()},
        "text_mb": round(text_mb),
        "whole_run_seconds": round(whole, 1),
        "duckdb": duckdb.__version__,
    }))
    shutil.rmtree(folder)


def by_duckdb(shard, run, folder):
    # A fresh connection, as a program of its own would have.
    connection = duckdb.connect()
    connection.execute("set threads = 2")
    for name, condition in (("rich", RICH), ("minimal", NONE)):
        connection.execute(
            f"""copy (select d.*, l.* exclude (source_row)
                      from (select *, file_row_number as source_row from read_parquet('{shard}', file_row_number = true)) d
                      join read_parquet('{run}/classify/labels/*.parquet') l using (source_row)
                      where {condition})
                to '{folder}/{name}.parquet' (format parquet, compression zstd)"""
        )


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def count(path):
    return one(f"select count(*) from '{path}'")


def one(query):
    return duckdb.connect().execute(query).fetchone()[0]


main()
