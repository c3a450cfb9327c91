"""Runs a Pelton cycle on a Ray cluster: a launcher for `[cycle] launcher`.

    [cycle]
    launcher = ["python3", "ray_launcher.py", "{pelton}", "cycle", "resume", "{cycle}", "--token", "{token}", "--config", "{config}"]

The cluster is the one that RAY_ADDRESS names (Ray's own variable), or one of this machine that lives as long as the cycle. The nodes
need the program, the configuration and the lake under the same names; PELTON_RAY_CPUS and PELTON_RAY_GPUS say what the cycle takes
(1 and 0). The launcher ends when the cycle does, with its exit status; asked to end (SIGTERM), it asks the cycle to.
"""

import ctypes
import os
import signal
import subprocess
import sys

import ray

PR_SET_PDEATHSIG = 1


@ray.remote(max_concurrency=2)
class Cycle:
    """One process on a node; a second call ends it."""

    def __init__(self):
        self.child = None

    def run(self, command):
        node = ray.get_runtime_context().get_node_id()
        print(f"ray: node {node} runs {' '.join(command)}", flush=True)
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        # Ray carries an actor's lines to whoever made it.
        for line in self.child.stdout:
            print(line, end="", flush=True)
        return self.child.wait()

    def end(self):
        if self.child is not None:
            self.child.terminate()


def main(command):
    cpus, gpus = float(os.environ.get("PELTON_RAY_CPUS", "1")), float(os.environ.get("PELTON_RAY_GPUS", "0"))
    local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": max(1, round(cpus)), "include_dashboard": False}
    ray.init(logging_level="warning", **local)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    cycle = Cycle.options(num_cpus=cpus, num_gpus=gpus).remote()
    status = cycle.run.remote(command)
    while not ray.wait([status], timeout=0.5)[0]:
        if asked:
            asked.clear()
            cycle.end.remote()
    return ray.get(status)


def apart(command):
    """Calls `main` in a session of its own: Pelton signals the whole group, which would end a local cluster under its cycle."""
    child = os.fork()
    if child == 0:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        sys.exit(main(command))
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: os.kill(child, signal.SIGTERM))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(apart(sys.argv[1:]))
