"""A Ray cluster of a head and two raylets on this machine; runs the driver against it, kills a task and a raylet meanwhile."""

import os
import signal
import subprocess
import sys
import time

from ray.cluster_utils import Cluster

program = os.environ["PROGRAM"]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()

submit = [program, "submit", "ray", "recipe.toml", "--run-dir", "run", "--tasks", "6", "--threads", "1", "--", "--address", cluster.address]
driver = subprocess.Popen(submit, env={**os.environ, "PYTHON": sys.executable})


def processes() -> list:
    listed = subprocess.run(["pgrep", "-f", f"^{program} run .*--task-count"], stdout=subprocess.PIPE, text=True)
    return [int(pid) for pid in listed.stdout.split()]


while not processes():
    time.sleep(0.02)
time.sleep(0.2)
victim = processes()[0]
os.kill(victim, signal.SIGKILL)
print("killed a task", flush=True)
while not processes():
    time.sleep(0.02)
cluster.remove_node(nodes[0], allow_graceful=False)
print("killed a raylet", flush=True)
# What its tasks started dies with a node; here it would live on.
for pid in processes():
    os.kill(pid, signal.SIGKILL)
code = driver.wait(timeout=900)
cluster.shutdown()
sys.exit(code)
