"""Relays packets in userspace: judges them by the latching rules, counts them, and sends them on (protocol.md 5, 6)."""

from typing import Protocol

from rtpproxy.addr import Endpoint
from rtpproxy.config import SHORT_BYTES
from rtpproxy.rtp.header import parse_rtp
from rtpproxy.rtp.statistics import Arrival
from rtpproxy.service.contests import Contests
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.events import Observers
from rtpproxy.service.offloading import Offloading
from rtpproxy.service.repacketizing import Later, Repacketizing
from rtpproxy.session.latch import Refuses, Verdict, refuses_nothing
from rtpproxy.session.loops import REPEATS_PER_SECOND, RTCP_PER_SECOND, UNNUMBERED_PER_SECOND, LoopGuard
from rtpproxy.session.reaper import Activity
from rtpproxy.session.session import Component, Leg, Session, Stream
from rtpproxy.session.totals import Totals

# Looked up for every packet: a global is found faster than a member of an enum.
_ACCEPTED, _LEARNED, _DENIED = Verdict.ACCEPTED, Verdict.LEARNED, Verdict.DENIED
_NEXT, _OUT_OF_ORDER = Arrival.NEXT, Arrival.OUT_OF_ORDER


class Sender(Protocol):
    """Sends datagrams: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""

    def send(self, stream: Stream, from_host: str, to: Endpoint, data: bytes) -> bool: ...


class Packets:
    """Relays what arrives at the ports of all sessions."""

    def __init__(  # noqa: PLR0913 - the parts of the service that a packet touches
        self,
        sender: Sender,
        offloading: Offloading,
        destinations: Destinations,
        contests: Contests,
        observers: Observers,
        activity: Activity,
        totals: Totals,
        later: Later,
        *,
        is_doubling: bool,
    ) -> None:
        """`is_doubling` sends payloads below SHORT_BYTES twice."""
        self.repacketizing = Repacketizing(self._pass_on, later, totals)
        self._sender = sender
        self._offloading = offloading
        self._destinations = destinations
        self._contests = contests
        self._observers = observers
        self._activity = activity
        self._totals = totals
        self._double_below = SHORT_BYTES if is_doubling else 0
        self._streams: dict[int, tuple[Session, Stream, Stream]] = {}
        """By key of the local port: the session, the stream, and its peer."""

    @property
    def streams(self) -> int:
        """Count the streams that have ports, in complete sessions and others."""
        return len(self._streams)

    def add(self, session: Session, leg: Leg) -> None:
        """Relay what arrives at a leg's ports from now on."""
        peer = session.caller if leg is session.callee else session.callee
        self._streams[leg.rtp.key] = session, leg.rtp, peer.rtp
        self._streams[leg.rtcp.key] = session, leg.rtcp, peer.rtcp

    def remove(self, leg: Leg) -> None:
        """Discard what arrives at a leg's ports from now on."""
        self.repacketizing.discard(leg.rtp)
        for stream in leg.streams:
            del self._streams[stream.key]

    def datagram(  # noqa: C901 - in parts, each packet would take longer
        self, key: int, data: bytes, source: tuple[str, int], local_host: str, now: float
    ) -> None:
        """Relay what arrived at a port, and learn from it.

        `key` identifies the port; `local_host` is our address that the datagram came to, empty if unknown.
        """
        found = self._streams.get(key)
        totals = self._totals
        if found is None or not found[0].is_complete or found[0].is_fed:
            totals.packets_discarded += 1
            return
        session, stream, peer = found
        if local_host != stream.local_host and not stream.local.covers(local_host):
            # Addresses may share a port space (`session.local`): this datagram came to another one than the stream's.
            totals.packets_discarded += 1
            return
        totals.packets_received += 1
        latch = stream.latch
        refuses: Refuses = refuses_nothing
        if source != latch.remote:
            # To tell if this is the same phone, the latch's memory needs what the kernel saw.
            self._offloading.absorb(session, stream, now)
            refuses = self._destinations.learning(local_host)
        is_rtp = stream.component is Component.RTP
        header = parse_rtp(data) if is_rtp else None
        verdict = latch.observe(source, header, is_rtp, now, refuses)
        if verdict is not _ACCEPTED and verdict is not _LEARNED:
            totals.packets_discarded += 1
            if verdict is _DENIED:
                self._destinations.denied(session, source, local_host)
            return
        has_learned = verdict is _LEARNED
        self._activity.touch(stream.activity, now)
        if has_learned and is_rtp:
            leg = session.caller if session.caller.rtp is stream else session.callee
            leg.rtcp.latch.guess(latch, self._destinations.learning(local_host))
        arrival = self._offloading.count(session, stream, header, now)
        if arrival is Arrival.SSRC_CHANGED and header is not None:
            has_learned |= latch.change_ssrc(header, now) is _LEARNED
            self._offloading.expect(session)
        stream.received_packets += 1
        if arrival is not _NEXT and _is_going_round(stream, source, arrival, now):
            self._drop(stream)
        elif stream.resizer is not None:
            self.repacketizing.take(session, stream, peer, data, header, source, local_host, now)
        else:
            self._pass_on(stream, peer, source, local_host, data, now)
        if has_learned or local_host != stream.local_host:
            stream.local_host = local_host
            self._observers.learned(session, stream, now)
            self._contests.note(session, stream)
            self._offloading.replan(session, now)

    def _pass_on(
        self, stream: Stream, peer: Stream, source: tuple[str, int], local_host: str, data: bytes, now: float
    ) -> None:
        if peer.is_played_to:
            self._drop(stream)
            return
        if stream.witnesses or stream.teeing is not None:
            header = parse_rtp(data) if stream.component is Component.RTP else None
            payload_type = None if header is None else header.payload_type
            for witness in stream.witnesses:
                if witness.payload_type in (None, payload_type):
                    witness.packet(data, source, local_host, now)
            if header is not None and stream.hides(header):
                self._drop(stream)
                return
        self._relay(stream, peer, source, data)

    def _relay(self, stream: Stream, peer: Stream, source: tuple[str, int], data: bytes) -> None:
        to = peer.latch.remote
        if (
            to is None
            or not (to[1] and peer.local_port)
            or to == source
            or _is_circle(stream, peer, to)
            or not self._send(peer, to, data)
        ):
            self._drop(stream)
            self._destinations.denied_packets += to is None and peer.is_denied
            return
        stream.relayed_packets += 1
        self._totals.packets_relayed += 1

    def _drop(self, stream: Stream) -> None:
        stream.dropped_packets += 1
        self._totals.packets_discarded += 1

    def _send(self, peer: Stream, to: Endpoint, data: bytes) -> bool:
        is_sent = self._sender.send(peer, peer.local_host, to, data)
        if is_sent and len(data) < self._double_below:
            self._sender.send(peer, peer.local_host, to, data)
        return is_sent


def _is_circle(stream: Stream, peer: Stream, to: Endpoint) -> bool:
    """Tell if a packet would be sent to one of the session's own ports, and so go round for ever."""
    return to[1] in (stream.local_port, peer.local_port) and to[0] in (stream.local_host, peer.local_host)


def _is_going_round(stream: Stream, source: tuple[str, int], arrival: Arrival, now: float) -> bool:
    """Tell if a packet that repeats a number, has none, or starts a new run exceeds the limit of its stream."""
    if arrival is _OUT_OF_ORDER:
        return False
    guard = stream.loop_guard
    if guard is None:
        guard = stream.loop_guard = LoopGuard(now)
    if stream.component is Component.RTCP:
        return guard.is_going_round(now, RTCP_PER_SECOND)
    most = REPEATS_PER_SECOND if arrival is Arrival.DUPLICATE else UNNUMBERED_PER_SECOND
    return guard.is_going_round(now, most, is_named=source == stream.latch.signalled)
