"""Commands in namespaces of their own: whatever ends them, nothing of them is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import enclosure

from tests.vm_test import FOLDER
from tests.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

RUN = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in the background
sys.path.append({FOLDER!r})
from lab import enclosure
enclosure.GRACE_S = 0.1
sys.exit(enclosure.run(["sh", "-c", sys.argv[1]], net=True, deadline_s=3600))
"""


def processes_with(mark):
    """Those of whatever process namespace that have this in their command line, but for shells that name others."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if mark.encode() in content:
            found.append(int(path.parent.name))
    return found


def test_status_and_own_networks():
    assert enclosure.run(["sh", "-c", "exit 7"], deadline_s=DEADLINE_S) == 7
    assert enclosure.run(["sh", "-c", "[ $(ip -o link | wc -l) = 1 ]"], net=True, deadline_s=DEADLINE_S) == 0


def test_deadline_ends_all(tmp_path):
    mark = f"86{os.getpid()}1"
    with pytest.raises(enclosure.DeadlineError, match=r"not at its end after 0\.5 s"):
        enclosure.run(["sh", "-c", f"sleep {mark} & setsid sleep {mark}"], deadline_s=0.5)
    wait_for(lambda: not processes_with(mark), DEADLINE_S, "the end of all processes")


@pytest.mark.parametrize("count", [2, 3, 4, 6])
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda one: one.name
)
def test_signals_end_all(number, count):
    """SIGKILL leaves the runner no time for anything; the kernel ends the rest."""
    mark = f"86{os.getpid()}9{number.value:02}{count}"
    runner = subprocess.Popen([sys.executable, "-c", RUN, f"setsid sleep {mark} & sleep {mark}; true"])
    wait_for(lambda: len(processes_with(mark)) >= count, DEADLINE_S, f"{count} processes")
    runner.send_signal(number)
    runner.wait(DEADLINE_S)
    wait_for(lambda: not processes_with(mark), DEADLINE_S, "the end of all processes")
    assert runner.returncode != 0
