"""Tells the formats of recordings apart, and finds how much of a file is whole packets."""

from typing import NamedTuple, Protocol

from rtpproxy.config import RecordFormat
from rtpproxy.recording import adhoc, pcap, pcapng
from rtpproxy.recording.adhoc import AdHoc
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.packet import Packet
from rtpproxy.recording.pcap import Pcap
from rtpproxy.recording.pcapng import Pcapng


class Format(Protocol):
    """A format that packets are written in."""

    @property
    def begin(self) -> bytes:
        """What a file begins with."""

    def packet(self, packet: Packet, wall_ns: int, dropped: int) -> bytes:
        """Encode a packet that arrived at `wall_ns` since 1970; `dropped` are missing since the one before."""

    def end(self, packets: int, dropped: int, wall_ns: int) -> bytes:
        """Encode the end of a file in which so many packets are, and so many are missing."""


class Whole(NamedTuple):
    """The part of a file up to its last whole packet."""

    kept_bytes: int
    packets: int
    is_ended: bool = False
    """The file has its end already, and nothing may follow."""


def make(kind: RecordFormat, frames: Frames, title: str) -> Format:
    """Make the writer of one file; `title` is for formats that have a place for words."""
    if kind is RecordFormat.PCAP:
        return Pcap(frames)
    return Pcapng(frames, title) if kind is RecordFormat.PCAPNG else AdHoc()


def find_format(data: bytes | memoryview) -> RecordFormat | None:
    """Tell the format of a file by its first bytes; None for something else. An empty file is RTPproxy's own format."""
    if data[: len(Pcap.begin)] == Pcap.begin:
        return RecordFormat.PCAP
    block = pcapng.read(data, 0)
    if block is not None and block[0] == pcapng.SECTION_BLOCK:
        return RecordFormat.PCAPNG
    return RecordFormat.ADHOC if not data or adhoc.read(data, 0) is not None else None


def find_whole(kind: RecordFormat, data: bytes | memoryview) -> Whole:
    """Find the part of a file of that format that is whole packets; 0 bytes if even its beginning is cut."""
    if kind is RecordFormat.PCAPNG:
        return _whole_blocks(data)
    begin = len(Pcap.begin) if kind is RecordFormat.PCAP else 0
    if data[:begin] != Pcap.begin[:begin]:
        return Whole(0, 0)
    read = pcap.read if kind is RecordFormat.PCAP else adhoc.read
    at, packets = begin, 0
    while (found := read(data, at)) is not None:
        at, packets = found[-1], packets + 1
    return Whole(at, packets)


def _whole_blocks(data: bytes | memoryview) -> Whole:
    at = packets = blocks = 0
    kind = 0
    while (found := pcapng.read(data, at)) is not None:
        kind, at = found
        blocks += 1
        packets += kind == pcapng.PACKET_BLOCK
    # The section and the interface are written at once, before all packets.
    return Whole(at, packets, kind == pcapng.STATISTICS_BLOCK) if blocks > 1 else Whole(0, 0)
