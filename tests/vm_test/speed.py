"""Measures the traffic generator: `python -m tests.vm_test.speed`, as root, with options of vm-test/traffic.py.

The relay runs in a namespace beside it, with its kernel tier. The generator has core 1, the relay core 0.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.netns import Topology
from tests.running import RunningRelay
from tests.vm_test.stage import Stage
from tests.workers import enter_own_namespaces

DEFAULTS = ["--calls", "200", "--rate", "50", "--duration", "20"]


def main() -> None:
    """Start relay and generator; the generator's table, and the processor time it took."""
    enter_own_namespaces()
    with Topology(ipv6=True) as topology, tempfile.TemporaryDirectory() as directory:
        stage = Stage.of(topology)
        relay = RunningRelay(Path(directory), host=stage.relay, prefix=["taskset", "-c", "0"])
        with relay:
            command = stage.command(f"unix:{relay.socket_path}", *DEFAULTS, *sys.argv[1:])
            core = str((os.cpu_count() or 1) - 1)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            status = subprocess.run(
                ["ip", "netns", "exec", stage.outside.ns, "taskset", "-c", core, *command], check=False
            ).returncode
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            own, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
            print(
                f"exit status {status}; processor time of the generator: {own:.2f} s of its own, {system:.2f} s system"
            )


if __name__ == "__main__":
    main()
