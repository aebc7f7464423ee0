"""The tap for DTMF, in the process that writes, sends and watches: finds the events of one stream, and tells of them.

A stream with more events than anybody can press is told of no further; the rest is counted.
"""

from collections.abc import Iterable, Iterator

from rtpproxy.recording.packet import Packet
from rtpproxy.rtp.telephone_events import SILENCE_NS, Event, EventDetector, encode_event, encode_untold

MOST_AT_ONCE = 40
"""Events of a stream that are told, however fast they come."""
MOST_PER_SECOND = 20
"""Events of a stream that are told each second for long. Fingers and machines send up to 12 a second."""
_NS_PER_EVENT = 1_000_000_000 // MOST_PER_SECOND


class DtmfHandler:
    """Looks at one stream."""

    def __init__(self, settings: bytes) -> None:
        """There are no settings."""
        self._detector = EventDetector()
        self._paid_ns = 0
        """Up to when events are told already, at the rate that is allowed."""
        self._untold = 0
        self._latest_ns = 0

    def packet(self, packet: Packet, wall_ns: int) -> Iterable[bytes]:
        """Take a packet of the payload type of events."""
        self._latest_ns = packet.arrived_ns
        return self._tell(self._detector.packet(packet.payload, packet.arrived_ns), packet.arrived_ns)

    def rest(self, now_ns: int) -> Iterable[bytes]:
        """Tell of the events that ended without an end, and how many were too many."""
        yield from self._tell(self._detector.silent(now_ns), now_ns)
        if self._untold:
            yield encode_untold(self._untold)
            self._untold = 0

    def finish(self) -> Iterable[bytes]:
        """Tell of the events whose end will not come any more."""
        return self.rest(self._latest_ns + SILENCE_NS)

    def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _tell(self, events: Iterable[Event], now_ns: int) -> Iterator[bytes]:
        for event in events:
            paid_ns = max(self._paid_ns, now_ns - MOST_AT_ONCE * _NS_PER_EVENT) + _NS_PER_EVENT
            if paid_ns > now_ns:
                self._untold += 1
            else:
                self._paid_ns = paid_ns
                yield encode_event(event)
