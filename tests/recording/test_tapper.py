"""Taps with the process that looks: what it finds, what is counted, and what becomes of them when it dies."""

import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from rtpproxy.recording.tapper import Tapper
from rtpproxy.rtp.telephone_events import decode
from rtpproxy.session.session import Stream, Teeing
from tests.recording.dtmf_packets import event_packet, pressed
from tests.recording.running import RunningProcess, session_with_ports


@dataclass
class Tap:
    streams: Sequence[Stream]
    kind: str = "dtmf"
    settings: bytes = b""
    payload_type: int | None = 101


class Stage(RunningProcess):
    """A tapper, and what was found."""

    def __init__(self):
        super().__init__(None)
        self.tapper = Tapper(self.carrier)
        self.session = session_with_ports()
        self.found = []
        self.absorbed = 0

    @property
    def digits(self):
        return b"".join(decode(one).digit for one in self.found)

    def tap(self, **fields):
        def absorb(at):
            self.absorbed += 1

        side = self.tapper.tap(
            "call: dtmf tap",
            Tap([self.session.caller.rtp], **fields),
            on_found=self.found.append,
            on_end=lambda at: side.stop(at),
            absorb=absorb,
        )
        side.begin()
        return side

    def send(self, side, *payloads):
        for payload in payloads:
            side.streams[0].packet(payload, ("192.0.2.9", 4000), "192.0.2.1", time.monotonic())


@pytest.fixture
def stage():
    with Stage() as made:
        yield made


def test_what_is_found_is_told(stage, caplog):
    side = stage.tap()
    assert side.streams[0].payload_type == 101
    stage.send(side, *pressed(1000, code=1), *pressed(2000, code=2, payload_type=102), *pressed(3000, code=3))
    stage.wait_for(lambda: stage.digits == b"13", "two digits")
    assert stage.tapper.counts()["taps_open"] == 1
    with caplog.at_level(logging.INFO):
        side.stop(time.monotonic())
        stage.wait_until_all_ended()
    assert "call: dtmf tap: 6 packets watched" in caplog.messages
    assert stage.tapper.counts() == {"taps_open": 0, "taps_packets": 6, "taps_lost": 0}
    assert stage.absorbed


def test_without_taps_nothing_is_counted(stage):
    assert stage.tapper.counts() == {}
    assert stage.process is None


def test_what_arrived_before_it_was_stopped_is_found(stage):
    side = stage.tap()
    stage.send(side, *pressed(1000), *[event_packet(2000, code=2)] * 2)
    side.stop(time.monotonic())
    stage.wait_until_all_ended()
    assert stage.digits == b"52"


def test_progress_is_told(stage):
    side = stage.tap()
    stage.send(side, *pressed(1000))
    stage.wait_for(lambda: stage.tapper.counts()["taps_packets"] == 2, "the count")


def test_all_packets_of_several_streams(stage):
    """As of RTCP, whose packets have no payload type."""
    stage.session.callee.rtp.received_packets = 5
    side = stage.tapper.tap(
        "call: dtmf tap",
        Tap([stage.session.caller.rtp, stage.session.callee.rtp], payload_type=None),
        on_found=stage.found.append,
        on_end=lambda at: side.stop(at),
        absorb=lambda at: None,
    )
    side.begin()
    for stream, code in zip(side.streams, (1, 2), strict=True):
        for data in pressed(1000 * code, code=code, ssrc=code):
            stream.packet(data, ("192.0.2.9", 4000), "192.0.2.1", time.monotonic())
    stage.wait_for(lambda: stage.digits == b"12", "two digits")


def test_a_process_that_dies_is_started_again_and_what_it_lost_is_counted(stage, caplog):
    side = stage.tap()
    stage.send(side, *pressed(1000, code=1))
    stage.wait_for(lambda: stage.tapper.counts()["taps_packets"] == 2, "the count")
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait_for(lambda: stage.process is None, "the death to be noticed")
    stage.send(side, *pressed(2000, code=2))
    stage.wait_for(lambda: stage.process is not None, "another process")
    assert "died (killed by signal 9); 1 files, copies and taps go on" in caplog.text
    stage.send(side, *pressed(3000, code=3))
    stage.wait_for(lambda: stage.digits == b"13", "the digit that came after it")
    side.stop(time.monotonic())
    stage.wait_until_all_ended()
    assert stage.tapper.counts() == {"taps_open": 0, "taps_packets": 4, "taps_lost": 2}
    assert "call: dtmf tap: 4 packets watched, 2 lost" in caplog.text


def test_what_the_kernel_teed_and_missed_is_counted(stage):
    """Of five packets that the kernel was to tee, two found no room in the ring, and the process found none there."""
    side = stage.tap()
    (taken,) = side.streams
    taken.tees.append(1)
    taken.stream.teeing = Teeing(packets=3, missed_packets=2)
    assert stage.tapper.counts()["taps_lost"] == 2
    assert taken.teed_so_far == 3
