"""Frames in pcap files (protocol.md 8.5), read back by scapy, which computes checksums by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from rtpproxy.recording.frames import Frames, mac
from rtpproxy.recording.packet import Packet, Place
from tests.recording.packets import packet


def test_ipv4():
    frames = Frames()
    frames.frame(packet(1))
    frame = frames.frame(packet(2, payload=b"hello"))
    ethernet = Ether(dst="00:00:0a:00:00:01", src="00:00:0a:00:01:02", type=0x0800)
    expected = ethernet / IP(src="10.0.1.2", dst="10.0.0.1", id=2, ttl=127, flags=0) / UDP(sport=4000, dport=20000)
    assert frame == bytes(expected / Raw(b"hello"))


def test_ipv6():
    frame = Frames().frame(packet(1, is_ipv6=True, payload=b"hello"))
    # 2001:db8::1 folded: each byte of the address joins the one six before it.
    ethernet = Ether(dst="20:01:0d:b9:00:00", src="20:01:0d:ba:00:01", type=0x86DD)
    expected = ethernet / IPv6(src="2001:db8::1:0:0:2", dst="2001:db8::1", hlim=64) / UDP(sport=4000, dport=20000)
    parsed = Ether(frame)
    assert bytes(parsed[UDP].payload) == b"hello"
    assert parsed[IPv6].hlim == 64
    del parsed[UDP].chksum
    assert frame == bytes(parsed)
    assert frame[14:54][6:8] == bytes(expected)[14:54][6:8]


def test_macs_stand_for_addresses():
    assert mac(bytes((192, 0, 2, 1))) == bytes((0, 0, 192, 0, 2, 1))
    assert mac(bytes(range(16))) == bytes((0 ^ 6 ^ 12, 1 ^ 7 ^ 13, 2 ^ 8 ^ 14, 3 ^ 9 ^ 15, 4 ^ 10, 5 ^ 11))


def test_headers_are_numbered():
    frames = Frames()
    numbers = [int.from_bytes(frames.frame(packet(1))[18:20], "big") for _ in range(65537)]
    assert numbers == [*range(1, 65536), 0, 1]


@pytest.mark.parametrize(("is_ipv6", "most"), [(False, 65507), (True, 65527)])
def test_a_payload_that_fits_into_no_packet_is_cut(is_ipv6, most):
    frame = Frames().frame(packet(1, is_ipv6=is_ipv6, payload=bytes(65535)))
    assert len(frame) == 14 + (40 if is_ipv6 else 20) + 8 + most


@given(
    payload=st.binary(max_size=300),
    hosts=st.one_of(
        *(st.tuples(st.binary(min_size=n, max_size=n), st.binary(min_size=n, max_size=n)) for n in (4, 16))
    ),
    ports=st.tuples(st.integers(1, 65535), st.integers(1, 65535)),
)
def test_checksums_are_those_of_scapy(payload, hosts, ports):
    frame = Frames().frame(Packet(0, Place(hosts[0], ports[0]), Place(hosts[1], ports[1]), payload))
    parsed = Ether(frame)
    assert parsed[UDP].sport, parsed[UDP].dport == ports
    checksum = parsed[UDP].chksum
    assert checksum != 0
    del parsed[UDP].chksum
    if IP in parsed:
        del parsed[IP].chksum
    assert bytes(parsed) == frame
