"""Whole frames between the two ends of a veth pair."""

import contextlib

import numpy as np
import pytest
from generator.interface import SLOTS, Interface
from generator.judge import Chunk

from tests.netns import Topology
from tests.vm_test.streams import frames
from tests.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]
QINQ = ((0x88A8, 200), (0x8100, 100))


@pytest.fixture(scope="module")
def ends():
    """The caller's end, and the relay's."""
    with Topology() as topology, contextlib.ExitStack() as stack:
        caller, relay = topology.caller, topology.relay
        one = caller.call(lambda: Interface(caller.ifname, is_promiscuous=True))
        other = relay.call(lambda: Interface(caller.gateway.ifname, is_promiscuous=True))
        yield stack.enter_context(one), stack.enter_context(other)


def rows(count, tags=(), version=4):
    """Frames that differ."""
    return frames(version, tags=tags).fill(np.zeros(count, dtype=int), np.arange(count), np.arange(count))


def media(chunk: Chunk | None) -> list[bytes]:
    """The frames of a chunk without those of the kernel's own."""
    if chunk is None:
        return []
    arrived = [chunk.frame(number) for number in range(len(chunk.lengths))]
    return [frame for frame in arrived if frame[:6] == bytes.fromhex("0a0000000102")]


def arrived(interface: Interface, count: int) -> list[bytes]:
    found: list[bytes] = []

    def collect() -> bool:
        found.extend(media(interface.take(0)))
        return len(found) >= count

    wait_for(collect, DEADLINE_S, f"{count} frames")
    return found


@pytest.mark.parametrize("tags", [(), QINQ[1:], QINQ])
@pytest.mark.parametrize("version", [4, 6])
def test_frames_arrive_as_they_were_sent(ends, tags, version):
    """In batches, in order, and with the tag that the kernel takes off."""
    one, other = ends
    sent = rows(1500, tags, version)
    one.send_rows(sent)
    assert arrived(other, 1500) == [row.tobytes() for row in sent]


def test_what_goes_out_does_not_come_back(ends):
    one, other = ends
    one.send_rows(rows(3))
    assert len(arrived(other, 3)) == 3
    assert media(one.take(0)) == []


def test_the_time_of_arrival_is_the_kernels(ends):
    one, other = ends
    one.send(rows(1)[0].tobytes())
    chunks: list[Chunk] = []
    wait_for(lambda: [chunks.append(chunk) for chunk in [other.take(0)] if media(chunk)], DEADLINE_S, "a frame")
    one.send(rows(1)[0].tobytes())
    wait_for(lambda: [chunks.append(chunk) for chunk in [other.take(0)] if media(chunk)], DEADLINE_S, "a frame")
    first, second = (int(chunk.times_ns[0]) for chunk in chunks)
    assert 0 < second - first < DEADLINE_S * 1e9
    assert first > 1.6e18  # nanoseconds since 1970


def test_frames_for_which_there_is_no_slot_are_counted(ends):
    one, other = ends
    other.dropped()
    batch = rows(1000)
    for _ in range(20):
        one.send_rows(batch)
    wait_for(lambda: other.dropped() > 0, DEADLINE_S, "frames to be dropped")
    taken = 0
    while (chunk := other.take(0)) is not None:
        taken += len(chunk.lengths)
    assert taken >= SLOTS
    one.send_rows(rows(5))
    assert len(arrived(other, 5)) == 5


def test_an_interface_that_is_not_there():
    with pytest.raises(OSError, match="there is no interface eth77"):
        Interface("eth77", is_promiscuous=False)
