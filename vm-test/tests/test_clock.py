"""Somebody steps the clock of the machine: nowhere else may a test do that."""

import pytest
from lab.gateway import SOURCE

STEPS = """
import os, select, time
from rtpproxy.recording.clock_steps import ClockSteps

os.seteuid(65534)
steps = ClockSteps()
os.seteuid(0)

def is_told():
    return bool(select.select([steps], [], [], 0)[0])

assert not is_told()
for step_s in (3600, -3600, 0.001, -0.001):
    time.clock_settime(time.CLOCK_REALTIME, time.time() + step_s)
    assert is_told(), step_s
    steps.take()
    assert not is_told(), step_s
"""
RECORDED = """
import pathlib, tempfile, time
from tests.recording.packets import read_adhoc
from tests.recording.running import RunningRecorder, session_with_ports

STEP_S, SHORTLY_S = 3600, 0.000_2
with tempfile.TemporaryDirectory() as directory, RunningRecorder(pathlib.Path(directory)) as running:
    side = running.record(session_with_ports())
    running.send(side, b"first")
    running.wait_for(lambda: (running.spool / "call=f.o.rtp").stat().st_size, "the process that writes")
    distance, begin = time.time() - time.monotonic(), time.monotonic()
    time.clock_settime(time.CLOCK_REALTIME, time.time() + STEP_S)
    try:
        running.send(side, b"shortly before", now=begin - SHORTLY_S)
        running.run(1.0)
        later = time.monotonic()
        running.send(side, b"later", now=later)
        side.stop(later)
        running.wait_until_all_ended()
        arrived = [one.arrived - distance for one in read_adhoc(running.content("call=f.o.rtp"))]
        assert abs(arrived[1] - (begin - SHORTLY_S)) < 0.001, arrived
        assert abs(arrived[2] - (later + STEP_S)) < 0.1, arrived
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - STEP_S)
"""


@pytest.mark.parametrize("script", [STEPS, RECORDED], ids=["steps", "recorded"])
def test_step_of_the_clock(gateway, script):
    """The kernel tells of each; what was recorded shortly before one keeps its time of day."""
    gateway.guest.run("/usr/bin/env", f"PYTHONPATH={SOURCE}", f"{SOURCE}/.venv/bin/python", "-c", script)
