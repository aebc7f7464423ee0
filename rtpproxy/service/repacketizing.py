"""Repacketizes what the parties send for whom a command asked for it (protocol.md 6.4, `rtp.resizer`).

What waits is sent with the next packet of the stream, or when a timer finds that it has waited long enough.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.resizer import Resizer
from rtpproxy.session.session import Session, Stream
from rtpproxy.session.totals import Totals

CHECK_S = 0.010
"""Time between two looks at what waits, seconds."""

Later = Callable[[float, Callable[[float], None]], None]
"""Calls a function after so many seconds, with the time that it is then, seconds, monotonic."""


class PassOn(Protocol):
    """Gives a packet to the witnesses of a stream, and relays it to the peer."""

    def __call__(
        self, stream: Stream, peer: Stream, source: tuple[str, int], local_host: str, data: bytes, now: float
    ) -> None: ...


class _Way(NamedTuple):
    """Says of the latest packet of a stream where it came from, and where it goes."""

    session: Session
    peer: Stream
    source: tuple[str, int]
    local_host: str
    """Our address that it came to."""


class Repacketizing:
    """The packets of all streams of one relay that wait."""

    def __init__(self, pass_on: PassOn, later: Later, totals: Totals) -> None:
        self._pass_on = pass_on
        self._later = later
        self._totals = totals
        self._waiting: dict[Stream, _Way] = {}
        self._is_checking = False

    def set_length(self, stream: Stream, packet_ms: int, now: float) -> None:
        """Repacketize what a stream receives into packets of so many milliseconds from now on; 0: not any more.

        What waits is sent before the first packet that is not repacketized.
        """
        resizer = stream.resizer
        if packet_ms:
            if resizer is None:
                stream.resizer = Resizer(packet_ms)
            else:
                resizer.set_length(packet_ms)
        elif resizer is not None:
            stream.resizer = None
            way = self._waiting.pop(stream, None)
            if way is not None:
                self._send(stream, way, resizer.drain(), now)

    def take(  # noqa: PLR0913 - all that is known of a packet
        self,
        session: Session,
        stream: Stream,
        peer: Stream,
        data: bytes,
        header: RtpHeader | None,
        source: tuple[str, int],
        local_host: str,
        now: float,
    ) -> None:
        """Take a packet of a stream that has a resizer, and send what is to be sent now."""
        resizer = stream.resizer
        assert resizer is not None
        discarded = resizer.discarded
        packets = resizer.put(data, header, now)
        if packets is None:
            self._pass_on(stream, peer, source, local_host, data, now)
            return
        totals = self._totals
        totals.packets_to_repacketize += 1
        totals.packets_not_repacketized += resizer.discarded - discarded
        way = _Way(session, peer, source, local_host)
        if resizer.waiting:
            self._waiting[stream] = way
            self._check_later()
        else:
            self._waiting.pop(stream, None)
        self._send(stream, way, packets, now)

    def discard(self, stream: Stream) -> None:
        """Throw away what waits: the stream loses its port."""
        if self._waiting.pop(stream, None) is not None and stream.resizer is not None:
            self._totals.packets_not_repacketized += stream.resizer.discard()

    def _check_later(self) -> None:
        if not self._is_checking:
            self._is_checking = True
            self._later(CHECK_S, self._check)

    def _check(self, now: float) -> None:
        """Send what has waited long enough."""
        self._is_checking = False
        for stream, way in list(self._waiting.items()):
            resizer = stream.resizer
            assert resizer is not None
            packets = resizer.due(now)
            if not resizer.waiting:
                self._waiting.pop(stream, None)
            self._send(stream, way, packets, now)
        if self._waiting:
            self._check_later()

    def _send(self, stream: Stream, way: _Way, packets: Sequence[bytes], now: float) -> None:
        self._totals.packets_repacketized += len(packets)
        if way.session.is_fed:  # it became so while they waited
            self._totals.packets_discarded += len(packets)
            return
        for packet in packets:
            self._pass_on(stream, way.peer, way.source, way.local_host, packet, now)
