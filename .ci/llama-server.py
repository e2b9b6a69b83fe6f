"""llama.cpp's server out of the Python package xllamacpp, which `.ci/models` unpacks beside this file.

llama-server --model FILE [--port N] [-c TOKENS] [-np SLOTS]; port 0 is a free one. It says where it listens, on stderr.
"""

import argparse
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent / "lib"))
import xllamacpp  # noqa: E402

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", "-m", required=True)
arguments.add_argument("--host", default="127.0.0.1")
arguments.add_argument("--port", type=int, default=8080)
arguments.add_argument("-c", type=int, default=8192)
arguments.add_argument("-np", type=int, default=4)
arguments.add_argument("-t", type=int, default=0, help="threads; 0 for one a core")
given = arguments.parse_args()

params = xllamacpp.CommonParams()
params.model.path = given.model
params.hostnames = [given.host]
params.port = given.port
params.n_ctx = given.c
params.n_parallel = given.np
if given.t:
    params.cpuparams.n_threads = given.t
    params.cpuparams_batch.n_threads = given.t
server = xllamacpp.Server(params)
print("listening on", server.listening_address, file=sys.stderr, flush=True)
threading.Event().wait()
