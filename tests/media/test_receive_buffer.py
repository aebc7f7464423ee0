"""Receive buffers of real sockets on the loopback interface; the time that passes is the test's."""

import logging
import socket
import struct

import pytest

from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.receive_buffer import FILL, GROWTH, MIN_BYTES, STAMP_BYTES, ReceiveBuffer
from tests.fakes import ShiftedClocks
from tests.media.stamping import wait_for_stamps
from tests.waiting import DEADLINE_S, wait_for

LIMIT_S = 0.2
FULL_BYTES = 100_000
SO_TIMESTAMPING, RX_SOFTWARE = 37, 1 << 3
OVERHEAD = 2
"""The kernel doubles what is asked for, to have room for its own data."""


def resize(owner, size_bytes):
    owner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)


class Port:
    """A socket with a receive buffer, somebody who sends to it, and the loop of those who read such sockets."""

    def __init__(self, limit_s, host="127.0.0.1"):
        self.clocks = ShiftedClocks()
        self._shifts = {}
        """By number sent: how far the clocks were ahead of the kernel's then."""
        self.limit = AgeLimit(limit_s, self.clocks.monotonic, self.clocks.wall)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.receiver = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.buffer = ReceiveBuffer(self.receiver, FULL_BYTES, resize, self.limit)
        self.receiver.bind((host, 0))
        self.sender = socket.socket(family, socket.SOCK_DGRAM)
        self.sender.connect(self.receiver.getsockname())

    def close(self):
        self.receiver.close()
        self.sender.close()

    @property
    def size(self):
        return self.receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) / OVERHEAD

    @property
    def queued(self):
        """Bytes in the buffer, with the kernel's own data (SO_MEMINFO)."""
        return struct.unpack("=I", self.receiver.getsockopt(socket.SOL_SOCKET, 55, 4))[0]

    def send(self, *numbers):
        for number in numbers:
            self._shifts[number] = self.clocks.passed_s + self.clocks.stepped_s
            self.sender.send(bytes([number]))

    def turn(self, most=1000):
        """Read as much as there is, but no more than `most`; what is not too old."""
        now = self.clocks.monotonic()
        if is_watched := now > self.buffer.watch_from:
            self.buffer.watch(now)
        taken = []
        for _ in range(most):
            try:
                data, ancillary, _, _ = self.receiver.recvmsg(100, STAMP_BYTES)
            except BlockingIOError:
                self.buffer.emptied(now)
                break
            if is_watched:
                ancillary = [_shifted(*ancillary[0], self._shifts[data[0]])]
            else:
                assert not ancillary
            is_due = is_watched and self.clocks.monotonic() >= self.buffer.fresh_until
            if not (is_due and self.buffer.is_old(ancillary)):
                taken.append(data[0])
        return taken


def _shifted(level, kind, data, seconds):
    """A timestamp as the kernel would have noted it if its clock were the test's."""
    whole, nanoseconds = struct.unpack_from("@ll", data)
    stamp = round((whole + seconds) * 1e9) + nanoseconds
    return level, kind, struct.pack("@ll", *divmod(stamp, 1_000_000_000)) + data[16:]


@pytest.fixture(scope="module", autouse=True)
def stamps():
    with wait_for_stamps():
        yield


@pytest.fixture(params=["127.0.0.1", "::1"])
def port(request):
    port = Port(LIMIT_S, request.param)
    yield port
    port.close()


def test_what_waited_too_long_is_dropped_and_counted(port):
    port.send(1, 2, 3)
    port.clocks.passed_s += 1.5 * LIMIT_S
    port.send(4, 5)
    assert port.turn() == [4, 5]
    assert port.limit.dropped == 3


def test_what_waited_less_is_kept(port):
    """A machine that is busy for the rest of the limit makes one old in truth."""
    port.send(1, 2, 3)
    port.clocks.passed_s += 0.6 * LIMIT_S
    started = port.clocks.monotonic()
    taken = port.turn()
    if port.clocks.monotonic() - started < 0.3 * LIMIT_S:
        assert taken == [1, 2, 3]
        assert port.limit.dropped == 0


def test_timestamps_are_asked_for_only_after_the_buffer_was_not_found_empty_for_long(port):
    for _ in range(100):
        port.send(1)
        assert port.turn() == [1]
        if port.clocks.monotonic() <= port.buffer.watch_from:
            break  # else a busy machine took its time
    else:
        raise AssertionError("never found empty twice within half the limit")
    port.send(1)
    assert port.receiver.recvmsg(1, STAMP_BYTES)[1] == []
    port.clocks.passed_s += LIMIT_S
    assert port.clocks.monotonic() > port.buffer.watch_from


@pytest.mark.parametrize("step", [3600.0, 1.0, -1.0, -3600.0])
def test_step_of_the_clock_drops_nothing_and_dropping_goes_on_after_it(port, step):
    port.send(1, 2)
    port.clocks.passed_s += 1.5 * LIMIT_S
    port.clocks.stepped_s = step
    assert port.turn(1) == [1]
    port.clocks.passed_s += 2 * LIMIT_S
    # The second has waited for longer than the limit now, but its timestamp is of before the step: it cannot be right.
    port.send(3)
    assert port.turn() == [2, 3]
    port.send(4)
    port.clocks.passed_s += 2 * LIMIT_S
    assert port.turn() == []
    assert port.limit.dropped == 1


def test_no_limit(port):
    """The kernel is not asked to note when datagrams arrive, either."""
    unlimited = Port(0.0)
    unlimited.send(1)
    unlimited.clocks.passed_s += 1e6
    assert unlimited.turn() == [1]
    timestamping = [one.receiver.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING) for one in (unlimited, port)]
    assert timestamping == [0, RX_SOFTWARE]
    unlimited.close()


def test_buffer_is_made_as_small_as_what_is_read_within_the_limit(port):
    """And as large as before, once it is found empty again and again."""
    started = port.clocks.monotonic()
    port.send(*range(200))
    queued = port.queued
    port.clocks.passed_s += 2 * LIMIT_S
    assert port.turn(1) == []
    longest_s = port.clocks.monotonic() - started
    least = port.queued / OVERHEAD * FILL * LIMIT_S / longest_s
    assert MIN_BYTES < least <= port.size <= 1.01 * queued / OVERHEAD * FILL / 2
    assert port.turn() == []
    # Nothing came meanwhile.
    before = port.size
    port.clocks.passed_s += 2 * LIMIT_S
    wait_for(lambda: port.turn() or port.size > before, DEADLINE_S, "the buffer to grow")
    assert port.size == int(GROWTH * before)

    def is_full_again():
        port.clocks.passed_s += 2 * LIMIT_S
        port.turn()
        port.turn()
        return port.size == FULL_BYTES

    wait_for(is_full_again, DEADLINE_S, "the buffer to be as large as before")


def test_buffer_is_not_resized_for_each_datagram(port):
    port.send(*range(200))
    port.clocks.passed_s += 2 * LIMIT_S
    port.turn(1)
    before = port.size
    port.turn(10)
    assert port.size == before


def test_buffer_stays_large_enough_for_some(port):
    port.send(1)
    port.clocks.passed_s += 100 * LIMIT_S
    port.turn(1)
    assert port.size == MIN_BYTES
    port.send(*range(4))
    assert port.turn() == [0, 1, 2, 3]
    assert port.buffer.no_room() == 0


def test_what_there_is_no_room_for_is_counted(port):
    port.send(1)
    port.clocks.passed_s += 100 * LIMIT_S
    port.turn(1)
    port.send(*range(200))
    taken = port.turn()
    assert 0 < len(taken) < 200
    assert taken == list(range(len(taken)))
    assert port.buffer.no_room() == 200 - len(taken)


def test_buffer_grows_again_with_what_is_read(port):
    """Also before it is found empty."""
    port.send(1)
    port.clocks.passed_s += 100 * LIMIT_S
    assert port.turn() == []
    assert port.size == MIN_BYTES

    def is_full_again():
        port.clocks.passed_s += 1.1 * LIMIT_S
        port.send(1, 2, 3, 4)
        port.turn(1)
        size = port.size
        port.turn()
        return size == FULL_BYTES

    wait_for(is_full_again, DEADLINE_S, "the buffer to be as large as before")


def test_log_tells_of_it_ever_more_rarely(port, caplog):
    caplog.set_level(logging.WARNING, "rtpproxy")
    port.send(*range(9))
    port.clocks.passed_s += 2 * LIMIT_S
    port.turn()
    assert caplog.messages == [
        f"userspace does not keep up: packets dropped because they waited longer than 200 ms: {count}"
        for count in (1, 2, 4, 8)
    ]
