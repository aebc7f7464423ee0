"""What is forwarded from a teed port is also written into the ring, as it was received: every byte, and its time."""

import time
from dataclasses import replace

import pytest
from scapy.layers.rtp import RTP
from scapy.packet import Raw

from tests.bpf.data_plane import DataPlane
from tests.bpf.frames import HOP, forwarded, received, rtp
from tests.bpf.prog_run import XDP_DROP, XDP_PASS, XDP_REDIRECT
from tests.bpf.tee_ring import Written, open_ring
from tests.bpf.test_matrix import families, hop_with, tags_in, tags_out

pytestmark = [pytest.mark.root, pytest.mark.kernel]

RING_BYTES = 1 << 22
FEW_SIZES = (0, 11, 172, 1452)
SIZES = (
    *(0, 1, 2, 3, 4, 5, 11, 12, 15, 16, 17, 19, 20, 21, 35, 36, 37, 47, 48, 63, 64, 65, 66, 99, 100, 101),
    *(127, 128, 172, 191, 192, 193, 195, 196, 447, 448, 449, 959, 960, 961, 1279, 1399, 1400, 1431, 1432),
)
"""Payloads around all sizes of blocks and of records. IPv6 packets of 1,500 bytes have 1,452."""
NUMBER = 0xFEDCBA98
HEADER = {False: 28, True: 48}


@pytest.fixture(params=["xdp", "tc"])
def hook(request):
    return request.param


@pytest.fixture
def plane(loaded, tables, hook):
    with DataPlane(loaded, tables, hook) as plane:
        yield plane


@pytest.fixture
def ring(loaded):
    with open_ring(loaded, RING_BYTES) as ring:
        yield ring


def packet_of(frame, tags=()):
    """The IP packet in a frame."""
    return frame[14 + 4 * len(tags) :]


def missed(plane, entry):
    return plane.tables.counts.tee_missed(entry.port)


def teed(plane, families=(False, False), hop=HOP, **changes):
    return plane.install_between(*families, hop, **{"tee": NUMBER, **changes})


@families
@tags_in
@tags_out
@pytest.mark.parametrize("sizes", [FEW_SIZES, [size for size in SIZES if size not in FEW_SIZES]], ids=["few", "others"])
def test_records_are_the_packets_as_received(plane, ring, families, tags_in, tags_out, sizes):
    entry = teed(plane, families, hop_with(tags_out))
    expected = []
    for number, size in enumerate(sizes):
        payload = rtp(sequence=number, size=size)[:size]
        frame = received(entry.port, payload, is_ipv6=families[0], tags=tags_in)
        expected.append((NUMBER, packet_of(frame, tags_in)))
        sent = forwarded(entry, payload, hop=hop_with(tags_out), tags=tags_out if plane.hook == "xdp" else ())
        assert plane.run(frame) == (XDP_REDIRECT, sent, {"forwarded": 1}), size
    assert Written(ring) == expected
    assert missed(plane, entry) == 0


@families
def test_records_of_every_length(plane, ring, families):
    entry = teed(plane, families)
    frames = [received(entry.port, rtp(size, size=size)[:size], is_ipv6=families[0]) for size in range(1453)]
    for frame in frames:
        plane.run(frame)
    written = Written(ring)
    assert len(written) == 1453
    assert [packet for _, packet in written] == [packet_of(frame) for frame in frames]


@pytest.mark.vm
def test_payload_of_varied_bytes(plane, ring):
    """No block is written to another's place."""
    entry = teed(plane)
    for size in (200, 1400):
        payload = bytes(number * 31 // 8 % 256 for number in range(size))
        frame = received(entry.port, payload)
        plane.run(frame)
        assert Written(ring) == [(NUMBER, packet_of(frame))]


def test_rtcp_and_what_is_no_rtp(plane, ring):
    rtcp = teed(plane, is_rtp=False)
    odd = teed(plane, tee=7)
    frames = received(rtcp.port, bytes.fromhex("80c90001") + bytes(4)), received(odd.port, b"x")
    for frame in frames:
        plane.run(frame)
    assert Written(ring) == [(NUMBER, packet_of(frames[0])), (7, packet_of(frames[1]))]


@pytest.mark.vm
def test_headers_are_not_the_new_ones(plane, ring):
    """Not even where the relay computes what was absent."""
    entry = teed(plane, (False, True))
    frame = received(entry.port, rtp(), chksum=0)
    plane.run(frame)
    assert Written(ring) == [(NUMBER, packet_of(frame))]


def test_priority_tag_is_gone_as_well(plane, ring):
    entry = teed(plane)
    frame = received(entry.port, rtp(), tags=[(0x8100, 0)])
    plane.run(frame)
    assert Written(ring) == [(NUMBER, packet_of(frame, [(0x8100, 0)]))]


def test_padding_of_short_frames_is_left_out(plane, ring):
    entry = teed(plane)
    frame = received(entry.port, b"x")
    plane.run(frame + bytes(60 - len(frame)))
    assert Written(ring) == [(NUMBER, packet_of(frame))]


@pytest.mark.parametrize("size", [1473, 1900, 3000, 3400])
def test_long_frames(plane, ring, size):
    """As long as a test run can have; longer ones: tests/netns_call/test_tee.py."""
    entry = teed(plane, hop=replace(HOP, mtu=9000))
    frame = received(entry.port, rtp(size=size - 12))
    assert plane.run(frame).action == XDP_REDIRECT
    assert Written(ring) == [(NUMBER, packet_of(frame))]
    assert missed(plane, entry) == 0


# What is not teed


@families
def test_no_record_without_a_tee(plane, ring, families):
    entry = plane.install_between(*families)
    plane.run(received(entry.port, rtp(), is_ipv6=families[0]))
    assert Written(ring) == []
    assert missed(plane, entry) == 0


def test_no_record_of_what_goes_to_userspace(plane, ring):
    """Which records it itself."""
    entry = teed(plane)
    for frame in (received(entry.port, rtp(), sport=9), received(entry.port, rtp(size=1500))):
        assert plane.run(frame).action == XDP_PASS
    plane.tables.ports.withdraw(entry.port)
    assert plane.run(received(entry.port, rtp())).action == XDP_PASS
    assert Written(ring) == []


def test_no_record_of_what_the_loop_guard_drops(plane, ring):
    entry = teed(plane, is_rtp=False)
    frame = received(entry.port, b"\x80\xc9\0\1\0\0\0\0")
    plane.run(frame)
    plane.poke("port_events", entry.port, "suspects", 0xFFFF)
    outcome = plane.run_this_second(entry.port, frame)
    assert (outcome.action, outcome.counted) == (XDP_DROP, {"dropped_rtcp_rate": 1})
    assert Written(ring) == [(NUMBER, packet_of(frame))]


@pytest.mark.vm
def test_one_record_of_a_packet_that_xdp_leaves_to_tc(loaded, tables, ring):
    with DataPlane(loaded, tables) as plane, DataPlane(loaded, tables, "tc_behind_xdp") as behind:
        entry = teed(plane, hop=replace(HOP, xdp_way=None))
        frame = received(entry.port, rtp())
        assert plane.run(frame).action == XDP_PASS
        assert Written(ring) == []
        assert behind.run(frame).action == XDP_REDIRECT
        assert Written(ring) == [(NUMBER, packet_of(frame))]


# One payload type


def chosen(plane, entry):
    return plane.tables.counts.tee_chosen(entry.port)


def of_type(payload_type, sequence=1, marker=0):
    return bytes(RTP(payload_type=payload_type, sequence=sequence, marker=marker, sourcesync=1) / Raw(b"abcd"))


@families
def test_only_one_payload_type_is_written(plane, ring, families):
    """With and without the marker; and all are forwarded."""
    entry = teed(plane, families, tee_type=101)
    payloads = [of_type(0, 1), of_type(101, 2, marker=1), of_type(100, 3), of_type(101, 4), of_type(5, 5)]
    frames = [received(entry.port, payload, is_ipv6=families[0]) for payload in payloads]
    for payload, frame in zip(payloads, frames, strict=True):
        assert plane.run(frame) == (XDP_REDIRECT, forwarded(entry, payload), {"forwarded": 1})
    assert Written(ring) == [(NUMBER, packet_of(frames[1])), (NUMBER, packet_of(frames[3]))]
    assert (chosen(plane, entry), missed(plane, entry)) == (2, 0)


def test_type_0_is_one_as_well(plane, ring):
    entry = teed(plane, tee_type=0)
    frames = [received(entry.port, of_type(kind, kind)) for kind in (0, 1)]
    for frame in frames:
        plane.run(frame)
    assert Written(ring) == [(NUMBER, packet_of(frames[0]))]


def test_what_is_no_rtp_has_no_payload_type(plane, ring):
    """Not even RTCP whose second byte would be one, with the marker: 201 is 73."""
    entry = teed(plane, tee_type=73)
    for payload in (b"\x80\x49", bytes.fromhex("80c90001") + bytes(8), bytes.fromhex("40490001") + bytes(8)):
        assert plane.run(received(entry.port, payload)).action == XDP_REDIRECT
    assert Written(ring) == []
    rtcp = teed(plane, tee_type=101, is_rtp=False)
    assert plane.run(received(rtcp.port, of_type(101))).action == XDP_REDIRECT
    assert Written(ring) == []
    assert (chosen(plane, entry), missed(plane, entry)) == (0, 0)


def test_all_packets_are_not_counted_as_chosen(plane, ring):
    """They are those that are forwarded."""
    entry = teed(plane)
    plane.run(received(entry.port, of_type(101)))
    assert len(Written(ring)) == 1
    assert chosen(plane, entry) == 0


def test_chosen_packets_that_find_no_room(plane):
    entry = teed(plane, tee_type=101)
    for kind in (101, 0, 101):
        assert plane.run(received(entry.port, of_type(kind))).action == XDP_REDIRECT
    assert (chosen(plane, entry), missed(plane, entry)) == (0, 2)


def test_type_without_a_tee_is_nothing(plane, ring):
    entry = plane.install(tee_type=101)
    assert plane.run(received(entry.port, of_type(101))).action == XDP_REDIRECT
    assert Written(ring) == []


# Hidden packets


@families
def test_hidden_packets_go_to_userspace(plane, ring, families):
    entry = teed(plane, families, hidden_type=101)
    hidden, other = (received(entry.port, of_type(kind), is_ipv6=families[0]) for kind in (101, 8))
    assert plane.run(hidden) == (XDP_PASS, hidden, {"up_hidden": 1})
    assert plane.run(other).action == XDP_REDIRECT
    assert Written(ring) == [(NUMBER, packet_of(other))]
    assert plane.tables.counts.counters(entry.port).packets == 1


def test_hidden_packets_of_a_stranger_are_a_strangers(plane):
    entry = plane.install(hidden_type=101)
    assert plane.run(received(entry.port, of_type(101), sport=9)).counted == {"up_other_source": 1}


def test_nothing_else_is_hidden(plane):
    entry = plane.install(hidden_type=73)
    for payload in (of_type(0), b"\x80\x49", bytes.fromhex("80c90001") + bytes(8)):
        assert plane.run(received(entry.port, payload)).action == XDP_REDIRECT
    rtcp = plane.install(hidden_type=101, is_rtp=False)
    assert plane.run(received(rtcp.port, of_type(101))).action == XDP_REDIRECT


# Time


@pytest.mark.parametrize("size", [11, 160])
def test_time_is_that_of_the_packet(plane, ring, size):
    """Not of a coarse clock, which stands still for milliseconds."""
    entry = teed(plane)
    for number in range(50):
        frame = received(entry.port, rtp(number, size=size)[:size])
        before = time.monotonic_ns()
        plane.run(frame)
        (arrived_ns,) = Written(ring).times
        assert before < arrived_ns < time.monotonic_ns()


# No room


@pytest.mark.vm
def test_full_ring_is_counted_by_stream_and_harms_nothing(loaded, plane):
    one, other = teed(plane), teed(plane, tee=8)
    fits = 15
    with open_ring(loaded, 4096) as ring:
        frames = [received(one.port, rtp(number)) for number in range(40)]
        for number, frame in enumerate(frames):
            assert plane.run(frame) == (XDP_REDIRECT, forwarded(one, rtp(number)), {"forwarded": 1})
        assert plane.run(received(other.port, rtp())).action == XDP_REDIRECT
        assert (missed(plane, one), missed(plane, other)) == (40 - fits, 1)
        assert plane.tables.counts.counters(one.port).packets == 40
        assert [packet for _, packet in Written(ring)] == [packet_of(frame) for frame in frames[:fits]]
        plane.run(frames[0])
        plane.run(received(other.port, rtp()))
        assert Written(ring) == [(NUMBER, packet_of(frames[0])), (8, packet_of(received(other.port, rtp())))]
        assert (missed(plane, one), missed(plane, other)) == (40 - fits, 1)


def test_without_a_ring_all_is_counted(plane):
    entry = teed(plane)
    for number in (1, 2):
        assert plane.run(received(entry.port, rtp())) == (XDP_REDIRECT, forwarded(entry, rtp()), {"forwarded": 1})
        assert missed(plane, entry) == number
