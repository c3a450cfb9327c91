"""Runs a Pelton cycle as a task of a Ray cluster: a launcher for `[cycle] launcher`.

    [cycle]
    launcher = ["python3", "ray_launcher.py", "{pelton}", "cycle", "resume", "{cycle}", "--token", "{token}", "--config", "{config}"]

The cluster is the one that RAY_ADDRESS names (Ray's own variable), or one of this machine that lives as long as the task. The nodes
need the program, the configuration and the lake under the same names; PELTON_RAY_GPUS and PELTON_RAY_CPUS say what the task takes
(0 and 1). The launcher ends when the cycle does, with its exit status; asked to end (SIGTERM), it asks the cycle to.
"""

import os
import signal
import subprocess
import sys

import ray


@ray.remote(max_retries=0)
def run(command):
    node = ray.get_runtime_context().get_node_id()
    print(f"ray: node {node} runs {' '.join(command)}", flush=True)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        # Ray carries a task's lines to whoever started it.
        for line in child.stdout:
            print(line, end="", flush=True)
        return child.wait()
    except BaseException:
        # Cancelled: the cycle stays open, and whoever runs it next goes on with it.
        child.terminate()
        child.wait(timeout=60)
        raise


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    local = "RAY_ADDRESS" not in os.environ
    ray.init(
        num_cpus=int(os.environ.get("PELTON_RAY_CPUS", "1")) if local else None,
        include_dashboard=False if local else None,
        log_to_driver=True,
        logging_level="warning",
    )
    options = {
        "num_cpus": float(os.environ.get("PELTON_RAY_CPUS", "1")),
        "num_gpus": float(os.environ.get("PELTON_RAY_GPUS", "0")),
    }
    task = run.options(**options).remote(sys.argv[1:])

    def end(*_):
        ray.cancel(task)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        sys.exit(ray.get(task))
    except (ray.exceptions.TaskCancelledError, ray.exceptions.RayTaskError) as ended:
        print(f"ray: {ended}", file=sys.stderr)
        # The cycle goes on later: docs/CYCLES.md, exit codes.
        sys.exit(4 if isinstance(ended, ray.exceptions.TaskCancelledError) else 1)


if __name__ == "__main__":
    main()
