"""Repacketizes one RTP stream: joins and divides payloads, so that packets have the length that a party asked for.

Packets wait in the order of their timestamps. One is made when enough is there, or when the first has waited long
enough. It has the header of the first packet that goes into it (CSRC list, extension, marker), no padding, and a number
that follows the last one's. What is divided off a packet keeps its CSRC list; marker and extension go with the first
part. Source: protocol.md 6.4.

What a hostile sender can make this do is bounded: a queue of MAX_QUEUED packets of MAX_BYTES each, and no more sound
than MAX_SPEED times what time has passed, beyond MAX_BURST_UNITS at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rtpproxy.rtp.framing import FRAMINGS, UNITS_PER_MS, Framing
from rtpproxy.rtp.header import RtpHeader, make_packet, split_packet

MAX_BYTES = 8192
"""Length of a datagram above which it passes unchanged."""
MAX_UNITS = 1000 * UNITS_PER_MS
"""Length of a payload above which it passes unchanged."""
MAX_QUEUED = 128
"""Packets that may wait."""
MAX_SPAN_UNITS = 5000 * UNITS_PER_MS
"""Distance of timestamps above which the sender must have started new ones: nothing is late by that much."""
MAX_SPEED = 2
"""How many times faster than real time sound may come for long."""
MAX_BURST_UNITS = 4000 * UNITS_PER_MS
"""What may come at once, as after a pause of the network."""
MIN_WAIT_S = 0.040

_SEQUENCES = 1 << 16
_TIMESTAMPS = 1 << 32
_HALF = 1 << 31


@dataclass(slots=True, eq=False)
class _Queued:
    """A packet that waits, or what is left of it. `units` is what it lasts."""

    header: bytes
    extension: bytes
    framing: Framing
    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    units: int
    payload: bytes
    arrived_at: float


class Resizer:
    """The packets of one stream that wait, and what is to become of them. Times are seconds, monotonic."""

    __slots__ = (
        "_allowed_units",
        "_next_sequence",
        "_queue",
        "_queued_units",
        "_seen_at",
        "_sent_to",
        "_ssrc",
        "_targets",
        "_wait_s",
        "discarded",
        "packet_ms",
    )

    def __init__(self, packet_ms: int) -> None:
        self.discarded = 0
        """Packets that `put` threw away: too old, there already, or too many for the time that passed."""
        self._queue: list[_Queued] = []
        """In the order of their timestamps, without overlaps; all of one SSRC."""
        self._queued_units = 0
        self._next_sequence: int | None = None
        """Number of the next packet; None before the first."""
        self._ssrc: int | None = None
        self._sent_to: int | None = None
        """Timestamp of the end of what was sent; None if nothing can be older."""
        self._allowed_units = float(MAX_BURST_UNITS)
        self._seen_at = 0.0
        self.set_length(packet_ms)

    def set_length(self, packet_ms: int) -> None:
        """Make packets of so many milliseconds from now on, or of the next length that a codec permits."""
        self.packet_ms = packet_ms
        units = packet_ms * UNITS_PER_MS
        self._targets = {kind: -(-units // one.step_units) * one.step_units for kind, one in FRAMINGS.items()}
        self._wait_s = max(2 * packet_ms / 1000, MIN_WAIT_S)

    @property
    def waiting(self) -> int:
        """Count the packets that wait."""
        return len(self._queue)

    def put(self, data: bytes, header: RtpHeader | None, now: float) -> Sequence[bytes] | None:
        """Take a packet, and return those that are to be sent now; None if it is to be sent itself, unchanged.

        `header` is what `parse_rtp` made of it.
        """
        framing = FRAMINGS.get(header.payload_type) if header is not None else None
        if header is None or framing is None or len(data) > MAX_BYTES:
            return None
        fixed, extension, payload = split_packet(data)
        if len(payload) > MAX_UNITS // framing.units * framing.size:
            return None
        units = framing.measure(payload)
        if not 0 < units <= MAX_UNITS:
            return None
        ssrc, sequence, timestamp, payload_type, marker = header
        if units > self._allowed_at(now):
            self.discarded += 1
            return self.due(now)
        made: list[bytes] = []
        if ssrc != self._ssrc or self._is_far(timestamp):
            made += self.drain()
            self._ssrc, self._sent_to = ssrc, None
        queued = _Queued(
            fixed, extension, framing, payload_type, marker, sequence, timestamp, units, payload, arrived_at=now
        )
        if self._insert(queued):
            self._queued_units += units
            self._allowed_units -= units
        else:
            self.discarded += 1
        made += self.due(now)
        return made

    def due(self, now: float) -> Sequence[bytes]:
        """Return the packets that are to be sent by now: enough is there for them, or they have waited long enough."""
        made: list[bytes] = []
        while self._queue and self._is_due(self._queue[0], now):
            made.append(self._make())
        return made

    def drain(self) -> Sequence[bytes]:
        """Return all that waits, in packets that may be short."""
        made: list[bytes] = []
        while self._queue:
            made.append(self._make())
        return made

    def discard(self) -> int:
        """Throw away what waits, and return how many packets that was."""
        count = len(self._queue)
        self._queue.clear()
        self._queued_units = 0
        return count

    def _allowed_at(self, now: float) -> float:
        """Return how much may come now."""
        passed_units = (now - self._seen_at) * 1000 * UNITS_PER_MS * MAX_SPEED
        self._seen_at = now
        self._allowed_units = min(self._allowed_units + passed_units, MAX_BURST_UNITS)
        return self._allowed_units

    def _is_far(self, timestamp: int) -> bool:
        """Tell if a timestamp has nothing to do with those before."""
        reference = self._queue[0].timestamp if self._queue else self._sent_to
        return reference is not None and abs(_distance(reference, timestamp)) > MAX_SPAN_UNITS

    def _insert(self, queued: _Queued) -> bool:
        """Put a packet in its place; False if that is taken, or the packet too old."""
        timestamp, queue = queued.timestamp, self._queue
        if self._sent_to is not None and _distance(self._sent_to, timestamp) < 0:
            return False
        place = len(queue)
        while place and _distance(queue[place - 1].timestamp, timestamp) < 0:
            place -= 1
        if place and _distance(queue[place - 1].timestamp, timestamp) < queue[place - 1].units:
            return False
        if place < len(queue) and _distance(timestamp, queue[place].timestamp) < queued.units:
            return False
        queue.insert(place, queued)
        return True

    def _is_due(self, first: _Queued, now: float) -> bool:
        return (
            self._queued_units >= self._targets[first.payload_type]
            or len(self._queue) > MAX_QUEUED
            or now - first.arrived_at >= self._wait_s
        )

    def _make(self) -> bytes:
        """Make a packet of the first ones that wait: up to a gap, another payload type, or the length asked for."""
        queue = self._queue
        first = queue[0]
        header, extension, marker, timestamp = first.header, first.extension, first.marker, first.timestamp
        left = self._targets[first.payload_type]
        end = timestamp
        payloads: list[bytes] = []
        while queue and left and queue[0].timestamp == end and queue[0].payload_type == first.payload_type:
            queued = queue[0]
            if queued.units > left:
                payloads.append(_take_head(queued, left))
                end, left = queued.timestamp, 0
                break
            del queue[0]
            payloads.append(queued.payload)
            end = (end + queued.units) % _TIMESTAMPS
            left -= queued.units
            if queued.framing.is_end(queued.payload):
                break
        self._queued_units -= (end - timestamp) % _TIMESTAMPS
        self._sent_to = end
        sequence = first.sequence if self._next_sequence is None else self._next_sequence
        self._next_sequence = (sequence + 1) % _SEQUENCES
        return make_packet(header, extension, sequence, timestamp, marker, b"".join(payloads))


def _distance(start: int, end: int) -> int:
    """Return how far one timestamp is after another, negative if it is before."""
    return (end - start + _HALF) % _TIMESTAMPS - _HALF


def _take_head(queued: _Queued, units: int) -> bytes:
    """Cut the first part off a packet: a whole number of frames. What is left goes on where that ends."""
    size = queued.framing.head_size(queued.payload, units)
    head, queued.payload = queued.payload[:size], queued.payload[size:]
    queued.timestamp = (queued.timestamp + units) % _TIMESTAMPS
    queued.units -= units
    queued.marker = False
    queued.extension = b""
    return head
