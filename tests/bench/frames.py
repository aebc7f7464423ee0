"""Frames of RTP over IPv4 or IPv6: 160 bytes of payload, of which eight say when the packet was sent."""

import socket
import struct
from typing import NamedTuple

from tests.netns import Phone

IP_BYTES = {4: 20, 6: 40}
_ADDRESS_BYTES = {4: 4, 6: 16}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ETHERNET_BYTES = 14
_RTP_HEADER_BYTES = 12
_RTP_BYTES = 172
UDP_BYTES = 8 + _RTP_BYTES
"""Length of a packet from its UDP header on."""
STAMP_OFFSET = 8 + _RTP_HEADER_BYTES + 2
"""Of the time sent, from the UDP header on: the same in both families, so that it survives a change of family."""
_STAMP_BYTES = 8
FILLER = 0xD5  # silence in PCMA
FIRST_SSRC = 0x52540000
_PAYLOAD_TYPE = 8


class StreamSpec(NamedTuple):
    """Source and destination of a stream's packets, addresses of one family."""

    src_ip: str
    src_port: int
    dst_ip: str
    dst_port: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.src_ip else 4


def frame_bytes(version: int) -> int:
    """Length of a whole frame."""
    return udp_offset(version) + UDP_BYTES


def udp_offset(version: int) -> int:
    """Offset of the UDP header in a frame."""
    return _ETHERNET_BYTES + IP_BYTES[version]


def build_frame(phone: Phone, number: int, spec: StreamSpec) -> bytes:
    """The frame of stream `number`, with sequence number, timestamp, time sent and UDP checksum at zero."""
    udp = struct.pack("!4H", spec.src_port, spec.dst_port, UDP_BYTES, 0)
    rtp = struct.pack("!BBHII", 0x80, _PAYLOAD_TYPE, 0, 0, FIRST_SSRC + number)
    filler = bytes([FILLER])
    start = mac_bytes(phone.gateway.mac) + mac_bytes(phone.mac) + _ip_header(spec) + udp + rtp + filler * 2
    return start + bytes(_STAMP_BYTES) + filler * (frame_bytes(spec.version) - len(start) - _STAMP_BYTES)


def udp_sum(frame: bytes, version: int) -> int:
    """One's complement sum (RFC 1071), in host order, of all that the UDP checksum covers."""
    start = udp_offset(version) - 2 * _ADDRESS_BYTES[version]  # both headers end with the addresses
    covered = struct.pack("!HH", socket.IPPROTO_UDP, UDP_BYTES) + frame[start:]
    return sum(struct.unpack(f"={len(covered) // 2}H", covered)) % 65535


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC address in text form."""
    return bytes.fromhex(mac.replace(":", ""))


def _ip_header(spec: StreamSpec) -> bytes:
    """An IP header, with the Ethernet type before it."""
    addresses = b"".join(socket.inet_pton(_FAMILY[spec.version], ip) for ip in (spec.src_ip, spec.dst_ip))
    if spec.version == 6:
        return b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, UDP_BYTES, socket.IPPROTO_UDP, 64) + addresses
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + UDP_BYTES, 0, 0x4000, 64, socket.IPPROTO_UDP)
    total = sum(struct.unpack("!9H", start + addresses)) % 65535
    return b"\x08\x00" + start + struct.pack("!H", 65535 - total) + addresses
