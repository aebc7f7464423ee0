"""Any bytes as a frame: forwarded as the reference below says, or left exactly as they came."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.bpf.data_plane import DataPlane
from tests.bpf.frames import CALLER, HOP, received, rtp
from tests.bpf.prog_run import XDP_DROP, XDP_PASS, XDP_REDIRECT
from tests.conftest import TOS, TTL

pytestmark = [pytest.mark.root, pytest.mark.kernel]

HEADER_BYTES = 14
LONGEST = 1700
many = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# The reference


def is_forwardable(frame, entry):
    """Whether `frame`, sent to the port of `entry`, is a plain datagram from the locked source."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[0] & 1 or frame[14] != 0x45:
        return False
    ip, udp = IP(frame[14:34]), UDP(frame[34:42])
    return (
        ip.proto == 17
        and not ip.flags.MF
        and ip.frag == 0
        and 28 <= ip.len <= min(len(frame) - HEADER_BYTES, HOP.mtu)
        and udp.len == ip.len - 20
        and (ip.src, ip.dst) == (entry.source.host, entry.local_host)
        and (entry.is_any_source_port or udp.sport == entry.source.port)
    )


def right_checksum(ip, udp, payload):
    """What scapy finds for a datagram with these headers."""
    header = IP(src=ip.src, dst=ip.dst) / UDP(sport=udp.sport, dport=udp.dport) / Raw(payload)
    return IP(bytes(header))[UDP].chksum


def rewritten(frame, entry):
    """The frame that leaves for one that is forwardable."""
    ip, udp = IP(frame[14:34]), UDP(frame[34:42])
    payload, padding = frame[42 : 14 + ip.len], frame[14 + ip.len :]
    new_ip = IP(src=entry.from_host, dst=entry.to.host, id=ip.id, tos=TOS, ttl=TTL, flags="DF")
    new_udp = UDP(sport=entry.from_port, dport=entry.to.port, chksum=udp.chksum)
    if udp.chksum:
        # A wrong checksum is wrong by as much as before, in one's complement.
        off_by = udp.chksum - right_checksum(ip, udp, payload)
        new_udp.chksum = (right_checksum(new_ip, new_udp, payload) + off_by) % 65535 or 0xFFFF
    return bytes(Ether(src=HOP.from_mac, dst=HOP.to_mac, type=0x0800) / new_ip / new_udp / Raw(payload)) + padding


def check(plane, entries, frame):
    outcome = plane.run(frame)
    assert sum(outcome.counted.values()) == 1
    entry = entries.get(int.from_bytes(frame[36:38]))
    if entry and is_forwardable(frame, entry):
        assert outcome == (XDP_REDIRECT, rewritten(frame, entry), {"forwarded": 1})
        return
    assert outcome.frame == frame
    dropped = {"dropped_other_source": 1}
    assert outcome.action == (XDP_DROP if outcome.counted == dropped else XDP_PASS)


# Frames


payloads = st.one_of(st.binary(max_size=64), st.builds(rtp, size=st.integers(0, 1500)))
checksums = st.one_of(st.none(), st.just(0), st.integers(1, 0xFFFF))


def cut(frame, at, _):
    return frame[: HEADER_BYTES + at % LONGEST]


def flip(frame, at, value):
    at %= min(len(frame), 60)  # where the headers are
    return frame[:at] + bytes([frame[at] ^ value]) + frame[at + 1 :]


def insert_tag(frame, at, value):
    kinds = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
    return frame[:12] + kinds[at % 3] + bytes([0, value]) + frame[12:]


def insert_options(frame, at, value):
    if len(frame) < 34:
        return frame
    words = 1 + at % 10
    return frame[:14] + bytes([0x45 + words]) + frame[15:34] + bytes([value] * 4 * words) + frame[34:]


def lengthen(frame, at, value):
    return frame + bytes([value]) * (at % 40)


changes = st.tuples(
    st.sampled_from([cut, flip, flip, flip, insert_tag, insert_options, lengthen]),
    st.integers(0, 0xFFFF),
    st.integers(1, 255),
)


@pytest.fixture(scope="module")
def installed(loaded, tables):
    """One plane for all examples, and two entries by port: of a symmetric and of an asymmetric party."""
    with DataPlane(loaded, tables) as plane:
        entries = [plane.install(), plane.install(is_any_source_port=True)]
        yield plane, {entry.port: entry for entry in entries}


@many
@given(
    number=st.sampled_from([0, 1]),
    payload=payloads,
    chksum=checksums,
    sport=st.integers(0, 0xFFFF) | st.just(CALLER.port),
    applied=st.lists(changes, max_size=3),
)
def test_changed_frames(installed, number, payload, chksum, sport, applied):
    plane, entries = installed
    frame = received(list(entries)[number], payload, sport=sport, chksum=chksum)
    for change, at, value in applied:
        frame = change(frame, at, value)
    check(plane, entries, frame.ljust(HEADER_BYTES, b"\0"))


@many
@given(payload=payloads, chksum=checksums)
def test_plain_datagrams_are_forwarded(installed, payload, chksum):
    plane, entries = installed
    for entry in entries.values():
        frame = received(entry.port, payload[: HOP.mtu - 28], chksum=chksum)
        assert is_forwardable(frame, entry)
        check(plane, entries, frame)


@many
@given(data=st.binary(min_size=HEADER_BYTES, max_size=200), is_ip=st.booleans())
def test_random_bytes(installed, data, is_ip):
    check(*installed, data[:12] + b"\x08\x00" + data[14:] if is_ip else data)


@pytest.mark.parametrize("place", range(42))
def test_every_bit_of_the_headers(installed, place):
    plane, entries = installed
    for bit in range(8):
        frame = bytearray(received(next(iter(entries)), rtp(size=3)))
        frame[place] ^= 1 << bit
        check(plane, entries, bytes(frame))
