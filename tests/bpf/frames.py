"""Frames that cross the relay, built by scapy, and what must come out of them."""

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.rtp import RTP
from scapy.packet import Packet, Raw

from rtpproxy.addr import Endpoint
from rtpproxy.offload.entry import ForwardingEntry, NextHop
from tests.conftest import TOS, TTL

CALLER, CALLEE = Endpoint("10.0.1.2", 5004), Endpoint("10.0.2.2", 6006)
RELAY_IN, RELAY_OUT = "10.0.1.1", "10.0.2.1"
"""Our addresses towards the caller and towards the callee."""
CALLER_MAC, RELAY_IN_MAC = "02:00:00:00:01:02", "02:00:00:00:01:01"
HOP = NextHop(ifindex=21, to_mac="02:0a:0b:0c:0d:0e", from_mac="02:f1:f2:f3:f4:f5", mtu=1500)


def rtp(sequence: int = 7, ssrc: int = 0xCAFEF00D, size: int = 160) -> bytes:
    """An RTP packet with a payload of `size` bytes."""
    return bytes(RTP(payload_type=8, sequence=sequence, timestamp=800, sourcesync=ssrc) / Raw(b"\xd5" * size))


def ethernet(**changes: object) -> Packet:
    """The Ethernet header that the caller's frames come in with."""
    return Ether(**{"src": CALLER_MAC, "dst": RELAY_IN_MAC, "type": 0x0800, **changes})


def ipv4(**changes: object) -> Packet:
    """The IPv4 header of the caller's packets; all that is written anew differs from what leaves."""
    fields = {"src": CALLER.host, "dst": RELAY_IN, "id": 0x1234, "ttl": 57, "tos": 0x03, "flags": 0}
    return IP(**{**fields, **changes})


def received(port: int, payload: bytes = b"", *, sport: int = CALLER.port, chksum: int | None = None) -> bytes:
    """A frame from the caller to our `port`; the checksum is right unless it is given."""
    udp = UDP(sport=sport, dport=port, chksum=chksum)
    return bytes(ethernet() / ipv4() / udp / Raw(payload))


def forwarded(entry: ForwardingEntry, payload: bytes = b"", *, chksum: int | None = None, hop: NextHop = HOP) -> bytes:
    """The frame that leaves for a received one of that payload; the checksum is right unless it is given."""
    ip = IP(src=entry.from_host or RELAY_OUT, dst=entry.to.host, id=0x1234, ttl=TTL, tos=TOS, flags="DF")
    udp = UDP(sport=entry.from_port, dport=entry.to.port, chksum=chksum)
    return bytes(Ether(src=hop.from_mac, dst=hop.to_mac, type=0x0800) / ip / udp / Raw(payload))
