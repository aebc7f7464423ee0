"""Whole frames of RTP and RTCP, as phones send them and as a relay must deliver them.

scapy builds the frame of the first call of a kind and direction. The frames of the other calls differ in addresses,
ports and SSRCs only; they are copies, one row for each call, in which these are patched. What changes from packet to
packet is filled in for many packets at once, and the UDP checksum is brought up to date from the sum of the
rest.

The payload carries what the judge finds it by, its *mark*: 2 bytes of magic, 2 of the stream, 4 of the number of the
packet in the order that was sent, 4 of its place in the schedule, which also gives sequence number and timestamp.
"""

import enum
import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scapy.contrib.rtcp import RTCP, ReceptionReport, SDESChunk, SDESItem, SenderInfo
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.rtp import RTP
from scapy.packet import Raw

from generator.addresses import ETH_8021AD, Tags
from generator.codecs import Codec
from generator.words import Numbers, Rows, fold, get, halves, put, word_sum

MAGIC, STRAY_MAGIC = 0x7E57, 0x7E5A
MARK_BYTES = 12
MIN_SIZE, MAX_SIZE = MARK_BYTES, 1400
FIRST_SEQUENCE = 65000
"""The numbers start over after 536 packets: a relay must not mind."""
_NTP_START = 0xEC000000
_RTP_HEADER_BYTES = 12
_SENDER_REPORT_BYTES = 52
_ETHERNET_BYTES = 14
_APP = 204


class Kind(enum.Enum):
    """Component of a stream."""

    RTP = "rtp"
    RTCP = "rtcp"


class Flow(NamedTuple):
    """Where the frames of a stream come from and go to."""

    source_mac: str
    source: str
    source_port: int
    mac: str
    destination: str
    port: int


@dataclass(frozen=True)
class Marking:
    """What IP headers carry beside addresses: `tos` is the whole byte, `ttl` also the hop limit."""

    tos: int
    ttl: int
    is_df_set: bool = True


class Layout:
    """Offsets in frames of one kind. Frames of all calls of a kind and direction have one layout."""

    def __init__(self, tags: Tags, version: int, payload_bytes: int, kind: Kind) -> None:
        self.tags = tags
        self.version = version
        self.kind = kind
        self.ip = _ETHERNET_BYTES + 4 * len(tags)
        self.udp = self.ip + (20 if version == 4 else 40)
        self.payload = self.udp + 8
        self.length = self.payload + payload_bytes
        self.mark = self.payload + _RTP_HEADER_BYTES if kind is Kind.RTP else self.length - MARK_BYTES
        self.address_bytes = 4 if version == 4 else 16
        self.source = self.udp - 2 * self.address_bytes
        self.destination = self.udp - self.address_bytes


class Streams(NamedTuple):
    """Numbers of the streams of a kind and direction: `first_stream` in marks, SSRCs of sender and receiver."""

    first_stream: int
    first_ssrc: int
    first_peer_ssrc: int
    magic: int = MAGIC


def rtp_payload(codec: Codec, size: int, seed: int) -> bytes:
    """Build an RTP packet whose payload, behind the mark, is random by `seed`."""
    filler = random.Random(seed).randbytes(size - MARK_BYTES)
    header = RTP(version=2, payload_type=codec.payload_type, sequence=0, timestamp=0, sourcesync=0)
    return bytes(header / Raw(bytes(MARK_BYTES) + filler))


def rtcp_payload() -> bytes:
    """Build a compound RTCP packet: sender report with a report block, CNAME, and an APP packet with the mark."""
    report = RTCP(
        packet_type=200,
        count=1,
        sourcesync=0,
        sender_info=SenderInfo(ntp_timestamp=0, rtp_timestamp=0, sender_packet_count=0, sender_octet_count=0),
        report_blocks=[
            ReceptionReport(
                sourcesync=0,
                fraction_lost=0,
                cumulative_lost=0,
                highest_seqnum_recv=FIRST_SEQUENCE,
                interarrival_jitter=0,
                last_SR_timestamp=0,
                delay_since_last_SR=0,
            )
        ],
    )
    name = SDESChunk(sourcesync=0, items=[SDESItem(chunk_type="CNAME", value=b"phone@tester"), SDESItem(chunk_type=0)])
    described = RTCP(packet_type=202, count=1, sdes_chunks=[name])
    app = struct.pack("!BBHI4s", 0x80, _APP, 2 + MARK_BYTES // 4, 0, b"TEST") + bytes(MARK_BYTES)
    return bytes(report) + bytes(described) + app


def scapy_frame(flow: Flow, tags: Tags, marking: Marking, payload: bytes) -> bytes:
    """Build one frame, its checksums right for this payload."""
    frame: Any = Ether(src=flow.source_mac, dst=flow.mac)
    for ethernet_type, number in tags:
        frame = frame / (Dot1AD if ethernet_type == ETH_8021AD else Dot1Q)(vlan=number)
    if ":" in flow.destination:
        frame = frame / IPv6(src=flow.source, dst=flow.destination, tc=marking.tos, hlim=marking.ttl, fl=0)
    else:
        flags = "DF" if marking.is_df_set else 0
        frame = frame / IP(src=flow.source, dst=flow.destination, tos=marking.tos, ttl=marking.ttl, flags=flags, id=0)
    return bytes(frame / UDP(sport=flow.source_port, dport=flow.port) / Raw(payload))


def mac_bytes(mac: str) -> bytes:
    """Turn `02:00:…` into six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def ip_bytes(address: str) -> bytes:
    """Turn an address in text form into 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


class Frames:
    """Frames of one kind and direction: a row for each call, and filled-in copies of rows, one for each packet."""

    def __init__(self, layout: Layout, rows: Rows, timestamp_step: int) -> None:
        """`rows` have zeros where fields are filled in, and as UDP checksum."""
        self.layout = layout
        self.rows = rows
        self._step = timestamp_step
        self.pseudo_sums = self._pseudo_sums()
        self._sums = self.pseudo_sums + word_sum(rows, layout.udp, layout.length)

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, calls: Numbers, numbers: Numbers, places: Numbers) -> Rows:
        """Make the frames of these packets: of which call, with which number, in which place of the schedule."""
        rows = self.rows[calls]
        layout = self.layout
        sums = self._sums[calls] + halves(numbers) + halves(places)
        put(rows, layout.mark + 4, 4, numbers)
        put(rows, layout.mark + 8, 4, places)
        timestamps = places * self._step & 0xFFFFFFFF
        if layout.kind is Kind.RTP:
            sequences = places + FIRST_SEQUENCE & 0xFFFF
            put(rows, layout.payload + 2, 2, sequences)
            put(rows, layout.payload + 4, 4, timestamps)
            sums = sums + sequences + halves(timestamps)
        else:
            ntp = places + _NTP_START & 0xFFFFFFFF
            put(rows, layout.payload + 8, 4, ntp)
            put(rows, layout.payload + 16, 4, timestamps)
            put(rows, layout.payload + 20, 4, numbers)  # packets sent so far
            sums = sums + halves(ntp) + halves(timestamps) + halves(numbers)
        checksums = 0xFFFF - fold(sums)
        put(rows, layout.udp + 6, 2, np.where(checksums == 0, 0xFFFF, checksums))
        return rows

    def _pseudo_sums(self) -> Numbers:
        """Sum of the pseudo header: addresses, protocol, length."""
        layout = self.layout
        addresses = word_sum(self.rows, layout.source, layout.udp)
        return addresses + socket.IPPROTO_UDP + (layout.length - layout.udp)


def build(
    flows: Sequence[Flow], layout: Layout, marking: Marking, payload: bytes, streams: Streams, timestamp_step: int
) -> Frames:
    """Build the frames of all calls of a kind and direction."""
    first = np.frombuffer(scapy_frame(flows[0], layout.tags, marking, payload), dtype=np.uint8)
    rows = np.tile(first, (len(flows), 1))
    _put_bytes(rows, 0, [mac_bytes(flow.mac) for flow in flows])
    _put_bytes(rows, 6, [mac_bytes(flow.source_mac) for flow in flows])
    _put_bytes(rows, layout.source, [ip_bytes(flow.source) for flow in flows])
    _put_bytes(rows, layout.destination, [ip_bytes(flow.destination) for flow in flows])
    put(rows, layout.udp, 2, np.array([flow.source_port for flow in flows]))
    put(rows, layout.udp + 2, 2, np.array([flow.port for flow in flows]))
    put(rows, layout.udp + 6, 2, 0)
    numbers = np.arange(len(flows))
    put(rows, layout.mark, 2, streams.magic)
    put(rows, layout.mark + 2, 2, streams.first_stream + numbers)
    for offset in ssrc_offsets(layout):
        put(rows, layout.payload + offset, 4, streams.first_ssrc + numbers)
    if layout.kind is Kind.RTCP:
        put(rows, layout.payload + 28, 4, streams.first_peer_ssrc + numbers)
    if layout.version == 4:
        put(rows, layout.ip + 10, 2, 0)
        put(rows, layout.ip + 10, 2, 0xFFFF - fold(word_sum(rows, layout.ip, layout.udp)))
    return Frames(layout, rows, timestamp_step)


def ssrc_offsets(layout: Layout) -> tuple[int, ...]:
    """Offsets of the sender's SSRC, from the UDP payload on: in RTP, or in each of the three RTCP packets."""
    if layout.kind is Kind.RTP:
        return (8,)
    return (4, _SENDER_REPORT_BYTES + 4, layout.mark - layout.payload - 8)


def read_marks(rows: Rows, offset: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Read magic, stream, number and place."""
    return get(rows, offset, 2), get(rows, offset + 2, 2), get(rows, offset + 4, 4), get(rows, offset + 8, 4)


def _put_bytes(rows: Rows, offset: int, values: list[bytes]) -> None:
    width = len(values[0])
    rows[:, offset : offset + width] = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(rows), width)
