"""A relay in a time namespace, whose monotonic clock is not the kernel's (time_namespaces(7))."""

import time

import pytest

from tests.netns_call.call import DEADLINE_S, KERNEL, STEERED, TC, Call
from tests.netns_call.traffic import Traffic, both_ways
from tests.running import RunningRelay
from tests.waiting import wait_for

IDLE_S = 3
AHEAD_S = 100_000
BEHIND_S = -int(time.monotonic() / 2)
"""No clock may be below zero."""


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
