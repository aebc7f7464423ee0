"""Telephone events (DTMF) in RTP: reads their packets, and finds each event once (RFC 4733; protocol.md 13.3).

A sender repeats the packet of an event, with its duration so far, about every 50 ms, and the last one, with the end
bit, three times. All have the timestamp of the event's start. Times are nanoseconds, of one clock.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from rtpproxy.rtp.header import HEADER_BYTES, RtpHeader, parse_rtp

REMEMBERED = 4
"""Events that are remembered of a stream (protocol.md 13.3)."""
SILENCE_NS = 1_000_000_000
"""An event without an end is over when nothing came of it for so long."""
DIGITS = b"0123456789*#ABCD "
"""Characters of the events that are told, by code; that of a hook flash (16) is a space."""
MOST_BLOCKS = 8
"""Events that one packet may have, one after the other (RFC 4733)."""

_block = Struct(">BBH")
_extension_words = Struct(">2xH").unpack_from
_END, _VOLUME = 0x80, 0x3F
_WORD = 0xFFFFFFFF
_LONG_UNITS = 0x8000
"""A segment of a long event lasts so long at least, in timestamp units; no longer than 0xFFFF (RFC 4733 2.5.1.3)."""
_GAP_UNITS = 1600
"""So much of a segment's duration may be missing, for want of its last packets, where the next one begins."""
_LATE_UNITS = 1 << 19
"""A packet of an event that is forgotten is late by no more: what is further behind is of a clock that was set back."""


class Event(NamedTuple):
    """An event that was found."""

    digit: bytes
    """One character."""
    volume: int
    """In dBm0, without its sign: 0 to 63."""
    duration: int
    """In timestamp units: over all segments of a long event."""
    ssrc: int
    timestamp: int
    """When it began. With the SSRC it tells the event from all others of the stream."""


class Block(NamedTuple):
    """What a packet says of one event."""

    code: int
    is_end: bool
    volume: int
    duration: int


def payload_of(data: bytes) -> bytes:
    """Return the payload of an RTP packet that is valid (`parse_rtp`), without padding."""
    flags = data[0]
    at = HEADER_BYTES + 4 * (flags & 0x0F)
    if flags & 0x10:
        at += 4 + 4 * int(_extension_words(data, at)[0])
    return data[at : len(data) - data[-1]] if flags & 0x20 else data[at:]


def read_blocks(payload: bytes) -> Sequence[Block]:
    """Read the payload of a packet of events. Empty if its length is none that such a payload has."""
    if len(payload) % _block.size or len(payload) > MOST_BLOCKS * _block.size:
        return ()
    return [
        Block(code, bool(flags & _END), flags & _VOLUME, duration)
        for code, flags, duration in _block.iter_unpack(payload)
    ]


class _Heard:
    """An event of which packets came."""

    __slots__ = (
        "before",
        "code",
        "first",
        "is_told",
        "last",
        "last_ns",
        "longest",
        "segment",
        "ssrc",
        "start",
        "volume",
    )

    def __init__(self, ssrc: int, timestamp: int, code: int, number: int) -> None:
        self.ssrc = ssrc
        self.code = code
        self.start = self.segment = timestamp
        """Timestamps of the event, and of its newest segment."""
        self.before = 0
        """Duration of the segments before that."""
        self.longest = 0
        """Largest duration of the newest segment."""
        self.volume = 0
        self.first = self.last = number
        """Numbers of its packets among all of the stream."""
        self.last_ns = 0
        self.is_told = False

    @property
    def is_open(self) -> bool:
        """Two packets came of it, and its end did not."""
        return not self.is_told and self.last > self.first

    def has(self, ssrc: int, timestamp: int) -> bool:
        """Tell if a packet is of this event: of its start, or of a segment of it."""
        return ssrc == self.ssrc and timestamp - self.start & _WORD <= self.segment - self.start & _WORD

    def is_continued(self, header: RtpHeader, timestamp: int, code: int) -> bool:
        """Tell if a packet begins another segment of it: where the last one ended, and without a marker."""
        past = timestamp - self.segment & _WORD
        return (
            not (self.is_told or header.marker)
            and (header.ssrc, code) == (self.ssrc, self.code)
            and _LONG_UNITS <= past <= 0xFFFF
            and self.longest <= past <= self.longest + _GAP_UNITS
        )

    def event(self) -> Event:
        """Return what is known of it by now."""
        digit = DIGITS[self.code : self.code + 1]
        return Event(digit, self.volume, self.before + self.longest, self.ssrc, self.start)


class EventDetector:
    """Finds the events of one stream.

    An event is told when its end comes after another packet of it; a lone end tells nothing (protocol.md 13.3). Where
    the end is lost, it is told before the next one that is, after a second of silence, or when it is forgotten.
    """

    def __init__(self) -> None:
        self._heard: deque[_Heard] = deque()
        """Oldest first."""
        self._forgotten: dict[int, int] = {}
        """By SSRC, of a few: timestamp up to which events were forgotten."""
        self._packets = 0

    def packet(self, data: bytes, now_ns: int) -> list[Event]:
        """Take an RTP packet. Returns the events that are known now; nothing for any other datagram."""
        header = parse_rtp(data)
        if header is None:
            return []
        found: list[Event] = []
        timestamp = header.timestamp
        for block in read_blocks(payload_of(data)):
            if block.code < len(DIGITS):
                found += self._take(header, timestamp, block, now_ns)
            timestamp = timestamp + block.duration & _WORD
        return found

    def silent(self, now_ns: int) -> list[Event]:
        """Return the events of which nothing came for a second. To be called about that often."""
        over = [one for one in self._heard if one.is_open and now_ns - one.last_ns >= SILENCE_NS]
        return [_tell(one) for one in over]

    def _take(self, header: RtpHeader, timestamp: int, block: Block, now_ns: int) -> Iterator[Event]:
        heard = next((one for one in self._heard if one.has(header.ssrc, timestamp)), None)
        if heard is None:
            heard = next((one for one in self._heard if one.is_continued(header, timestamp, block.code)), None)
            if heard is None:
                if not self._is_late(header.ssrc, timestamp):
                    yield from self._begin(header.ssrc, timestamp, block, now_ns)
                return
            heard.before += timestamp - heard.segment & _WORD
            heard.segment, heard.longest = timestamp, 0
        if heard.is_told or heard.code != block.code:
            return
        self._hear(heard, timestamp, block, now_ns)
        if block.is_end and timestamp == heard.segment:
            yield from [_tell(one) for one in self._heard if one.is_open and one.last < heard.first]
            yield _tell(heard)

    def _begin(self, ssrc: int, timestamp: int, block: Block, now_ns: int) -> Iterator[Event]:
        self._packets += 1
        heard = _Heard(ssrc, timestamp, block.code, self._packets)
        heard.last_ns, heard.longest, heard.volume = now_ns, block.duration, block.volume
        self._heard.append(heard)
        if len(self._heard) > REMEMBERED:
            oldest = self._heard.popleft()
            self._forget(oldest)
            if oldest.is_open:
                yield _tell(oldest)

    def _hear(self, heard: _Heard, timestamp: int, block: Block, now_ns: int) -> None:
        self._packets += 1
        heard.last, heard.last_ns = self._packets, now_ns
        if timestamp == heard.segment:
            heard.longest, heard.volume = max(heard.longest, block.duration), block.volume

    def _forget(self, heard: _Heard) -> None:
        before = self._forgotten.pop(heard.ssrc, heard.segment)
        is_later = heard.segment - before & _WORD <= _WORD >> 1
        self._forgotten[heard.ssrc] = heard.segment if is_later else before
        if len(self._forgotten) > REMEMBERED:
            del self._forgotten[next(iter(self._forgotten))]

    def _is_late(self, ssrc: int, timestamp: int) -> bool:
        forgotten = self._forgotten.get(ssrc)
        return forgotten is not None and forgotten - timestamp & _WORD <= _LATE_UNITS


def _tell(heard: _Heard) -> Event:
    heard.is_told = True
    return heard.event()


# As bytes, for another process of this host

_told = Struct("=cBIII")
_untold = Struct("=I")


def encode_event(event: Event) -> bytes:
    """Encode an event, for `decode`."""
    return _told.pack(event.digit, event.volume, min(event.duration, _WORD), event.ssrc, event.timestamp)


def encode_untold(events: int) -> bytes:
    """Encode how many events were not told, for `decode`."""
    return _untold.pack(events)


def decode(data: bytes) -> Event | int:
    """Decode an event, or how many were not told."""
    if len(data) == _untold.size:
        return int(_untold.unpack(data)[0])
    return Event(*_told.unpack(data))
