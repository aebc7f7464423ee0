"""Copies with the process that sends them: from where, to where, until when, and what goes wrong."""

import errno
import logging
import os
import pwd
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.errors import RecordingError
from rtpproxy.recording.copier import Copier
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Stream, Teeing
from tests.fakes import make_session
from tests.recording.running import RunningProcess

HERE = LocalAddress(0, "127.0.0.1")
PORTS = (20100, 20102, 20104)


@dataclass
class Line:
    """What is to be copied, and where a test says that it goes."""

    stream: Stream
    out: Stream
    where: Endpoint | None

    def to(self):
        return self.where


class Stage(RunningProcess):
    """A copier, and sockets that copies are for."""

    def __init__(self):
        super().__init__(None)
        self.refuse = None
        self.opened = []
        self.copier = Copier(self.carrier, self._open)
        self.session = make_session()
        self.receivers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2)]
        for receiver in self.receivers:
            receiver.bind(("127.0.0.1", 0))
        self.absorbed = self.number = 0
        self.ended = []

    def __exit__(self, *_):
        super().__exit__()
        for receiver in self.receivers:
            receiver.close()

    def place(self, number=0):
        return Endpoint(*self.receivers[number].getsockname())

    def line(self, where, port=PORTS[0]):
        out = make_session().callee.rtp
        out.settle(HERE, port, 0.0)
        return Line(self.session.caller.rtp, out, where)

    def copy(self, *lines):
        def on_end(at):
            self.ended.append(side)
            side.stop(at)

        def absorb(at):
            self.absorbed += 1

        side = self.copier.copy("call: copies", lines, on_end=on_end, absorb=absorb)
        return side

    def send(self, side, count=1):
        """So many packets arrive. Returns them."""
        sent = []
        for _ in range(count):
            self.number += 1
            sent.append(b"%06d" % self.number)
            for stream in side.streams:
                stream.stream.received_packets += 1
                stream.packet(sent[-1], ("192.0.2.9", 4000), "192.0.2.1", time.monotonic())
        return sent

    def expect(self, packets, receiver=0):
        """Wait until just these have come, in this order. Returns where they came from."""
        found, sources = [], set()

        def is_there():
            try:
                while True:
                    data, source = self.receivers[receiver].recvfrom(2000)
                    found.append(data)
                    sources.add(source[1])
            except BlockingIOError:
                return len(found) >= len(packets)

        self.wait_for(is_there, f"{len(packets)} packets")
        assert found == packets
        return sources

    def _open(self, stream):
        if self.refuse is not None:
            raise self.refuse
        self.opened.append(stream.local_port)
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((stream.local.host, stream.local_port))
        return opened


@pytest.fixture
def stage():
    with Stage() as made:
        yield made


def test_copies_leave_from_their_port_in_order(stage, caplog):
    side = stage.copy(stage.line(stage.place(0)))
    sent = stage.send(side, 50)
    assert stage.expect(sent) == {PORTS[0]}
    with caplog.at_level(logging.INFO):
        last = stage.send(side)
        side.stop(time.monotonic())
        stage.wait_until_all_ended()
    stage.expect(last)
    assert "call: copies: 51 packets sent" in caplog.messages
    assert stage.copier.counts() == {"copies_open": 0, "copies_sent": 51, "copies_withheld": 0, "copies_lost": 0}


def test_several_lines_are_one_thing(stage, caplog):
    side = stage.copy(stage.line(stage.place(0)), stage.line(stage.place(1), PORTS[1]))
    sent = stage.send(side, 3)
    assert stage.expect(sent, 0) == {PORTS[0]}
    assert stage.expect(sent, 1) == {PORTS[1]}
    with caplog.at_level(logging.INFO):
        side.stop(time.monotonic())
        stage.wait_until_all_ended()
    assert "call: copies: 6 packets sent" in caplog.messages


def test_another_place_another_port_and_nowhere(stage, caplog):
    line = stage.line(stage.place(0))
    side = stage.copy(line)
    (stream,) = side.streams
    stage.expect(stage.send(side))
    line.where = stage.place(1)
    stream.look_again(1.0)
    stage.expect(stage.send(side), 1)
    assert stage.opened == [PORTS[0]]
    line.where = None
    stream.look_again(2.0)
    stage.send(side, 2)
    stage.wait_for(lambda: stage.copier.counts()["copies_withheld"] == 2, "two packets to be withheld")
    line.out.settle(HERE, PORTS[1], 0.0)
    line.where = stage.place(0)
    stream.look_again(3.0)
    stream.look_again(4.0)
    assert stage.opened == [PORTS[0], PORTS[1]]
    assert stage.expect(stage.send(side)) == {PORTS[1]}
    line.out.tos = 0x20
    stream.look_again(5.0)
    assert stage.opened == [PORTS[0], PORTS[1], PORTS[1]]
    stage.expect(stage.send(side))
    with caplog.at_level(logging.INFO):
        side.stop(time.monotonic())
        stage.wait_until_all_ended()
    assert "call: copies: 4 packets sent" in caplog.messages


@pytest.mark.parametrize("where", [None, Endpoint("2001:db8::9", 7000), Endpoint("fe80::1", 7000)])
def test_where_nothing_can_be_sent_no_socket_is_opened(stage, where):
    stage.copy(stage.line(where))
    assert stage.opened == []


def test_a_port_that_is_not_there_yet(stage):
    line = stage.line(stage.place(0), port=0)
    side = stage.copy(line)
    assert stage.opened == []
    line.out.settle(HERE, PORTS[0], 0.0)
    side.streams[0].look_again(1.0)
    stage.expect(stage.send(side))


def test_a_socket_that_cannot_be_opened(stage, caplog):
    stage.refuse = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    with pytest.raises(RecordingError, match=f"cannot send copies from port {PORTS[0]}: Cannot assign"):
        stage.copy(stage.line(stage.place(0)))
    stage.wait_until_all_ended()
    stage.refuse = None
    line = stage.line(stage.place(0))
    side = stage.copy(line)
    stage.expect(stage.send(side))
    stage.refuse = OSError(errno.EMFILE, "Too many open files")
    line.out.settle(HERE, PORTS[1], 0.0)
    side.streams[0].look_again(1.0)
    assert f"call: copies: nothing is sent to {stage.place(0)}: Too many open files" in caplog.messages
    stage.refuse = None
    side.streams[0].look_again(2.0)
    assert stage.expect(stage.send(side)) == {PORTS[1]}


def test_the_process_has_no_privileges_and_no_directory(stage):
    stage.copy(stage.line(stage.place(0)))

    def status():
        with open(f"/proc/{stage.pid}/status") as file:
            return dict(line.split(":\t", 1) for line in file.read().splitlines())

    stage.wait_for(lambda: status()["NoNewPrivs"] == "1", "the process to give up its privileges")
    assert {status()[name] for name in ("CapPrm", "CapEff", "CapInh")} == {"0" * 16}
    if os.geteuid() == 0:
        uid = pwd.getpwnam("nobody").pw_uid
        stage.wait_for(lambda: status()["Uid"].split() == [str(uid)] * 4, "the process to become nobody")
    stage.wait_for(lambda: os.readlink(f"/proc/{stage.pid}/cwd") == "/", "the process to leave its directory")


def test_a_process_that_dies_is_started_again_with_other_sockets(stage, caplog):
    """What it had sent and told is not lost; what it had not read, and what came meanwhile, is."""
    side = stage.copy(stage.line(stage.place(0)))
    stage.expect(stage.send(side, 3))
    stage.wait_for(lambda: stage.copier.counts()["copies_sent"] == 3, "the process to tell")
    first = stage.pid
    os.kill(first, signal.SIGSTOP)
    stage.send(side, 2)
    stage.run(0.01)
    os.kill(first, signal.SIGKILL)
    stage.wait_for(lambda: stage.process is None, "the death to be noticed")
    stage.send(side, 4)
    stage.wait_for(lambda: stage.process is not None, "another process")
    stage.expect(stage.send(side, 2))
    assert stage.opened == [PORTS[0]] * 2
    with caplog.at_level(logging.INFO):
        side.stop(time.monotonic())
        stage.wait_until_all_ended()
    assert "died (killed by signal 9); 1 files, copies and taps go on" in caplog.text
    assert "call: copies: 5 packets sent, 6 lost, among them 4 of the stream at port 0" in caplog.messages
    assert stage.copier.counts() == {"copies_open": 0, "copies_sent": 5, "copies_withheld": 0, "copies_lost": 6}


def test_no_socket_for_the_next_process(stage, caplog):
    """The copies end, and that is told."""
    side = stage.copy(stage.line(stage.place(0)), stage.line(stage.place(1), PORTS[1]))
    sent = stage.send(side, 3)
    for number in range(2):
        stage.expect(sent, number)
    stage.wait_for(lambda: stage.copier.counts()["copies_sent"] == 6, "the process to tell")
    stage.refuse = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait_for(lambda: stage.ended == [side], "the end")
    stage.wait_until_all_ended()
    assert "call: copies: 6 packets sent; failed: cannot send copies from port" in caplog.text


# Numbers in the ring


class FakeRing:
    fd, size_bytes, numbers, record_bytes = 0, 4096, "=QIHB", 64


def test_numbers_are_for_streams_with_a_ring_only(stage):
    side = stage.copy(stage.line(None))
    assert stage.carrier.tee(side.streams) == 0
    stage.carrier._ring = FakeRing()
    assert stage.carrier.tee([]) == 0
    assert stage.carrier.tee([*side.streams, object()]) == 0
    assert [stage.carrier.tee(side.streams) for _ in range(2)] == [1, 2]
    stage.carrier._ring = None


def test_old_numbers_are_forgotten(stage):
    side, other = stage.copy(stage.line(None)), stage.copy(stage.line(None, PORTS[1]))
    stage.carrier._ring = FakeRing()
    for _ in range(100):
        stage.carrier.tee(side.streams)
    assert side.streams[0].tees == deque(range(37, 101))
    assert set(stage.carrier._tees) == set(range(37, 101))
    stage.carrier.tee([*side.streams, *other.streams])
    stage.carrier._ring = None
    side.stop(time.monotonic())
    stage.wait_for(lambda: len(stage.carrier._groups) == 1, "the end of one")
    assert stage.carrier._tees == {101: list(other.streams)}


def test_what_the_kernel_teed_and_missed_is_counted(stage, caplog):
    """Of five packets that the kernel forwarded, two found no room in the ring, and the process found none there."""
    side = stage.copy(stage.line(None))
    (taken,) = side.streams
    taken.tees.append(1)
    taken.stream.teeing = Teeing(packets=3, missed_packets=2)
    assert stage.copier.counts()["copies_lost"] == 2
    side.stop(time.monotonic())
    assert stage.absorbed
    stage.wait_until_all_ended()
    assert "call: copies: 0 packets sent, 2 lost, among them 2 of the stream at port 0" in caplog.messages
    assert stage.copier.counts()["copies_lost"] == 2
