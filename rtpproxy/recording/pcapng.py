"""pcapng files, a format of ours (draft-ietf-opsawg-pcapng): as pcap, and it says what is missing.

Each packet tells how many were dropped before it (`epb_dropcount`), and the end of the file how many in all, in numbers
(`isb_ifdrop`) and in words (`opt_comment`). Times are in nanoseconds.
"""

import struct

from rtpproxy.recording.frames import Frames
from rtpproxy.recording.packet import Packet
from rtpproxy.recording.pcap import LINK_ETHERNET, SNAPLEN

_BLOCK = struct.Struct("=II")
_SECTION = struct.Struct("=IHHq")
_INTERFACE = struct.Struct("=HHI")
_PACKET = struct.Struct("=IIIIIII")
"""What its block begins with: type and length of the block; interface, time in two parts, bytes kept, bytes of all."""
_STATISTICS = struct.Struct("=III")
_OPTION = struct.Struct("=HH")
_LENGTH = struct.Struct("=I")
_COUNT = struct.Struct("=Q")
SECTION_BLOCK, INTERFACE_BLOCK, STATISTICS_BLOCK, PACKET_BLOCK = 0x0A0D0D0A, 1, 5, 6
BYTE_ORDER, _MAJOR, _MINOR, _UNKNOWN_LENGTH = 0x1A2B3C4D, 1, 0, -1
_END, _COMMENT, _APPLICATION = 0, 1, 4
"""Options of a section; the first two may be in any block."""
_NAME, _RESOLUTION = 2, 9
"""Options of an interface."""
_DROPPED_BEFORE = 4
"""Option of a packet."""
_RECEIVED, _DROPPED = 4, 5
"""Options of the statistics."""
_NANOSECONDS = b"\x09"
_ALIGNMENT = 4
_LEAST, _MOST = 12, 1 << 20
"""Bytes of a block, as far as files of ours go."""
_LOW = 0xFFFFFFFF


class Pcapng:
    """Writes packets of this format."""

    def __init__(self, frames: Frames, title: str) -> None:
        """`title` says whose recording it is, in the comment of the file."""
        self._frames = frames
        section = _SECTION.pack(BYTE_ORDER, _MAJOR, _MINOR, _UNKNOWN_LENGTH)
        about = _options((_COMMENT, title.encode()), (_APPLICATION, b"rtpproxy"))
        interface = _INTERFACE.pack(LINK_ETHERNET, 0, SNAPLEN)
        of_interface = _options((_NAME, b"rtpproxy"), (_RESOLUTION, _NANOSECONDS))
        self.begin = _block(SECTION_BLOCK, section, about) + _block(INTERFACE_BLOCK, interface, of_interface)

    def packet(self, packet: Packet, wall_ns: int, dropped: int) -> bytes:
        """Encode a packet that arrived at `wall_ns` since 1970, and before which `dropped` are missing."""
        frame = self._frames.frame(packet)
        kept = frame[:SNAPLEN]
        padding = bytes(-len(kept) % _ALIGNMENT)
        missing = _options((_DROPPED_BEFORE, _COUNT.pack(dropped))) if dropped else b""
        length = _PACKET.size + len(kept) + len(padding) + len(missing) + _LENGTH.size
        # Not by _block: this is done for every packet.
        head = _PACKET.pack(PACKET_BLOCK, length, 0, wall_ns >> 32, wall_ns & _LOW, len(kept), len(frame))
        return b"".join((head, kept, padding, missing, _LENGTH.pack(length)))

    def end(self, packets: int, dropped: int, wall_ns: int) -> bytes:
        """Encode the statistics of the whole file."""
        head = _STATISTICS.pack(0, wall_ns >> 32, wall_ns & _LOW)
        words = f"{packets} packets recorded, {dropped} lost".encode()
        counts = (_RECEIVED, _COUNT.pack(packets + dropped)), (_DROPPED, _COUNT.pack(dropped))
        return _block(STATISTICS_BLOCK, head, _options((_COMMENT, words), *counts))


def read(data: bytes | memoryview, at: int) -> tuple[int, int] | None:
    """Find the block at an offset: its type, and where it ends. None where no whole block is."""
    if at + _LEAST > len(data):
        return None
    kind, length = _BLOCK.unpack_from(data, at)
    end = at + length
    if not _LEAST <= length <= _MOST or length % _ALIGNMENT or end > len(data):
        return None
    return (kind, end) if _LENGTH.unpack_from(data, end - _LENGTH.size)[0] == length else None


def _block(kind: int, *parts: bytes) -> bytes:
    length = _LEAST + sum(map(len, parts))
    return b"".join((_BLOCK.pack(kind, length), *parts, _LENGTH.pack(length)))


def _options(*options: tuple[int, bytes]) -> bytes:
    return b"".join(_OPTION.pack(code, len(value)) + _padded(value) for code, value in (*options, (_END, b"")))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
