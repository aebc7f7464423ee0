"""ARP and neighbour discovery for phones that exist in frames only: answers who they are, asks where the relay is."""

import socket
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

from generator.addresses import ETH_8021AD, Tags
from generator.differences import split_tags
from generator.frames import ip_bytes

_ETH_ARP, _ETH_IPV6 = b"\x08\x06", b"\x86\xdd"
_IS_AT = 2
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136


@dataclass(frozen=True)
class Neighbours:
    """The phones of one side, to the hosts beside them: their addresses, one MAC for all, behind the same tags."""

    mac: str
    addresses: frozenset[str]
    tags: Tags = ()

    def answer(self, frame: bytes) -> bytes | None:
        """Answer a question for one of the phones; None if it is another frame."""
        tags, bare = split_tags(frame)
        if tags != self.tags:
            return None
        if bare[12:14] == _ETH_ARP:
            return self._answer_arp(Ether(bare))
        if bare[12:14] == _ETH_IPV6 and bare[20:21] == bytes([_ICMPV6]) and bare[54:55] == bytes([_SOLICITATION]):
            return self._answer_solicitation(Ether(bare))
        return None

    def question(self, target: str, source: str) -> bytes:
        """Ask, as the phone `source`, for the MAC of `target`."""
        if ":" in target:
            group = in6_getnsma(ip_bytes(target))
            return self._tagged(
                Ether(src=self.mac, dst=in6_getnsmac(group)),
                IPv6(src=source, dst=socket.inet_ntop(socket.AF_INET6, group))
                / ICMPv6ND_NS(tgt=target)
                / ICMPv6NDOptSrcLLAddr(lladdr=self.mac),
            )
        request = ARP(op="who-has", hwsrc=self.mac, psrc=source, pdst=target)
        return self._tagged(Ether(src=self.mac, dst="ff:ff:ff:ff:ff:ff"), request)

    def heard(self, frame: bytes) -> tuple[str, str] | None:
        """Read an answer: address and MAC; None if it is another frame."""
        tags, bare = split_tags(frame)
        if tags != self.tags:
            return None
        if bare[12:14] == _ETH_ARP:
            arp = Ether(bare)[ARP]
            return (arp.psrc, arp.hwsrc) if arp.op == _IS_AT else None
        if bare[12:14] == _ETH_IPV6 and bare[20:21] == bytes([_ICMPV6]) and bare[54:55] == bytes([_ADVERTISEMENT]):
            packet = Ether(bare)
            option = packet.getlayer(ICMPv6NDOptDstLLAddr)
            return packet[ICMPv6ND_NA].tgt, option.lladdr if option else packet.src
        return None

    def _answer_arp(self, packet: Any) -> bytes | None:
        arp = packet[ARP]
        if arp.op != 1 or arp.pdst not in self.addresses or arp.psrc == arp.pdst:
            return None
        reply = ARP(op="is-at", hwsrc=self.mac, psrc=arp.pdst, hwdst=arp.hwsrc, pdst=arp.psrc)
        return self._tagged(Ether(src=self.mac, dst=arp.hwsrc), reply)

    def _answer_solicitation(self, packet: Any) -> bytes | None:
        target = packet[ICMPv6ND_NS].tgt
        if target not in self.addresses or packet[IPv6].src == "::":
            return None
        option = packet.getlayer(ICMPv6NDOptSrcLLAddr)
        return self._tagged(
            Ether(src=self.mac, dst=option.lladdr if option else packet.src),
            IPv6(src=target, dst=packet[IPv6].src)
            / ICMPv6ND_NA(tgt=target, R=0, S=1, O=1)
            / ICMPv6NDOptDstLLAddr(lladdr=self.mac),
        )

    def _tagged(self, ethernet: Any, rest: Any) -> bytes:
        for ethernet_type, number in self.tags:
            ethernet = ethernet / (Dot1AD if ethernet_type == ETH_8021AD else Dot1Q)(vlan=number)
        return bytes(ethernet / rest)
