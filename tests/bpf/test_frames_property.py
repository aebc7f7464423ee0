"""Any bytes as a frame: forwarded as the reference below says, or left exactly as they came."""

import ipaddress
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.bpf.data_plane import DataPlane
from tests.bpf.frames import CALLER, HOP, received, rtp
from tests.bpf.prog_run import XDP_DROP, XDP_PASS, XDP_REDIRECT
from tests.conftest import QINQ, RELAY_MAC, TOS, TTL, VLAN

pytestmark = [pytest.mark.root, pytest.mark.kernel]

HEADER_BYTES = 14
LONGEST = 1700
MAX_SUMMED = 1472
many = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# The reference


class Datagram(NamedTuple):
    """The parts of a plain datagram in a frame for this host, of either family."""

    ip: Packet
    udp: UDP
    payload: bytes
    padding: bytes

    @property
    def is_ipv6(self):
        return isinstance(self.ip, IPv6)


def ones_sum(data):
    total = sum(int.from_bytes(data[index : index + 2]) for index in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def take_tags(frame):
    """The tags that count, the type after them, and where the packet begins; None for more than two."""
    tags, kind, at = [], int.from_bytes(frame[12:14]), 14
    while kind in (0x8100, 0x88A8):
        if at == 22 or len(frame) < at + 4:
            return None
        number = int.from_bytes(frame[at : at + 2]) & 0xFFF
        tags += [(kind, number)] if number else []
        kind, at = int.from_bytes(frame[at + 2 : at + 4]), at + 4
    return tuple(tags), kind, at


def read(frame):
    """The datagram in a frame, None where the relay must leave the frame alone."""
    found = take_tags(frame)
    if frame[:6] != bytes.fromhex(RELAY_MAC.replace(":", "")) or found is None:
        return None
    tags, kind, at = found
    if tags not in ((), VLAN, QINQ) or kind not in (0x0800, 0x86DD):
        return None
    size = 20 if kind == 0x0800 else 40
    header = frame[at : at + size]
    if len(frame) < at + size + 8:
        return None
    ip, udp = (IP if size == 20 else IPv6)(header), UDP(frame[at + size : at + size + 8])
    if size == 20:
        if header[0] != 0x45 or ip.proto != 17 or ip.flags.MF or ip.frag or ones_sum(header) != 0xFFFF:
            return None
        length = ip.len
    else:
        if ip.version != 6 or ip.nh != 17:
            return None
        length = 40 + ip.plen
    if not size + 8 <= length <= len(frame) - at or udp.len != length - size:
        return None
    return Datagram(ip, udp, frame[at + size + 8 : at + length], frame[at + length :])


def checksum(ip, udp, payload):
    """The checksum that scapy computes for a datagram with these headers."""
    header = type(ip)(src=ip.src, dst=ip.dst) / UDP(sport=udp.sport, dport=udp.dport) / Raw(payload)
    return type(ip)(bytes(header))[UDP].chksum


def is_unfinished(datagram):
    """True if the checksum is the sum of the pseudo-header, as senders leave it for an interface to finish."""
    hosts = inet_pton(datagram.ip.src) + inet_pton(datagram.ip.dst)
    return datagram.udp.chksum == ones_sum(hosts + (17).to_bytes(2) + datagram.udp.len.to_bytes(2))


def inet_pton(host):
    return ipaddress.ip_address(host).packed


def expected(frame, entry, hook):
    """The frame that leaves, None where the relay must leave the frame alone."""
    datagram = read(frame)
    if datagram is None:
        return None
    ip, udp, payload, padding = datagram
    if (ip.src, ip.dst) != (entry.source.host, entry.local_host):
        return None
    if not entry.is_any_source_port and udp.sport != entry.source.port:
        return None
    is_to_ipv6 = ":" in entry.to.host
    if len(payload) + (48 if is_to_ipv6 else 28) > HOP.mtu:
        return None
    must_compute = (hook == "xdp" and is_unfinished(datagram)) or (udp.chksum == 0 and is_to_ipv6)
    if (udp.chksum == 0 and datagram.is_ipv6) or (must_compute and len(payload) > MAX_SUMMED):
        return None
    if is_to_ipv6:
        kind, new_ip = 0x86DD, IPv6(src=entry.from_host, dst=entry.to.host, tc=TOS, hlim=TTL)
    else:
        number = 0 if datagram.is_ipv6 else ip.id
        kind, new_ip = 0x0800, IP(src=entry.from_host, dst=entry.to.host, id=number, tos=TOS, ttl=TTL, flags="DF")
    new_udp = UDP(sport=entry.from_port, dport=entry.to.port)
    new_udp.chksum = checksum(new_ip, new_udp, payload)
    if not must_compute:
        # A wrong checksum is wrong by as much as before, in one's complement; an absent one stays so.
        off_by = udp.chksum - checksum(ip, udp, payload)
        new_udp.chksum = ((new_udp.chksum + off_by) % 65535 or 0xFFFF) if udp.chksum else 0
    return bytes(Ether(src=HOP.from_mac, dst=HOP.to_mac, type=kind) / new_ip / new_udp / Raw(payload)) + padding


def port_in(frame):
    datagram = read(frame)
    return datagram.udp.dport if datagram else None


def check(plane, entries, frame):
    outcome = plane.run(frame)
    assert sum(outcome.counted.values()) == 1
    entry = entries.get(port_in(frame))
    leaves = expected(frame, entry, plane.hook) if entry else None
    if leaves is not None:
        assert outcome == (XDP_REDIRECT, leaves, {"forwarded": 1})
        return
    assert outcome.frame == frame
    dropped = {"dropped_other_source": 1}
    assert outcome.action == (XDP_DROP if outcome.counted == dropped else XDP_PASS)


# Frames


payloads = st.one_of(st.binary(max_size=64), st.builds(rtp, size=st.integers(0, 1500)))
checksums = st.one_of(st.none(), st.just(0), st.integers(1, 0xFFFF))
tags = st.sampled_from([(), VLAN, QINQ, ((0x8100, 0),)])


def cut(frame, at, _):
    return frame[: HEADER_BYTES + at % LONGEST]


def flip(frame, at, value):
    at %= min(len(frame), 80)  # where the headers are
    return frame[:at] + bytes([frame[at] ^ value]) + frame[at + 1 :]


def insert_tag(frame, at, value):
    kinds = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
    return frame[:12] + kinds[at % 3] + bytes([0, (0, 5, 6, 7, value)[at % 5]]) + frame[12:]


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


PAIRS = [(False, False), (True, True), (False, True), (True, False)]


@pytest.fixture(scope="module", params=["xdp", "tc"])
def installed(request, unlimited, unlimited_tables):
    """One plane for all examples, and entries by port: for a symmetric and for an asymmetric leg, in all families."""
    with DataPlane(unlimited, unlimited_tables, request.param) as plane:
        entries = [
            plane.install_between(*pair, is_any_source_port=is_any) for pair in PAIRS for is_any in (False, True)
        ]
        yield plane, {entry.port: entry for entry in entries}


def frame_to(entry, payload, **options):
    return received(entry.port, payload, is_ipv6=":" in entry.source.host, **options)


def long_enough(frame):
    """A test run takes no less than an Ethernet header, and at TC an IP header after it where its type says so."""
    headers = {b"\x08\x00": 34, b"\x86\xdd": 54}
    return frame.ljust(headers.get(bytes(frame[12:14]), HEADER_BYTES), b"\0")


@many
@given(
    number=st.integers(0, 7),
    payload=payloads,
    chksum=checksums,
    sport=st.integers(0, 0xFFFF) | st.just(CALLER.port),
    tags=tags,
    applied=st.lists(changes, max_size=3),
)
def test_changed_frames(installed, number, payload, chksum, sport, tags, applied):
    plane, entries = installed
    frame = frame_to(list(entries.values())[number], payload, sport=sport, chksum=chksum, tags=tags)
    for change, at, value in applied:
        frame = change(frame, at, value)
    check(plane, entries, long_enough(frame))


@many
@given(payload=payloads, chksum=checksums, tags=tags)
def test_plain_datagrams_are_forwarded(installed, payload, chksum, tags):
    plane, entries = installed
    for entry in entries.values():
        frame = frame_to(entry, payload[: HOP.mtu - 48], chksum=chksum, tags=tags)
        assert (expected(frame, entry, plane.hook) is None) == (chksum == 0 and ":" in entry.source.host)
        check(plane, entries, frame)


@many
@given(data=st.binary(min_size=HEADER_BYTES, max_size=200), kind=st.sampled_from([None, b"\x08\x00", b"\x86\xdd"]))
def test_random_bytes(installed, data, kind):
    check(*installed, long_enough(data[:12] + kind + data[14:] if kind else data))


@pytest.mark.parametrize("place", range(62))
def test_every_bit_of_the_headers(installed, place):
    plane, entries = installed
    for entry in list(entries.values())[::2]:
        for bit in range(8):
            frame = bytearray(frame_to(entry, rtp(size=3)))
            if place < len(frame):
                frame[place] ^= 1 << bit
                check(plane, entries, long_enough(bytes(frame)))
