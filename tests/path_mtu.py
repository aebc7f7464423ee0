"""A router on the path that asks for shorter packets (RFC 1191)."""

import socket

from scapy.layers.inet import ICMP, IP, UDP

from tests.netns import Host

Address = tuple[str, int]


def require_mtu(router: Host, mtu: int, source: Address, to: Address) -> None:
    """Let `router` answer a UDP packet, as if it had seen it: fragmentation needed, at most `mtu` bytes."""
    refused = IP(src=source[0], dst=to[0], flags="DF") / UDP(sport=source[1], dport=to[1], len=8)
    with router.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP) as answering:
        answering.sendto(bytes(ICMP(type=3, code=4, nexthopmtu=mtu) / refused), (source[0], 0))
