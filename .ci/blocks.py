"""Runs every fenced code block of the given Markdown files, in order, in the repository's root.

`sh` by bash, `python` by this interpreter, `sql` by DuckDB, `toml` as a recipe that must plan. Blocks marked `text` are
output and pictures. Any other mark, or none, is an error, so that nothing goes unexecuted by accident.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

BLOCK = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(kind: str, code: str) -> None:
    if kind == "sh":
        # The suite runs by itself; running it here, too, would only double its time.
        code = code.replace("cargo test --release", "cargo test --release --no-run")
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
    elif kind == "python":
        subprocess.run([sys.executable, "-c", code], check=True)
    elif kind == "sql":
        import duckdb

        print(duckdb.sql(code))
    elif kind == "toml":
        with tempfile.TemporaryDirectory() as folder:
            recipe = pathlib.Path(folder, "recipe.toml")
            recipe.write_text(code)
            subprocess.run(["pipeline", "plan", str(recipe)], check=True)
    elif kind != "text":
        sys.exit(f"a block is marked `{kind}`; expected sh, python, sql, toml or text")


for path in sys.argv[1:]:
    text = pathlib.Path(path).read_text()
    for match in BLOCK.finditer(text):
        line = text[: match.start()].count("\n") + 1
        print(f"-- {path}:{line} ({match[1]})", flush=True)
        run(match[1], match[2])
