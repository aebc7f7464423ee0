"""The reader's side of the ring, on memory that the test writes. The kernel's side: tests/bpf/test_tee.py."""

import contextlib
import mmap
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.recording.ring import Ring

SIZE = 4096
NUMBERS = "=QIHB"
RECORD = struct.Struct(NUMBERS + "x48s")
BUSY, DISCARD = 1 << 31, 1 << 30


class Kernel:
    """The writer's side, as kernel/bpf/ringbuf.c has it."""

    def __init__(self, started_at=0):
        self.fd = os.memfd_create("ring")
        page = mmap.PAGESIZE
        os.ftruncate(self.fd, 2 * page + 2 * SIZE)
        self.memory = mmap.mmap(self.fd, 0)
        self.position = started_at
        self._data_at = 2 * page
        self._put_number(0, started_at)
        self._put_number(page, started_at)

    def close(self):
        self.memory.close()
        os.close(self.fd)

    def _put_number(self, at, number):
        struct.pack_into("=Q", self.memory, at, number)

    def _put(self, at, data):
        """Where it is mapped twice, what goes beyond the end is at the beginning as well."""
        for number, byte in enumerate(data):
            place = (at + number) % SIZE
            self.memory[self._data_at + place] = self.memory[self._data_at + SIZE + place] = byte

    def write(self, tee, packet, *, arrived_ns=5, flags=0, room=None):
        """Write a record with room for a longer packet. Returns its place."""
        lead = 48 if packet[0] >> 4 == 6 else 28
        headers, payload = packet[:lead].rjust(48, b"\xee"), packet[lead:]
        body = RECORD.pack(arrived_ns, tee, len(payload), lead == 48, headers) + payload
        body = body.ljust(RECORD.size + (room or 0), b"\xdd")
        place = self.position
        self._put(place, struct.pack("=II", len(body) | flags, 77) + body)
        self.position += (8 + len(body) + 7) // 8 * 8
        self._put_number(mmap.PAGESIZE, self.position)
        return place

    def set_flags(self, place, flags):
        (length,) = struct.unpack_from("=I", self.memory, self._data_at + place % SIZE)
        self._put(place, struct.pack("=I", length & ~(BUSY | DISCARD) | flags))


@pytest.fixture
def kernel():
    with contextlib.closing(Kernel()) as kernel:
        yield kernel


@pytest.fixture
def ring(kernel):
    with contextlib.closing(Ring(kernel.fd, SIZE, NUMBERS, RECORD.size)) as ring:
        yield ring


def ipv4(payload):
    return b"\x45" + bytes(range(1, 28)) + payload


def ipv6(payload):
    return b"\x60" + bytes(range(1, 48)) + payload


def read(ring, most=1000):
    return [(arrived_ns, tee, bytes(packet)) for arrived_ns, tee, packet in ring.records(most)]


def test_nothing(ring):
    assert read(ring) == []
    assert ring.produced == ring.consumed == 0


def test_packets_of_both_families(kernel, ring):
    packets = ipv4(b"abc"), ipv6(b""), ipv4(b""), ipv6(b"12345678")
    for number, packet in enumerate(packets):
        kernel.write(number, packet, arrived_ns=1 << 40 | number, room=64)
    assert read(ring) == [(1 << 40 | number, number, packet) for number, packet in enumerate(packets)]
    assert read(ring) == []
    assert ring.consumed == ring.produced == kernel.position


def test_discarded_records_are_passed_over(kernel, ring):
    kernel.write(1, ipv4(b"a"), flags=DISCARD)
    kernel.write(2, ipv4(b"b"))
    kernel.write(3, ipv4(b"c"), flags=DISCARD)
    assert read(ring) == [(5, 2, ipv4(b"b"))]
    assert ring.consumed == kernel.position


def test_record_that_is_being_written_is_waited_for(kernel, ring):
    """And all that follow it, so that the order stays."""
    kernel.write(1, ipv4(b"a"))
    place = kernel.write(2, ipv4(b"b"), flags=BUSY)
    kernel.write(3, ipv4(b"c"))
    assert read(ring) == [(5, 1, ipv4(b"a"))]
    assert (ring.consumed, ring.produced) == (place, kernel.position)
    assert read(ring) == []
    kernel.set_flags(place, 0)
    assert read(ring) == [(5, 2, ipv4(b"b")), (5, 3, ipv4(b"c"))]


def test_record_that_is_discarded_after_all(kernel, ring):
    place = kernel.write(2, ipv4(b"b"), flags=BUSY)
    kernel.write(3, ipv4(b"c"))
    assert read(ring) == []
    kernel.set_flags(place, DISCARD)
    assert read(ring) == [(5, 3, ipv4(b"c"))]


def test_limit(kernel, ring):
    for number in range(5):
        kernel.write(number, ipv4(b""))
    assert [tee for _, tee, _ in read(ring, 2)] == [0, 1]
    assert [tee for _, tee, _ in read(ring, 0)] == []
    assert [tee for _, tee, _ in read(ring, 3)] == [2, 3, 4]


def test_room_is_given_back_once_when_a_batch_ends(kernel, ring):
    """Until then the kernel does not write over its packets."""
    for number in range(3):
        kernel.write(number, ipv4(b"abc"))
    held = []
    for _, _, packet in ring.records(10):
        held.append(packet)
        assert ring.consumed == 0
    assert ring.consumed == kernel.position
    for packet in held:
        packet.release()


def test_batch_that_is_broken_off(kernel, ring):
    """What was handed out counts as read."""
    for number in range(3):
        kernel.write(number, ipv4(b"abc"))
    records = ring.records(10)
    next(records)
    next(records)[2].release()
    records.close()
    assert [tee for _, tee, _ in read(ring)] == [2]


def test_what_is_written_meanwhile_is_of_the_next_batch(kernel, ring):
    """So a batch ends, however fast the kernel writes."""
    kernel.write(1, ipv4(b"a"))
    seen = []
    for _, tee, _ in ring.records(10):
        seen.append(tee)
        kernel.write(2, ipv4(b"b"))
    assert seen == [1]
    assert [tee for _, tee, _ in read(ring)] == [2]


def test_next_reader_goes_on(kernel, ring):
    kernel.write(1, ipv4(b"a"))
    kernel.write(2, ipv4(b"b"))
    read(ring, 1)
    with contextlib.closing(Ring(kernel.fd, SIZE, NUMBERS, RECORD.size)) as other:
        assert read(other) == [(5, 2, ipv4(b"b"))]


def test_no_ring():
    with contextlib.closing(Kernel()) as kernel, pytest.raises(OSError, match="Bad file descriptor"):
        Ring(kernel.fd + 1000, SIZE, NUMBERS, RECORD.size)


def test_size_that_the_ring_has_not(tmp_path):
    """The second mapping fails; the first one does not stay."""
    before = len(os.listdir("/proc/self/fd"))
    short = tmp_path / "short"
    short.write_bytes(bytes(mmap.PAGESIZE))
    with short.open("r+b") as file, pytest.raises(ValueError, match="mmap"):
        Ring(file.fileno(), SIZE, NUMBERS, RECORD.size)
    assert len(os.listdir("/proc/self/fd")) == before


STEPS = st.tuples(
    *(st.booleans(), st.binary(max_size=120), st.integers(0, 70)),
    *(st.sampled_from([0, 0, 0, DISCARD]), st.integers(1, 3)),
)
"""Family, payload, more room than that, flags, and the most records that are read then."""


@given(
    started_at=st.integers(0, 1000).map(lambda number: 8 * number + (1 << 33)),
    steps=st.lists(STEPS, max_size=60),
)
def test_any_order_of_writing_and_reading(started_at, steps):
    """Across the end of the memory, too, and beyond 32 bits."""
    with (
        contextlib.closing(Kernel(started_at)) as kernel,
        contextlib.closing(Ring(kernel.fd, SIZE, NUMBERS, RECORD.size)) as ring,
    ):
        waiting = []
        for number, (is_ipv6, payload, room, flags, most) in enumerate(steps):
            packet = (ipv6 if is_ipv6 else ipv4)(payload)
            if kernel.position + 16 + RECORD.size + len(payload) + room - ring.consumed <= SIZE:
                kernel.write(number, packet, arrived_ns=number, flags=flags, room=len(payload) + room)
                waiting += [] if flags else [(number, number, packet)]
            if number % 2:
                assert read(ring, most) == waiting[:most]
                waiting = waiting[most:]
        assert read(ring) == waiting
        assert ring.consumed == kernel.position
