"""The Hugging Face client uploads a folder to our test hub.

Usage: hub_upload.py FOLDER OWNER/NAME dataset|model   (HF_ENDPOINT and HF_TOKEN say where and as whom)

`tests/it/export_peer.rs` runs it when the package `huggingface_hub` is installed, and compares what the hub holds after
it with what it holds after our own upload.
"""

import json
import pathlib
import sys

from huggingface_hub import CommitOperationAdd, HfApi

folder, repo, kind = sys.argv[1:]
api = HfApi()
api.create_repo(repo, repo_type=kind, exist_ok=True)
root = pathlib.Path(folder)
paths = sorted(path for path in root.rglob("*") if path.is_file())
operations = [CommitOperationAdd(str(path.relative_to(root)), str(path)) for path in paths]
commit = api.create_commit(repo, operations, repo_type=kind, commit_message="by the client")
print(json.dumps({"commit": commit.oid, "files": len(operations)}))
