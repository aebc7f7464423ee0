"""A relay in a time namespace, whose monotonic clock is not the kernel's (time_namespaces(7))."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.netns_call.call import DEADLINE_S, KERNEL, STEERED, TC, Call
from tests.netns_call.traffic import Traffic, both_ways
from tests.running import PROGRAM, RunningRelay
from tests.waiting import wait_for

IDLE_S = 3
AHEAD_S = 100_000
BEHIND_S = -int(time.monotonic() / 2)
"""No clock may be below zero."""


REFUSAL = (
    "rtpproxy: this process is in another time namespace than its children will be, so its clock cannot be compared "
    "with the kernel's: start it as a child of the process that made the namespace (unshare --fork)"
)
BETWEEN = """
import ctypes, sys
from rtpproxy.cli.command import main
if ctypes.CDLL(None).unshare(0x80):  # CLONE_NEWTIME
    sys.exit("unshare failed")
with open("/proc/self/timens_offsets", "w") as offsets:
    offsets.write(f"monotonic {sys.argv[1]} 0")
del sys.argv[:2]
main()
"""
"""Runs the relay in a process whose children will be in the time namespace, and which is not itself."""


def in_namespace(offset_s):
    """A prefix that runs a program in a time namespace. Before Linux 6.3 only a child of unshare(1) would be in it."""
    enter = ("nsenter", "--no-fork", "--time=/proc/self/ns/time_for_children")
    return ("unshare", "--time", "--monotonic", str(offset_s), *enter)


@pytest.mark.parametrize("way", [KERNEL, TC, STEERED], ids=lambda way: way.name)
@pytest.mark.parametrize("offset_s", [AHEAD_S, BEHIND_S], ids=["ahead", "behind"])
def test_calls_live_as_long_as_media_flow(topology, tmp_path, way, offset_s):
    prefix = in_namespace(offset_s)
    with (
        RunningRelay(tmp_path, *way.options, "-T", str(IDLE_S), host=topology.relay, prefix=prefix) as relay,
        Call(relay, topology.caller, topology.callee) as call,
    ):
        assert "clock: this time namespace is " in relay.log
        call.establish(way)
        with Traffic(*both_ways(call)) as traffic:
            end = time.monotonic() + 3 * IDLE_S
            while time.monotonic() < end:
                traffic.more(200)
                assert relay.totals()["active sessions"] == 1
            traffic.finish()
        wait_for(lambda: relay.totals()["active sessions"] == 0, DEADLINE_S, "the idle session to end")


@pytest.mark.parametrize("offset_s", [AHEAD_S, BEHIND_S], ids=["ahead", "behind"])
def test_started_by_the_process_that_makes_the_namespace(topology, tmp_path, offset_s):
    """Linux 6.3 and later put it into the namespace when it executes the relay; before, the relay refuses to start."""
    prefix = "unshare", "--time", "--monotonic", str(offset_s)
    relay = RunningRelay(tmp_path, host=topology.relay, prefix=prefix)
    with contextlib.ExitStack() as stack:
        stack.push(relay)
        try:
            relay.start()
        except AssertionError:
            assert relay.log.splitlines() == [REFUSAL]
            return
        assert "clock: this time namespace is " in relay.log
        call = stack.enter_context(Call(relay, topology.caller, topology.callee))
        call.establish(KERNEL)


def between(offset_s):
    """A prefix that runs the relay as `BETWEEN`."""
    return sys.executable, "-c", BETWEEN, str(offset_s)


@pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name)
def test_process_outside_whose_children_are_inside(topology, tmp_path, way):
    """The kernel shows the offset of the children's namespace, and not that of its own: it refuses, in one line."""
    relay = RunningRelay(tmp_path, *way.options, host=topology.relay, prefix=between(AHEAD_S))
    with pytest.raises(AssertionError):
        relay.start()
    assert (relay.process.returncode, relay.log.splitlines()) == (1, [REFUSAL])


def test_daemon_of_a_process_outside_is_inside(topology, tmp_path):
    """It forks, and is a child; so it knows its offset, and serves."""
    pid_file = tmp_path / "pid"
    options = ["-s", f"unix:{tmp_path}/sock", "-p", str(pid_file)]
    done = topology.relay.run([*between(AHEAD_S), PROGRAM, *options], check=False)
    assert done.returncode == 0, done.stderr
    daemon = Path("/proc", pid_file.read_text().strip())
    try:
        ours, theirs = (os.readlink(process / "ns/time") for process in (Path("/proc/self"), daemon))
        assert theirs == os.readlink(daemon / "ns/time_for_children") != ours
    finally:
        os.kill(int(daemon.name), signal.SIGTERM)
        wait_for(lambda: not pid_file.exists(), DEADLINE_S, "the daemon to end")
