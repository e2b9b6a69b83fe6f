"""The Hugging Face client against our test hub and against a cache that this program wrote.

Usage: hub_client.py fetch|offline REPO FILE   (HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE say where)

Prints the path, size and SHA-256 of FILE at revision `main`, then the repository's files. `tests/it/hub_peer.rs` runs it
when the package `huggingface_hub` is installed.
"""

import hashlib
import json
import sys

from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, snapshot_download

mode, repo, name = sys.argv[1:]
path = hf_hub_download(repo, name, repo_type="dataset", revision="main")
with open(path, "rb") as file:
    content = file.read()
found = {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
if mode == "fetch":
    entries = HfApi().list_repo_tree(repo, repo_type="dataset", recursive=True)
    found["files"] = sorted(entry.path for entry in entries if hasattr(entry, "blob_id"))
    found["snapshot"] = snapshot_download(repo, repo_type="dataset", allow_patterns="*.md")
else:
    found["snapshot"] = snapshot_download(repo, repo_type="dataset", allow_patterns=name)
cache = scan_cache_dir()
found["warnings"] = [str(warning) for warning in cache.warnings]
found["cached"] = sorted(
    cached.file_name
    for repository in cache.repos
    for revision in repository.revisions
    for cached in revision.files
)
print(json.dumps(found))
