"""Reading of RTCP: reports of senders and receivers, descriptions of sources, VoIP metrics (RFC 3550 6, RFC 3611 4.7).

A datagram holds one packet or several in a row. Each has a header with its length, so a packet of any kind can be
passed over. Something wrong ends the reading: what was read up to there is kept, and the datagram is called malformed.
"""

from struct import Struct
from typing import NamedTuple

SENDER_REPORT, RECEIVER_REPORT, DESCRIPTION, BYE, APPLICATION, EXTENDED_REPORT = 200, 201, 202, 203, 204, 207
MOST_REPORTS = 4
"""Reports that are read of one datagram; each has up to 31 blocks. Nobody needs more, but a flood would use them."""
MOST_ITEMS = 32
"""Items of descriptions that are read of one datagram, for the same reason."""

_FIRST_KIND, _LAST_KIND = 192, 223
"""Packet types that RTCP may have (RFC 5761 4)."""
_VERSION_2, _PADDING, _COUNT = 2, 0x20, 0x1F
_HEADER_BYTES = 4
_VOIP_METRICS, _VOIP_METRICS_BYTES = 7, 32
_NEGATIVE_24 = 1 << 23

_unpack_header = Struct(">BBH").unpack_from
_unpack_word = Struct(">I").unpack_from
_SENDER = Struct(">IIIIII")
"""SSRC; NTP timestamp in two parts, RTP timestamp, packets, octets."""
_BLOCK = Struct(">IIIIII")
"""Of a report: source; fraction lost (8 bits) and packets lost (24, signed); highest number; jitter; LSR; DLSR."""
_METRICS = Struct(">IBBBBHHHH")
_new = tuple.__new__

_ENCRYPTED_FLAG, _INDEX_LIMIT = 1 << 31, 1 << 24
_AFTER_INDEX = (0, 1, 4, 5, 8, 10, 11, 14)
"""Bytes that follow the index of an SRTCP packet (RFC 3711 3.4): the tag, of 10 bytes, of 4 where it is cut against
RFC 4568 6.2, of none with AEAD (RFC 7714 9.2), and a key identifier of none, 1 or 4 bytes."""


class SenderInformation(NamedTuple):
    """What a sender report says of the sender, with the names of RFC 3550 6.4.1."""

    ntp_seconds: int
    """Since 1900."""
    ntp_fraction: int
    """In units of 2^-32 seconds."""
    rtp_timestamp: int
    packets: int
    octets: int


class ReportBlock(NamedTuple):
    """What a receiver says of one source."""

    ssrc: int
    fraction_lost: int
    """In units of 1/256, since the report before."""
    packets_lost: int
    """Negative where more packets came than were expected: copies."""
    highest_sequence: int
    jitter: int
    """In units of the RTP timestamp."""
    last_report: int
    """LSR: the middle of the NTP timestamp in the source's last report; 0 for none."""
    delay: int
    """DLSR: time since that report, in units of 2^-16 seconds."""


class Report(NamedTuple):
    """A sender or receiver report."""

    kind: int
    """SENDER_REPORT or RECEIVER_REPORT."""
    ssrc: int
    sender: SenderInformation | None
    blocks: tuple[ReportBlock, ...]


class Item(NamedTuple):
    """One item of a source's description."""

    ssrc: int
    kind: int
    """1 for CNAME (RFC 3550 6.5)."""
    text: bytes
    """UTF-8, if the sender keeps to the rules."""


class VoipMetrics(NamedTuple):
    """The first half of a VoIP metrics block, with the names and units of RFC 3611 4.7."""

    reporter: int
    ssrc: int
    loss_rate: int
    discard_rate: int
    burst_density: int
    gap_density: int
    burst_duration: int
    gap_duration: int
    round_trip_delay: int
    end_system_delay: int


class Rtcp(NamedTuple):
    """What could be read of a datagram."""

    reports: tuple[Report, ...] = ()
    chunks: int = 0
    """Sources that are described."""
    describer: int | None = None
    """SSRC of the first of them."""
    items: tuple[Item, ...] = ()
    metrics: VoipMetrics | None = None
    """The first block of them."""
    is_malformed: bool = False
    """Something was wrong, or there was more than is read."""
    is_encrypted: bool = False
    """It is SRTCP (RFC 3711 3.4): nothing but the first header could be read."""


_Span = tuple[int, int, int, int]
"""One packet of a datagram: its kind, how many reports or sources its header tells of, and where its content begins and
ends, without padding."""


def read_rtcp(data: bytes) -> Rtcp:
    """Read the datagram that came to an RTCP port. Never raises."""
    spans, first_end, is_whole = _walk(data)
    if not is_whole and 0 < first_end <= len(data) and _has_srtcp_index(data, first_end):
        return Rtcp(is_encrypted=True)
    reports: list[Report] = []
    items: list[Item] = []
    chunks, describer, metrics = 0, None, None
    for kind, count, begin, end in spans:
        if kind in (SENDER_REPORT, RECEIVER_REPORT):
            report = _read_report(data, kind, count, begin, end) if len(reports) < MOST_REPORTS else None
            if report is not None:
                reports.append(report)
            is_whole &= report is not None and len(report.blocks) == count
        elif kind == DESCRIPTION:
            described, is_read = _read_description(data, count, begin, end, items)
            chunks += count
            describer = described if describer is None else describer
            is_whole &= is_read
        elif kind == EXTENDED_REPORT:
            found, is_read = _read_metrics(data, begin, end)
            metrics = metrics or found
            is_whole &= is_read
        elif kind == BYE:
            is_whole &= begin + 4 * count <= end
    return Rtcp(tuple(reports), chunks, describer, tuple(items), metrics, not is_whole)


def _walk(data: bytes) -> tuple[list[_Span], int, bool]:
    """Find the packets of a datagram.

    Returns them, with one that is cut off; the end of the first by its length, 0 if there is none; and whether the last
    ends where the datagram does.
    """
    spans: list[_Span] = []
    at, first_end, size = 0, 0, len(data)
    while at + _HEADER_BYTES <= size:
        flags, kind, words = _unpack_header(data, at)
        if flags >> 6 != _VERSION_2 or not _FIRST_KIND <= kind <= _LAST_KIND:
            break
        begin, end = at + _HEADER_BYTES, at + _HEADER_BYTES + 4 * words
        first_end = first_end or end
        padding = 0
        if flags & _PADDING and end <= size:
            padding = data[end - 1]
            if not 0 < padding <= end - begin:
                break
        spans.append((kind, flags & _COUNT, begin, min(end, size) - padding))
        at = end
    return spans, first_end, at == size > 0


def _has_srtcp_index(data: bytes, first_end: int) -> bool:
    """Tell if a datagram that does not end with an RTCP packet ends as an encrypted SRTCP packet does.

    Its first header is plain, with the true length of the first packet; all behind the SSRC is encrypted. Then follow a
    flag and a 31-bit index, which counts the packets of a call, and so is small. One in 80 datagrams that end with
    something else is taken for SRTCP.
    """
    size = len(data)
    for after in _AFTER_INDEX:
        at = size - after - 4
        if at >= first_end and at % 4 == 0 and 0 <= _unpack_word(data, at)[0] - _ENCRYPTED_FLAG < _INDEX_LIMIT:
            return True
    return False


def _read_report(data: bytes, kind: int, count: int, begin: int, end: int) -> Report | None:
    """Read a report with the blocks that are there; None where it is too short for anything."""
    if kind == SENDER_REPORT:
        blocks_at = begin + _SENDER.size
        if blocks_at > end:
            return None
        ssrc, *about = _SENDER.unpack_from(data, begin)
        # Takes half the time of the generated constructors, for every packet.
        sender = _new(SenderInformation, about)
    else:
        blocks_at = begin + 4
        if blocks_at > end:
            return None
        ssrc, sender = _unpack_word(data, begin)[0], None
    room = (end - blocks_at) // _BLOCK.size
    blocks = data[blocks_at : blocks_at + min(count, room) * _BLOCK.size]
    return _new(Report, (kind, ssrc, sender, tuple([_make_block(*words) for words in _BLOCK.iter_unpack(blocks)])))


def _make_block(ssrc: int, losses: int, highest: int, jitter: int, last_report: int, delay: int) -> ReportBlock:
    lost = losses & 0xFFFFFF
    lost -= (lost & _NEGATIVE_24) << 1
    return _new(ReportBlock, (ssrc, losses >> 24, lost, highest, jitter, last_report, delay))


def _read_description(data: bytes, count: int, at: int, end: int, items: list[Item]) -> tuple[int | None, bool]:
    """Add the items of a description to `items`. Returns the SSRC of its first source, and whether all was right."""
    first = None
    for _ in range(count):
        if at + 4 > end:
            return first, False
        (ssrc,) = _unpack_word(data, at)
        first = ssrc if first is None else first
        at += 4
        while at < end and data[at]:
            text_at = at + 2
            if text_at > end or text_at + data[at + 1] > end or len(items) == MOST_ITEMS:
                return first, False
            text_end = text_at + data[at + 1]
            items.append(_new(Item, (ssrc, data[at], data[text_at:text_end])))
            at = text_end
        if at >= end:
            return first, False
        # A null byte ends the items, and more of them fill the word.
        at += 4 - at % 4
    return first, True


def _read_metrics(data: bytes, begin: int, end: int) -> tuple[VoipMetrics | None, bool]:
    """Read the VoIP metrics of an extended report. Returns None where there are none, and whether all was right."""
    at = begin + 4
    if at > end:
        return None, False
    (reporter,) = _unpack_word(data, begin)
    found = None
    while at + _HEADER_BYTES <= end:
        kind, _, words = _unpack_header(data, at)
        at += _HEADER_BYTES
        if at + 4 * words > end:
            return found, False
        if kind == _VOIP_METRICS:
            if 4 * words != _VOIP_METRICS_BYTES:
                return found, False
            found = found or VoipMetrics(reporter, *_METRICS.unpack_from(data, at))
        at += 4 * words
    return found, at == end
