"""Receive buffers of real sockets on the loopback interface; the time that passes is the test's."""

import itertools
import logging
import socket
import struct
import time
from typing import NamedTuple

import pytest

from rtpproxy.media.age_limit import PRECISION_S, AgeLimit
from rtpproxy.media.receive_buffer import FILL, GROWTH, LASTING, MIN_BYTES, ReceiveBuffer
from tests.fakes import ShiftedClocks
from tests.media.stamping import wait_for_stamps
from tests.waiting import DEADLINE_S, wait_for

LIMIT_S = 0.2
FULL_BYTES = 100_000
OVERHEAD = 2
"""The kernel doubles what is asked for, to have room for its own data."""


def resize(owner, size_bytes):
    owner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)


class ShiftedBuffer(ReceiveBuffer):
    """Tells timestamps as the kernel would have noted them if its clock were the test's."""

    __slots__ = ("shift_s",)

    def __init__(self, *about):
        self.shift_s = 0.0
        super().__init__(*about)

    def stamp_ns(self):
        return super().stamp_ns() + round(self.shift_s * 1e9)


class Port:
    """A socket with a receive buffer, somebody who sends to it, and the loop of those who read such sockets."""

    def __init__(self, limit_s, host="127.0.0.1", *, is_noted=False):
        self.clocks = ShiftedClocks()
        self._shifts = {}
        """By number sent: how far the clocks were ahead of the kernel's then."""
        self.limit = AgeLimit(limit_s, self.clocks.monotonic, self.clocks.wall, is_noted=is_noted)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.receiver = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.buffer = ShiftedBuffer(self.receiver, FULL_BYTES, resize, self.limit)
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
                data = self.receiver.recv(100)
            except BlockingIOError:
                self.buffer.emptied(now)
                break
            self.buffer.shift_s = self._shifts[data[0]]
            is_due = is_watched and self.clocks.monotonic() >= self.buffer.fresh_until
            if not (is_due and self.buffer.is_old()):
                taken.append(data[0])
        return taken


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


def test_datagrams_are_looked_at_only_after_the_buffer_was_not_found_empty_for_long(port):
    for _ in range(100):
        port.send(1)
        assert port.turn() == [1]
        if port.clocks.monotonic() <= port.buffer.watch_from:
            break  # else a busy machine took its time
    else:
        raise AssertionError("never found empty twice within half the limit")
    port.clocks.passed_s += LIMIT_S
    assert port.clocks.monotonic() > port.buffer.watch_from


def test_timestamps_tell_when_each_datagram_arrived_whenever_it_is_taken(port):
    """Nothing comes with the datagrams: so those that nobody asks about cost nothing."""
    port.send(0)
    bounds = []
    for number in range(1, 6):
        before = time.time_ns()
        port.send(number)
        bounds.append((before, time.time_ns()))
    port.send(6)
    port.receiver.recv(1)
    for number, (before, after) in enumerate(bounds, 1):
        data, ancillary, _, _ = port.receiver.recvmsg(1, 1000)
        assert (data[0], ancillary) == (number, [])
        assert before <= port.buffer.stamp_ns() <= after


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


@pytest.mark.parametrize("step", [3600.0, 1.0, -1.0])
def test_dropping_goes_on_after_a_step_that_came_while_the_buffer_was_empty(port, step):
    """Also where what came after the step looks younger than it is."""
    port.turn()
    port.clocks.stepped_s = step
    port.send(2)
    port.clocks.passed_s += 2 * LIMIT_S
    port.turn()
    port.send(3)
    port.clocks.passed_s += 2 * LIMIT_S
    assert port.turn() == []


def test_no_limit(port):
    """The kernel is not asked to note when datagrams arrive, either, until somebody wants to know."""
    unlimited = Port(0.0)
    unlimited.send(1)
    unlimited.clocks.passed_s += 1e6
    assert unlimited.turn() == [1]
    unlimited.buffer.shift_s = 0
    asked_at = time.time_ns()
    assert unlimited.buffer.stamp_ns() >= asked_at
    unlimited.send(2)
    asked_at = time.time_ns()
    assert unlimited.turn() == [2]
    unlimited.buffer.shift_s = 0
    assert unlimited.buffer.stamp_ns() < asked_at
    unlimited.close()


def test_arrivals_are_noted_without_a_limit_where_they_are_wanted(port):
    noted = Port(0.0, is_noted=True)
    noted.send(1)
    asked_at = time.time_ns()
    noted.receiver.recv(1)
    assert noted.buffer.stamp_ns() < asked_at
    noted.close()


class Fitted(NamedTuple):
    """A buffer that was made smaller: what its sizes came from."""

    waited_s: tuple[float, float]
    """Least and most that the first datagram waited."""
    queued: tuple[int, int]
    """Bytes with the kernel's own data, after that was taken, and before."""


def overload(port, *numbers):
    """Have userspace take one of these when they are old, again and again, until the buffer is smaller."""

    def fit():
        port.turn()
        before = port.clocks.monotonic()
        port.send(*numbers)
        sent = port.clocks.monotonic()
        queued = port.queued
        port.clocks.passed_s += 2 * LIMIT_S
        at_least_s = port.clocks.monotonic() - sent
        assert port.turn(1) == []
        fitted = Fitted((at_least_s, port.clocks.monotonic() - before), (port.queued, queued))
        return fitted if port.size < FULL_BYTES else None

    # A machine that is busy for long between two of these makes each a pause of its own.
    return wait_for(fit, DEADLINE_S, "the buffer to be made smaller")


def test_buffer_is_made_as_small_as_what_is_read_within_the_limit(port):
    fitted = overload(port, *range(200))
    assert fitted.queued[0] > 2 * OVERHEAD * MIN_BYTES
    least = fitted.queued[0] / OVERHEAD * FILL * LIMIT_S / fitted.waited_s[1]
    most = fitted.queued[1] / OVERHEAD * FILL * LIMIT_S / (fitted.waited_s[0] - 2 * PRECISION_S)
    assert int(least) <= port.size <= most


def test_buffer_stays_as_large_as_it_is_after_a_pause(port):
    """However much came meanwhile, and however long it takes until the next pause."""
    for _ in range(3):
        port.send(*range(100))
        port.clocks.passed_s += (LASTING + 1) * LIMIT_S
        assert port.turn() == []
        assert port.size == FULL_BYTES


def test_buffer_is_not_resized_for_each_datagram(port):
    overload(port, *range(200))
    before = port.size
    port.turn(10)
    assert port.size == before


def test_buffer_stays_large_enough_for_some(port):
    overload(port, 1)
    assert port.size == MIN_BYTES
    port.send(*range(4))
    assert port.buffer.no_room() == 0


def test_what_there_is_no_room_for_is_counted(port):
    overload(port, 1)
    old_before = port.limit.dropped
    port.send(*range(200))
    taken = len(port.turn()) + port.limit.dropped - old_before
    assert 0 < taken < 200
    assert port.buffer.no_room() == 200 - taken


def test_buffer_grows_again_once_nothing_waits_for_long(port):
    """By steps, up to what it was."""
    overload(port, 1)
    sizes = [port.size]

    def is_full_again():
        port.clocks.passed_s += 1.1 * LIMIT_S
        port.send(1, 2, 3, 4)
        port.turn()
        sizes.append(port.size)
        return port.size == FULL_BYTES

    wait_for(is_full_again, DEADLINE_S, "the buffer to be as large as before")
    assert all(size <= GROWTH * before for before, size in itertools.pairwise(sizes))


def test_buffer_grows_once_within_the_limit(port):
    """A machine that is busy for longer may make it twice."""
    overload(port, 1)
    port.clocks.passed_s += LIMIT_S
    started = port.clocks.monotonic()
    for _ in range(10):
        port.turn()
    size = port.size
    if port.clocks.monotonic() - started < LIMIT_S:
        assert size == GROWTH * MIN_BYTES


def test_buffer_does_not_grow_while_anything_is_left_or_waits_for_long(port):
    overload(port, 1)
    for _ in range(10):
        port.clocks.passed_s += LIMIT_S
        port.send(1, 2)
        port.turn(1)
        assert port.size == MIN_BYTES
        port.clocks.passed_s += 0.6 * LIMIT_S
        port.turn()
        assert port.size == MIN_BYTES


def test_log_tells_of_it_ever_more_rarely(port, caplog):
    caplog.set_level(logging.WARNING, "rtpproxy")
    port.send(*range(9))
    port.clocks.passed_s += 2 * LIMIT_S
    port.turn()
    assert caplog.messages == [
        f"userspace does not keep up: packets dropped because they waited longer than 200 ms: {count}"
        for count in (1, 2, 4, 8)
    ]
