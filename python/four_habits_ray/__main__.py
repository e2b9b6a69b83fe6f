"""The driver. Ray places tasks and survives nodes; the program does the work and keeps the promises.

    python3 -m four_habits_ray --run-dir runs/curate --tasks 64 --gpus 1 -- pipelines/curate.toml --run-dir runs/curate

All nodes must see the run folder under the same path, and have the program (`--program`). A task whose node is lost is Ray's to
retry; what `pipeline status` misses when all tasks have ended is tried again, `--attempts` times in all. Then one last
`pipeline run` does what needs all units.
"""

import argparse
import os
import subprocess
import sys

import ray


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="four_habits_ray", description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="pipeline", help="the program's path on the nodes")
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--gpus", type=float, default=0, help="of each task")
    parser.add_argument("--cpus", type=float, default=1, help="of each task")
    parser.add_argument("--address", default=None, help="of the Ray cluster [default: $RAY_ADDRESS, else a local one]")
    parser.add_argument("run", nargs=argparse.REMAINDER, help="behind `--`: what to give to `pipeline run`")
    args = parser.parse_args()
    args.run = args.run[1:] if args.run[:1] == ["--"] else args.run
    return args


@ray.remote
def task(command: list, folder: str) -> int:
    """Runs one task in the driver's working directory; its output goes to Ray's logs, which show it at the driver."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        return process.wait()
    finally:
        # Ray cancels a task by an exception: the program drains and journals what it has.
        if process.poll() is None:
            process.terminate()
            process.wait()


def run_tasks(args: argparse.Namespace, indices: list) -> None:
    """Runs some tasks to their ends and says how they ended."""
    remote = task.options(
        num_cpus=args.cpus,
        num_gpus=args.gpus,
        # A lost node or worker is Ray's to retry.
        max_retries=args.attempts,
    )
    command = [args.program, "run", *args.run, "--task-count", str(args.tasks), "--task-index"]
    waiting = {remote.remote([*command, str(index)], os.getcwd()): index for index in indices}
    done = 0
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        index = waiting.pop(ready[0])
        done += 1
        try:
            code = ray.get(ready[0])
            ended = "done" if code == 0 else f"ended with {code}"
        except ray.exceptions.RayError as error:
            ended = f"was lost: {type(error).__name__}"
        print(f"task {index} {ended} ({done} of {len(indices)})", file=sys.stderr, flush=True)


def missing(args: argparse.Namespace) -> list:
    """The indices of tasks whose units are not done."""
    status = [args.program, "status", args.run_dir, "--missing", "--format", "slurm", "--task-count", str(args.tasks)]
    listed = subprocess.run(status, stdout=subprocess.PIPE, text=True).stdout.strip()
    indices = []
    for part in filter(None, listed.split(",")):
        first, _, last = part.partition("-")
        indices.extend(range(int(first), int(last or first) + 1))
    return indices


def main() -> int:
    args = arguments()
    ray.init(address=args.address, log_to_driver=True)
    for attempt in range(1, args.attempts + 1):
        # Before the first attempt too: a run goes on where it stopped.
        left = missing(args)
        if not left:
            break
        print(f"attempt {attempt} of {args.attempts}: {len(left)} tasks", file=sys.stderr, flush=True)
        run_tasks(args, left)
    left = missing(args)
    if left:
        print(f"tasks {left} did not finish in {args.attempts} attempts", file=sys.stderr)
        return 3
    finish = task.options(num_cpus=args.cpus, num_gpus=0, max_retries=args.attempts)
    return ray.get(finish.remote([args.program, "run", *args.run], os.getcwd()))


if __name__ == "__main__":
    sys.exit(main())
