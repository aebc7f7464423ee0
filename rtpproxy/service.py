"""The use cases of the relay: commands and packets come in, sessions change, media and the kernel tier follow.

No sockets, no clock: adapters arrive through the constructor, typed by the Protocols below, and time is an argument.
"""

import logging
import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtpproxy.addr import Endpoint
from rtpproxy.config import Config
from rtpproxy.control.messages import (
    Delete,
    Lookup,
    MediaDescription,
    PortLine,
    Query,
    SessionCounters,
    Totals,
    Update,
)
from rtpproxy.errors import (
    LocalAddressError,
    NoPortsError,
    PortBusyError,
    SessionNotFoundError,
    StoppingError,
)
from rtpproxy.media.rtp import RtpHeader, parse_rtp
from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded, PortCounters, plan
from rtpproxy.session.latch import Verdict
from rtpproxy.session.ports import PortAllocator
from rtpproxy.session.reaper import Activity
from rtpproxy.session.session import Component, Leg, Role, Session, Stream
from rtpproxy.session.stats import SequenceTracker
from rtpproxy.session.table import SessionTable

log = logging.getLogger(__name__)

_IGNORED, _LEARNED = Verdict.IGNORED, Verdict.LEARNED
_NOTHING_TRACKED = SequenceTracker()


class Media(Protocol):
    """The userspace path: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""

    def open(self, rtp_port: int) -> None: ...
    def close(self, rtp_port: int) -> None: ...
    def send(self, from_port: int, from_host: str, to: Endpoint, data: bytes) -> bool: ...


class Offload(Protocol):
    """The kernel path: `offload.forwarder.Forwarder` or `offload.off.NoOffload`."""

    def apply(self, label: str, wanted: Mapping[int, ForwardingEntry | NotOffloaded]) -> None: ...
    def withdraw(self, port: int, reason: str) -> None: ...
    def is_wanted(self, key: int) -> bool: ...
    def hold(self, key: int) -> None: ...
    def seed(self, key: int, tracker: SequenceTracker) -> None: ...
    def counters(self, port: int) -> PortCounters | None: ...
    def forwarded(self, port: int) -> int: ...
    def total_forwarded(self) -> int: ...
    def total_dropped(self) -> int: ...
    def row(self, port: int) -> int: ...
    def last_seen(self) -> npt.NDArray[np.float64] | None: ...


class Service:
    """All sessions of one relay and everything that happens to them."""

    def __init__(self, config: Config, media: Media, offload: Offload, ports: PortAllocator) -> None:
        self._config = config
        self._listen_host = config.listen_host
        self._media = media
        self._offload = offload
        self._ports = ports
        self._table = SessionTable()
        self._activity = Activity()
        self._streams: dict[int, tuple[Session, Stream, Stream]] = {}
        """By local port: the session, the stream, and its peer."""
        self._is_stopping = False
        self._created = 0
        self._received = 0
        self._relayed = 0
        self.discarded = 0
        """Packets thrown away: wrong source, not sendable, before completion, or to a port just closed."""

    # Commands

    def update(self, command: Update, now: float) -> PortLine:
        """Create or update a session (protocol.md 4.4); the port for the other party.

        Raises NoPortsError, LocalAddressError, StoppingError.
        """
        self._check_local_address(command.media)
        found = self._table.find(command.call_id, command.from_tag, command.to_tag)
        if found is None:
            return self._create(command, now)
        session, is_reverse = found
        line = self._answer(session, Role.CALLER if is_reverse else Role.CALLEE, command.media, now)
        if not command.media.is_weak:
            session.is_strong = True
        return line

    def lookup(self, command: Lookup, now: float) -> PortLine | None:
        """The answering party's media; the port for the party that called, None when there is no such session.

        Raises NoPortsError, LocalAddressError.
        """
        self._check_local_address(command.media)
        found = self._table.find(command.call_id, command.from_tag, command.to_tag)
        if found is None:
            return None
        session, is_reverse = found
        return self._answer(session, Role.CALLEE if is_reverse else Role.CALLER, command.media, now)

    def delete(self, command: Delete, now: float) -> None:
        """Drop the strong or a weak reference, and every session that has none left (protocol.md 4.5).

        Raises SessionNotFoundError.
        """
        found = self._table.find_all(command.call_id, command.from_tag, command.to_tag)
        if not found:
            raise SessionNotFoundError("no such session")
        for session, is_reverse in found:
            if not command.is_weak:
                session.is_strong = False
            else:
                session.leg(Role.CALLEE if is_reverse else Role.CALLER).is_weak = False
            if not (session.is_strong or session.callee.is_weak or session.caller.is_weak):
                self._end(session, "deleted")

    def delete_all(self, now: float) -> None:
        """Drop every session."""
        for session in self._table:
            self._end(session, "all sessions deleted")

    def query(self, command: Query, now: float) -> SessionCounters:
        """Counters of one session, those of the kernel included. Raises SessionNotFoundError."""
        found = self._table.find(command.call_id, command.from_tag, command.to_tag)
        if found is None:
            raise SessionNotFoundError("no such session")
        session, is_reverse = found
        for stream in _streams(session):
            self._absorb(session, stream, now)
        ours, other = session.caller.rtp, session.callee.rtp
        if is_reverse:
            ours, other = other, ours
        tracker = ours.tracker or _NOTHING_TRACKED
        return SessionCounters(
            ttl_s=self._seconds_left(session, now),
            npkts_ina=ours.received_packets,
            npkts_ino=other.received_packets,
            nrelayed=ours.relayed_packets + other.relayed_packets,
            ndropped=ours.dropped_packets + other.dropped_packets,
            longest_ipi_s=tracker.longest_gap_s,
            jitter_last=tracker.jitter_last,
            jitter_max=tracker.jitter_max,
            jitter_average=tracker.jitter_average,
            sent=tracker.sent,
            received=tracker.received,
            duplicates=tracker.duplicates,
            lost=tracker.lost,
            parse_errors=tracker.parse_errors,
        )

    def info(self, now: float) -> Totals:
        """Totals of the process, those of the kernel included."""
        forwarded = self._offload.total_forwarded()
        return Totals(
            sessions_created=self._created,
            active_sessions=len(self._table),
            packets_received=self._received + forwarded + self._offload.total_dropped(),
            packets_transmitted=self._relayed + forwarded,
        )

    # Packets

    def datagram(self, port: int, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Relay what arrived at a port, and learn from it. `local_host` is our address it came to, if known."""
        found = self._streams.get(port)
        if found is None or not found[0].is_complete:
            self.discarded += 1
            return
        session, stream, peer = found
        self._received += 1
        latch = stream.latch
        if source != latch.remote:
            # The memory must include what the kernel saw before it can tell whether this is the same phone.
            self._absorb(session, stream, now)
        is_rtp = stream.component is Component.RTP
        header = parse_rtp(data) if is_rtp else None
        verdict = latch.observe(source, header, is_rtp, now)
        if verdict is _IGNORED:
            self.discarded += 1
            return
        self._activity.touch(session.activity, now)
        is_unlocked = is_rtp and self._track(session, stream, header, now)
        stream.received_packets += 1
        self._relay(stream, peer, data)
        if verdict is _LEARNED:
            self._guess_rtcp(session, stream)
        if verdict is _LEARNED or is_unlocked or local_host != stream.local_host:
            stream.local_host = local_host
            self._replan(session, now)

    def _relay(self, stream: Stream, peer: Stream, data: bytes) -> None:
        to = peer.latch.remote
        if (
            to is not None
            and to[1]
            and peer.local_port
            and self._media.send(peer.local_port, self._listen_host or peer.local_host, to, data)
        ):
            stream.relayed_packets += 1
            self._relayed += 1
        else:
            stream.dropped_packets += 1
            self.discarded += 1

    def _track(self, session: Session, stream: Stream, header: RtpHeader | None, now: float) -> bool:
        """Keep the sequence statistics; True when a change of SSRC unlocked the stream."""
        tracker = stream.tracker
        if tracker is None:
            tracker = stream.tracker = SequenceTracker()
        is_wanted = self._offload.is_wanted(stream.local_port)
        if is_wanted:
            # The kernel must not count between what is absorbed and what it goes on from.
            self._offload.hold(stream.local_port)
            self._absorb(session, stream, now)
        is_changed = tracker.observe(header, now)
        if is_wanted:
            self._offload.seed(stream.local_port, tracker)
        if not is_changed or header is None:
            return False
        return stream.latch.change_ssrc(header, now) is _LEARNED

    def _guess_rtcp(self, session: Session, stream: Stream) -> None:
        """An RTP stream that moved tells where its RTCP may be (protocol.md 5.6)."""
        latch = stream.latch
        if stream.component is Component.RTP and latch.has_moved and latch.remote is not None:
            leg = session.caller if session.caller.rtp is stream else session.callee
            leg.rtcp.latch.guess(latch.remote)

    # Time

    def tick(self, now: float) -> None:
        """End the sessions that are idle. To be called every second."""
        idle = set(self._activity.idle(now, self._offload.last_seen()))
        if idle:
            for session in self._table:
                if session.activity in idle:
                    self._end(session, f"idle for {self._activity.timeout(session.activity):.0f} s")

    def stop_slowly(self) -> None:
        """Refuse new sessions from now on."""
        self._is_stopping = True

    @property
    def is_finished(self) -> bool:
        """Whether a slow stop has come to its end."""
        return self._is_stopping and not len(self._table)

    # Sessions

    def _create(self, command: Update, now: float) -> PortLine:
        if self._is_stopping:
            raise StoppingError("stopping slowly: no new sessions")
        session = Session(command.call_id, command.from_tag, now)
        self._open(session, session.callee, is_new_session=True)
        session.is_strong = not command.media.is_weak
        session.callee.is_weak = command.media.is_weak
        session.activity = self._activity.add(now, self._config.setup_timeout_s)
        self._table.add(session)
        self._created += 1
        self._watch_rows(session)
        self._describe(session, session.caller, command.media, now)
        log.info("%s: session created, port %d", _label(session), session.callee.rtp.local_port)
        return PortLine(session.callee.rtp.local_port, self._config.listen_host)

    def _answer(self, session: Session, role: Role, media: MediaDescription, now: float) -> PortLine:
        """What `U` and `L` do to an existing session; `role` is the leg whose port is asked for."""
        leg = session.leg(role)
        if not leg.has_ports:
            self._open(session, leg, is_new_session=False)
            self._watch_rows(session)
            session.is_complete = True
            self._activity.set_timeout(session.activity, self._config.idle_timeout_s)
        if media.is_weak:
            leg.is_weak = True
        self._activity.touch(session.activity, now)
        self._describe(session, session.leg(role.peer), media, now)
        return PortLine(leg.rtp.local_port, self._config.listen_host)

    def _describe(self, session: Session, leg: Leg, media: MediaDescription, now: float) -> None:
        """Take over what a command says of a party (protocol.md 5.2)."""
        for stream in leg.streams:
            self._absorb(session, stream, now)
            if media.remote is not None:
                host, port = media.remote
                stream.latch.signal(Endpoint(host, (port + stream.component) % 65536), now)
            stream.latch.set_asymmetric(media.is_asymmetric)
        if media.remote is not None or media.is_hold:
            leg.is_on_hold = media.is_hold
        self._replan(session, now)

    def _open(self, session: Session, leg: Leg, *, is_new_session: bool) -> None:
        """Give a leg its port pair. Raises NoPortsError."""
        for port in self._ports.candidates():
            try:
                self._media.open(port)
            except PortBusyError as error:
                log.debug("%s", error)
                continue
            except OSError as error:
                log.error("%s: cannot open port %d: %s", _label(session), port, error.strerror)
                raise NoPortsError(f"cannot open port {port}", is_new_session=is_new_session) from error
            self._ports.take(port)
            self._assign(session, leg, port)
            return
        log.error("%s: no free port pair is left; widen the range with -m and -M", _label(session))
        raise NoPortsError("no free port pair", is_new_session=is_new_session)

    def _assign(self, session: Session, leg: Leg, port: int) -> None:
        peers = session.leg(leg.role.peer).streams
        for stream, peer in zip(leg.streams, peers, strict=True):
            stream.local_port = port + stream.component
            stream.forwarded_packets = self._offload.forwarded(stream.local_port)
            self._streams[stream.local_port] = session, stream, peer

    def _watch_rows(self, session: Session) -> None:
        ports = [stream.local_port for stream in _streams(session) if stream.local_port]
        self._activity.set_rows(session.activity, [self._offload.row(port) for port in ports])

    def _end(self, session: Session, reason: str) -> None:
        """Withdraw, then free: no packet of this session is forwarded once its ports can be given away."""
        for stream in _streams(session):
            if stream.local_port:
                self._offload.withdraw(stream.local_port, reason)
                del self._streams[stream.local_port]
        for leg in (session.callee, session.caller):
            if leg.has_ports:
                self._media.close(leg.rtp.local_port)
                self._ports.release(leg.rtp.local_port)
        self._activity.remove(session.activity)
        self._table.remove(session)
        log.info("%s: session ended: %s", _label(session), reason)

    def _absorb(self, session: Session, stream: Stream, now: float) -> None:
        """Take in what the kernel forwarded for a stream since the last time."""
        if not session.is_complete or self._offload.forwarded(stream.local_port) == stream.forwarded_packets:
            return
        counters = self._offload.counters(stream.local_port)
        if counters is None:
            return
        packets = counters.packets - stream.forwarded_packets
        stream.forwarded_packets = counters.packets
        stream.received_packets += packets
        stream.relayed_packets += packets
        if stream.component is not Component.RTP:
            return
        tracker = stream.tracker
        assert tracker is not None, "no RTP is forwarded before the kernel was told where to go on"
        if counters.sequence_set_at >= session.created_at:
            changed_at = 0.0 if counters.ssrc == tracker.ssrc else counters.ssrc_changed_at
            stream.latch.absorb_forwarded(counters.ssrc, counters.sequence, counters.sequence_set_at, changed_at, now)
        tracker.absorb_forwarded(packets, counters.state, counters.totals)

    def _replan(self, session: Session, now: float) -> None:
        if not session.is_complete:
            return
        wanted = plan(session, self._config.listen_host)
        for leg in (session.callee, session.caller):
            if isinstance(wanted.get(leg.rtp.local_port), ForwardingEntry):
                self._hand_over(leg.rtp)
        self._offload.apply(_label(session), wanted)
        for stream in _streams(session):
            if not self._offload.is_wanted(stream.local_port):
                self._absorb(session, stream, now)

    def _hand_over(self, stream: Stream) -> None:
        """Tell the kernel where the statistics of an RTP stream stand, before it gets an entry for the first time."""
        counters = self._offload.counters(stream.local_port)
        if counters is None or self._offload.is_wanted(stream.local_port):
            return
        if stream.tracker is None:
            stream.tracker = SequenceTracker()
        stream.tracker.skip_forwarded(counters.totals)
        self._offload.seed(stream.local_port, stream.tracker)

    def _seconds_left(self, session: Session, now: float) -> int:
        last_seen = self._activity.last_seen(session.activity)
        for stream in _streams(session):
            counters = self._offload.counters(stream.local_port) if stream.local_port else None
            if counters is not None:
                last_seen = max(last_seen, counters.last_seen)
        return max(0, math.ceil(self._activity.timeout(session.activity) - (now - last_seen)))

    def _check_local_address(self, media: MediaDescription) -> None:
        for host, is_routed in ((media.local_host, False), (media.routed_host, True)):
            if host and host != self._config.listen_host:
                raise LocalAddressError(f"{host} is not an address that this relay listens on", is_routed=is_routed)


def _streams(session: Session) -> tuple[Stream, Stream, Stream, Stream]:
    return (*session.callee.streams, *session.caller.streams)


def _label(session: Session) -> str:
    return session.call_id.decode(errors="backslashreplace")
