"""Classic pcap files, byte for byte as the C RTPproxy writes them (protocol.md 8.5)."""

import struct

from rtpproxy.recording.frames import Frames
from rtpproxy.recording.packet import Packet

_FILE = struct.Struct("=IHHiIII")
_RECORD = struct.Struct("=IIII")
MAGIC, _MAJOR, _MINOR = 0xA1B2C3D4, 2, 4
SNAPLEN = 65535
LINK_ETHERNET = 1
_NS_PER_S, _NS_PER_US = 1_000_000_000, 1_000
_MOST_SECONDS = 0xFFFFFFFF


class Pcap:
    """Writes packets of this format."""

    def __init__(self, frames: Frames) -> None:
        """`frames` are those of the process, because all files share the numbers of IPv4 headers."""
        self._frames = frames

    begin = _FILE.pack(MAGIC, _MAJOR, _MINOR, 0, 0, SNAPLEN, LINK_ETHERNET)
    """The file header, in host order."""

    def packet(self, packet: Packet, wall_ns: int, dropped: int) -> bytes:
        """Encode a packet that arrived at `wall_ns` since 1970. The format has no place for how many were dropped."""
        frame = self._frames.frame(packet)
        seconds, rest_ns = divmod(wall_ns, _NS_PER_S)
        kept = frame[:SNAPLEN]
        return _RECORD.pack(seconds & _MOST_SECONDS, rest_ns // _NS_PER_US, len(kept), len(frame)) + kept

    def end(self, packets: int, dropped: int, wall_ns: int) -> bytes:
        """Return nothing: the format has no trailer."""
        return b""


def read(data: bytes | memoryview, at: int) -> tuple[int, int] | None:
    """Find the packet at an offset: where its frame begins, and where it ends. None where no whole packet is."""
    if at + _RECORD.size > len(data):
        return None
    _, _, kept, _ = _RECORD.unpack_from(data, at)
    begin = at + _RECORD.size
    return (begin, begin + kept) if kept <= SNAPLEN and begin + kept <= len(data) else None
