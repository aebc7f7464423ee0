"""RTP packets: the header fields that the relay needs, the check that a datagram is one, taking apart and making."""

from struct import Struct
from typing import NamedTuple

HEADER_BYTES = 12
"""Length of the fixed header."""

_PLAIN = 0x80
"""First byte of version 2 without padding, extension and CSRC list."""
MARKER = 0x80
"""Bit of the second byte, beside the payload type."""
_PADDING = 0x20
_EXTENSION = 0x10
_RTCP_FIRST, _RTCP_LAST = 200, 213
"""Second bytes of RTCP packets; on an RTP port they are the packets of rtcp-mux (RFC 5761 4)."""

_HEADER = Struct(">BBHII")
_unpack_header = _HEADER.unpack_from
_unpack_words = Struct(">H").unpack_from
_new = tuple.__new__


class RtpHeader(NamedTuple):
    """The fields of a valid RTP packet that the rules need."""

    ssrc: int
    sequence: int
    """16 bits."""
    timestamp: int
    """32 bits, in units of the payload type's clock."""
    payload_type: int
    marker: bool


def parse_rtp(data: bytes | memoryview) -> RtpHeader | None:
    """Parse the header of an RTP packet; None when the datagram is not a valid one (protocol.md 5.8)."""
    if len(data) < HEADER_BYTES:
        return None
    flags, kind, sequence, timestamp, ssrc = _unpack_header(data)
    if (flags != _PLAIN or kind >= _RTCP_FIRST) and not _is_valid(data, flags, kind):
        return None
    # Takes half the time of the generated constructor, for every packet.
    return _new(RtpHeader, (ssrc, sequence, timestamp, kind & 0x7F, kind > 0x7F))


def split_packet(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Take a packet apart that `parse_rtp` found valid: the fixed header with CSRC list, the extension, the payload.

    The padding is left out.
    """
    flags = data[0]
    if flags == _PLAIN:
        return data[:HEADER_BYTES], b"", data[HEADER_BYTES:]
    start = HEADER_BYTES + 4 * (flags & 0x0F)
    payload_at = start
    if flags & _EXTENSION:
        payload_at += 4 + 4 * int(_unpack_words(data, start + 2)[0])
    end = len(data) - (data[-1] if flags & _PADDING else 0)
    return data[:start], data[start:payload_at], data[payload_at:end]


def make_packet(header: bytes, extension: bytes, sequence: int, timestamp: int, marker: bool, payload: bytes) -> bytes:
    """Make a packet of a header with CSRC list and an extension as `split_packet` returns them, without padding.

    Payload type and SSRC are those of the header. `sequence` has 16 bits, `timestamp` 32.
    """
    flags, kind, _, _, ssrc = _unpack_header(header)
    flags = flags & ~(_PADDING | _EXTENSION) | (_EXTENSION if extension else 0)
    fixed = _HEADER.pack(flags, kind & 0x7F | (MARKER if marker else 0), sequence, timestamp, ssrc)
    return b"".join((fixed, header[HEADER_BYTES:], extension, payload))


def pack_rtp(kind: int, sequence: int, timestamp: int, ssrc: int) -> bytes:
    """Pack a header without padding, extension and CSRC list. `kind` has the marker bit and the payload type."""
    return _HEADER.pack(_PLAIN, kind, sequence, timestamp, ssrc)


def _is_valid(data: bytes | memoryview, flags: int, kind: int) -> bool:
    """True if the version is 2, it is no RTCP, and CSRC list, extension and padding fit into `data`.

    `data` has at least 12 bytes, of which `flags` and `kind` are the first two.
    """
    if flags >> 6 != 2 or _RTCP_FIRST <= kind <= _RTCP_LAST:
        return False
    size = len(data)
    payload_at = HEADER_BYTES + 4 * (flags & 0x0F)
    if flags & _EXTENSION:
        if size < payload_at + 4:
            return False
        payload_at += 4 + 4 * int(_unpack_words(data, payload_at + 2)[0])
    padding = data[-1] if flags & _PADDING else 0
    if flags & _PADDING and padding == 0:
        return False
    return payload_at + padding <= size
