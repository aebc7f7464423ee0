"""Frames that cross the relay, built by scapy, and what must come out of them."""

from collections.abc import Sequence

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.rtp import RTP
from scapy.packet import Packet, Raw

from rtpproxy.addr import Endpoint
from rtpproxy.network.vlan import VlanTag
from rtpproxy.offload.entry import ForwardingEntry, NextHop, XdpWay
from tests.conftest import RELAY_MAC, TOS, TTL

CALLER, CALLEE = Endpoint("10.0.1.2", 5004), Endpoint("10.0.2.2", 6006)
CALLER6, CALLEE6 = Endpoint("2001:db8:1::2", 5004), Endpoint("2001:db8:2::2", 6006)
RELAY_IN, RELAY_OUT = "10.0.1.1", "10.0.2.1"
"""Our addresses towards the caller and towards the callee."""
RELAY_IN6, RELAY_OUT6 = "2001:db8:1::1", "2001:db8:2::1"
CALLER_MAC = "02:00:00:00:01:02"
HOP = NextHop(21, to_mac="02:0a:0b:0c:0d:0e", from_mac="02:f1:f2:f3:f4:f5", mtu=1500, xdp_way=XdpWay(21))


def rtp(sequence: int = 7, ssrc: int = 0xCAFEF00D, size: int = 160, payload_type: int = 8) -> bytes:
    """An RTP packet with a payload of `size` bytes."""
    header = RTP(payload_type=payload_type, sequence=sequence, timestamp=800, sourcesync=ssrc)
    return bytes(header / Raw(b"\xd5" * size))


def ethernet(**changes: object) -> Packet:
    """The Ethernet header of frames from the caller."""
    return Ether(**{"src": CALLER_MAC, "dst": RELAY_MAC, "type": 0x0800, **changes})


def tagged(header: Packet, tags: Sequence[VlanTag]) -> Packet:
    """An Ethernet header with tags after it, outer first."""
    kind, built = header.type, header
    for protocol, number in tags:
        built.lastlayer().type = protocol
        built = built / (Dot1AD if protocol == 0x88A8 else Dot1Q)(vlan=number, type=kind)
    return built


def ipv4(**changes: object) -> Packet:
    """The IPv4 header of the caller's packets; every field that the relay sets differs from what leaves."""
    fields = {"src": CALLER.host, "dst": RELAY_IN, "id": 0x1234, "ttl": 57, "tos": 0x03, "flags": 0}
    return IP(**{**fields, **changes})


def ipv6(**changes: object) -> Packet:
    """The IPv6 header of the caller's packets, likewise."""
    return IPv6(**{"src": CALLER6.host, "dst": RELAY_IN6, "hlim": 57, "tc": 0x03, "fl": 0x12345, **changes})


def received(
    port: int,
    payload: bytes = b"",
    *,
    sport: int = CALLER.port,
    chksum: int | None = None,
    is_ipv6: bool = False,
    tags: Sequence[VlanTag] = (),
) -> bytes:
    """A frame from the caller to our `port`; the checksum is right unless it is given."""
    header = tagged(ethernet(type=0x86DD if is_ipv6 else 0x0800), tags)
    udp = UDP(sport=sport, dport=port, chksum=chksum)
    return bytes(header / (ipv6() if is_ipv6 else ipv4()) / udp / Raw(payload))


def forwarded(
    entry: ForwardingEntry,
    payload: bytes = b"",
    *,
    chksum: int | None = None,
    hop: NextHop = HOP,
    tags: Sequence[VlanTag] = (),
) -> bytes:
    """The frame that leaves for a received one of that payload; the checksum is right unless it is given."""
    if ":" in entry.to.host:
        kind, ip = 0x86DD, IPv6(src=entry.from_host or RELAY_OUT6, dst=entry.to.host, hlim=TTL, tc=TOS, fl=0)
    else:
        number = 0 if ":" in entry.source.host else 0x1234
        source = entry.from_host or RELAY_OUT
        kind, ip = 0x0800, IP(src=source, dst=entry.to.host, id=number, ttl=TTL, tos=TOS, flags="DF")
    udp = UDP(sport=entry.from_port, dport=entry.to.port, chksum=chksum)
    return bytes(tagged(Ether(src=hop.from_mac, dst=hop.to_mac, type=kind), tags) / ip / udp / Raw(payload))
