"""The use cases of the relay: commands and packets come in, sessions change, media and the kernel tier follow.

No sockets, no clock: adapters arrive through the constructor, typed by the Protocols below, and time is an argument.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtpproxy.addr import Endpoint
from rtpproxy.config import Config, LatchingMode, NotifyTarget, find_target
from rtpproxy.control.messages import (
    Copy,
    Delete,
    DropReference,
    Lookup,
    MediaDescription,
    NotifyArguments,
    Play,
    PortLine,
    Query,
    SessionCounters,
    SetTimeout,
    SetTos,
    StopPlay,
    Update,
)
from rtpproxy.errors import (
    NoPortsError,
    NotificationOffError,
    PortBusyError,
    PortSpaceError,
    SessionNotFoundError,
    StoppingError,
)
from rtpproxy.media.rtp import RtpHeader, parse_rtp
from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded, PortCounters, plan
from rtpproxy.session.latch import Latch, Verdict
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.ports import PortAllocator
from rtpproxy.session.reaper import Activity
from rtpproxy.session.session import Component, Issuer, Leg, Notification, Role, Session, Stream
from rtpproxy.session.stats import SequenceTracker
from rtpproxy.session.table import SessionTable
from rtpproxy.session.totals import Totals

log = logging.getLogger(__name__)

WARN_SHARE = 0.8
"""Of the sessions that there is room for: above it, the operator is warned once."""

_IGNORED, _LEARNED = Verdict.IGNORED, Verdict.LEARNED
_NOTHING_TRACKED = SequenceTracker()


class Media(Protocol):
    """The userspace path: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""

    def add_local(self, address: LocalAddress) -> None: ...
    def open(self, address: LocalAddress, rtp_port: int) -> None: ...
    def close(self, address: LocalAddress, rtp_port: int) -> None: ...
    def send(self, stream: Stream, from_host: str, to: Endpoint, data: bytes) -> bool: ...


class Offload(Protocol):
    """The kernel path: `offload.forwarder.Forwarder` or `offload.off.NoOffload`. Ports are told by their keys."""

    def apply(self, label: str, wanted: Mapping[int, ForwardingEntry | NotOffloaded]) -> Collection[int]: ...
    def withdraw(self, key: int, reason: str) -> None: ...
    def is_wanted(self, key: int) -> bool: ...
    def hold(self, key: int) -> None: ...
    def seed(self, key: int, tracker: SequenceTracker) -> None: ...
    def counters(self, key: int) -> PortCounters | None: ...
    def forwarded(self, key: int) -> int: ...
    def seen_at(self, key: int) -> float: ...
    def total_forwarded(self) -> int: ...
    def total_dropped(self) -> int: ...
    def row(self, key: int) -> int: ...
    def last_seen(self) -> npt.NDArray[np.float64] | None: ...


class Notifier(Protocol):
    """Who tells controllers of sessions that were idle: `notify.Notifier`."""

    def notify(self, target: NotifyTarget, controller_host: str, tag: bytes) -> None: ...


class Service:
    """All sessions of one relay and everything that happens to them."""

    def __init__(  # noqa: PLR0913 - the parts of a relay
        self,
        config: Config,
        local_addresses: LocalAddresses,
        media: Media,
        offload: Offload,
        new_ports: Callable[[], PortAllocator],
        notifier: Notifier,
        capacity: int,
    ) -> None:
        """`new_ports` makes the allocator of a port space; `capacity` is how many sessions the host has room for."""
        self._config = config
        self._locals = local_addresses
        self._media = media
        self._offload = offload
        self._new_ports = new_ports
        self._notifier = notifier
        self._ports = {one.slot: new_ports() for one in local_addresses.known}
        self._table = SessionTable()
        self._activity = Activity()
        self._sessions: dict[int, Session] = {}
        """By number in `_activity`."""
        self._streams: dict[int, tuple[Session, Stream, Stream]] = {}
        """By key of the local port: the session, the stream, and its peer."""
        self._warn_above = WARN_SHARE * capacity
        self._is_stopping = False
        self._totals = Totals()
        self._counted_at = math.inf
        """When the rate was last worked out; never so far."""
        self._counted_packets = 0

    # Commands

    @property
    def has_notification(self) -> bool:
        """Whether controllers can be told of idle sessions."""
        return bool(self._config.notify)

    def update(self, command: Update, controller_host: str, now: float) -> tuple[PortLine, Issuer]:
        """Create or update a session (protocol.md 4.4); the port for the other party.

        Raises NoPortsError, NotificationOffError, StoppingError.
        """
        if command.notify is not None and not self._config.notify:
            raise NotificationOffError("a notification was asked for, and -n was not given")
        found = self._table.find(command.call_id, command.from_tag, command.to_tag)
        if found is None:
            session, is_reverse = self._create(command, now), False
            line = _port_line(session.callee)
        else:
            session, is_reverse = found
            line = self._answer(session, Role.CALLER if is_reverse else Role.CALLEE, command.media, now)
            if not command.media.is_weak:
                session.is_strong = True
        session.notification = self._notification(session, command.notify, controller_host)
        return line, Issuer(session, Role.CALLEE if is_reverse else Role.CALLER)

    def lookup(self, command: Lookup, now: float) -> tuple[PortLine, Issuer] | None:
        """The answering party's media; the port for the party that called, None when there is no such session.

        Raises NoPortsError.
        """
        found = self._table.find(command.call_id, command.from_tag, command.to_tag)
        if found is None:
            return None
        session, is_reverse = found
        issuer = Issuer(session, Role.CALLER if is_reverse else Role.CALLEE)
        return self._answer(session, issuer.role.peer, command.media, now), issuer

    def delete(self, command: Delete, now: float) -> None:
        """Drop the strong or a weak reference, and every session that has none left (protocol.md 4.5).

        Raises SessionNotFoundError.
        """
        found = self._table.find_all(command.call_id, command.from_tag, command.to_tag)
        if not found:
            raise SessionNotFoundError("no such session")
        for session, is_reverse in found:
            self._drop(session, is_reverse, command.is_weak, now)

    def delete_all(self, now: float) -> None:
        """Drop every session."""
        for session in self._table:
            self._end(session, "all sessions deleted", now)

    def find(self, command: Query | Play | StopPlay | Copy) -> Issuer:
        """The session whose tags match exactly, and the party in the from position. Raises SessionNotFoundError."""
        found = self._table.find(command.call_id, command.from_tag, command.to_tag)
        if found is None:
            raise SessionNotFoundError("no such session")
        session, is_reverse = found
        return Issuer(session, Role.CALLEE if is_reverse else Role.CALLER)

    def query(self, issuer: Issuer, now: float) -> SessionCounters:
        """Counters of a session, those of the kernel included, seen from one party."""
        session = issuer.session
        for stream in session.streams:
            self._absorb(session, stream, now)
        ours, other = session.leg(issuer.role).rtp, session.leg(issuer.role.peer).rtp
        tracker = ours.tracker or _NOTHING_TRACKED
        return SessionCounters(
            ttl_s=min(self._seconds_left(leg, now) for leg in session.legs),
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

    def totals(self, now: float) -> Totals:
        """Totals of the process, those of the kernel included."""
        forwarded, dropped = self._offload.total_forwarded(), self._offload.total_dropped()
        return replace(
            self._totals,
            packets_received=self._totals.packets_received + forwarded + dropped,
            packets_relayed=self._totals.packets_relayed + forwarded,
            packets_discarded=self._totals.packets_discarded + dropped,
        )

    # Sub-commands

    def answer(self, issuer: Issuer, media: MediaDescription, now: float) -> PortLine:
        """The media of the party that did not issue the command. Raises NoPortsError, SessionNotFoundError."""
        self._check_alive(issuer.session)
        return self._answer(issuer.session, issuer.role, media, now)

    def set_timeout(self, issuer: Issuer, command: SetTimeout, now: float) -> None:
        """Change the idle timeout from now on, and for good (protocol.md 4.6). Raises SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        number = session.leg(issuer.role.peer if command.is_reverse else issuer.role).activity
        for leg in session.legs:
            leg.has_own_timeout |= leg.activity == number
        self._activity.set_timeout(number, command.seconds)
        self._activity.touch(number, now)

    def set_tos(self, issuer: Issuer, command: SetTos, now: float) -> None:
        """Change the TOS byte of the RTP packets to a party. Raises SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        stream = session.leg(issuer.role.peer if command.is_reverse else issuer.role).rtp
        stream.tos = command.tos & 0xFF
        self._replan(session, now)

    def drop(self, issuer: Issuer, command: DropReference, now: float) -> None:
        """Drop a reference, as `D` with the session's own from-tag. Raises SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        self.delete(Delete(session.call_id, session.from_tag, None, command.is_weak), now)

    # Packets

    def datagram(self, key: int, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Relay what arrived at a port, and learn from it. `local_host` is our address it came to, if known."""
        found = self._streams.get(key)
        totals = self._totals
        if found is None or not found[0].is_complete:
            totals.packets_discarded += 1
            return
        session, stream, peer = found
        if local_host != stream.local_host and not stream.local.covers(local_host):
            # Port spaces may be shared (`session.local`), ports may not: it is for another of our addresses.
            totals.packets_discarded += 1
            return
        totals.packets_received += 1
        latch = stream.latch
        if source != latch.remote:
            # The memory must include what the kernel saw before it can tell whether this is the same phone.
            self._absorb(session, stream, now)
        is_rtp = stream.component is Component.RTP
        header = parse_rtp(data) if is_rtp else None
        verdict = latch.observe(source, header, is_rtp, now)
        if verdict is _IGNORED:
            totals.packets_discarded += 1
            return
        self._activity.touch(stream.activity, now)
        is_relocked = is_rtp and self._track(session, stream, header, now)
        stream.received_packets += 1
        self._relay(stream, peer, data)
        if verdict is _LEARNED:
            self._guess_rtcp(session, stream)
        if verdict is _LEARNED or is_relocked or local_host != stream.local_host:
            stream.local_host = local_host
            self._replan(session, now)

    def _relay(self, stream: Stream, peer: Stream, data: bytes) -> None:
        to = peer.latch.remote
        if to is not None and to[1] and peer.local_port and self._media.send(peer, peer.local_host, to, data):
            stream.relayed_packets += 1
            self._totals.packets_relayed += 1
        else:
            stream.dropped_packets += 1
            self._totals.packets_discarded += 1

    def _track(self, session: Session, stream: Stream, header: RtpHeader | None, now: float) -> bool:
        """Keep the sequence statistics; True when a change of SSRC locked or unlocked the stream."""
        tracker = stream.tracker
        if tracker is None:
            tracker = stream.tracker = SequenceTracker()
        is_wanted = self._offload.is_wanted(stream.key)
        if is_wanted:
            # The kernel must not count between what is absorbed and what it goes on from. Should anything fail before
            # `seed`, the stream's next packet comes here, too, and lets the kernel go on.
            self._offload.hold(stream.key)
            self._absorb(session, stream, now)
        is_changed = tracker.observe(header, now)
        if is_wanted:
            self._offload.seed(stream.key, tracker)
        if not is_changed or header is None:
            return False
        return stream.latch.change_ssrc(header, now) is _LEARNED

    def _guess_rtcp(self, session: Session, stream: Stream) -> None:
        """RTP that moved, in strict mode also RTP that latched, tells where its RTCP may be (protocol.md 5.6)."""
        latch = stream.latch
        if stream.component is not Component.RTP or latch.remote is None:
            return
        if latch.has_moved or latch.is_strict:
            leg = session.caller if session.caller.rtp is stream else session.callee
            leg.rtcp.latch.guess(latch.remote, is_untrusted=latch.is_untrusted)

    # Time

    def tick(self, now: float) -> None:
        """End the sessions that are idle. To be called every second."""
        for number in self._activity.idle(now, self._offload.last_seen()):
            session = self._sessions.get(number)
            if session is not None:  # else its other direction was idle as well
                self._expire(session, self._activity.timeout(number), now)
        self._count_rate(now)

    def _expire(self, session: Session, timeout_s: float, now: float) -> None:
        told = session.notification
        self._end(session, f"idle for {timeout_s:.0f} s", now)
        self._totals.sessions_timed_out += 1
        if told is not None:
            self._notifier.notify(told.target, told.controller_host, told.tag)

    def _count_rate(self, now: float) -> None:
        packets = self.totals(now).packets_received
        if now > self._counted_at:
            self._totals.packets_per_second = (packets - self._counted_packets) / (now - self._counted_at)
        self._counted_at, self._counted_packets = now, packets

    def stop_slowly(self) -> None:
        """Refuse new sessions from now on."""
        self._is_stopping = True

    @property
    def is_finished(self) -> bool:
        """Whether a slow stop has come to its end."""
        return self._is_stopping and not len(self._table)

    # Sessions

    def _create(self, command: Update, now: float) -> Session:
        if self._is_stopping:
            raise StoppingError("stopping slowly: no new sessions")
        media = command.media
        towards_caller, towards_callee = self._choose_locals(media)
        session = Session(
            command.call_id,
            command.from_tag,
            now,
            callee=self._new_leg(Role.CALLEE, towards_callee),
            caller=self._new_leg(Role.CALLER, towards_caller),
        )
        local, port = self._open(session, session.callee.local, is_new_session=True)
        self._start_timers(session, now)
        self._assign(session, session.callee, local, port, now)
        session.is_strong = not media.is_weak
        session.callee.is_weak = media.is_weak
        self._table.add(session)
        self._totals.sessions_created += 1
        self._describe(session, session.caller, media, now)
        log.info("%s: session created, port %d", _label(session), session.callee.rtp.local_port)
        self._warn_of_limit()
        return session

    def _warn_of_limit(self) -> None:
        """Say once that the relay fills up (protocol.md 12.2)."""
        if len(self._table) > self._warn_above:
            self._warn_above = math.inf
            log.warning(
                "%d sessions: over %.0f %% of what ports (-m, -M) and open files (-L) allow",
                *(len(self._table), 100 * WARN_SHARE),
            )

    def _choose_locals(self, media: MediaDescription) -> tuple[LocalAddress, LocalAddress]:
        """Our addresses towards the caller and the callee of a new session (protocol.md 7.3)."""
        if media.local is not None:
            return media.local, media.local
        default = self._locals.default
        towards_caller, towards_callee = (*media.directions, default, default)[:2]
        return towards_caller, towards_callee

    def _new_leg(self, role: Role, local: LocalAddress) -> Leg:
        return Leg(role, self._new_stream(Component.RTP, local), self._new_stream(Component.RTCP, local))

    def _new_stream(self, component: Component, local: LocalAddress) -> Stream:
        latch = Latch(is_strict=self._config.latching is LatchingMode.STRICT)
        return Stream(component, local, latch, tos=self._config.tos, local_host=local.host)

    def _start_timers(self, session: Session, now: float) -> None:
        """One idle time for both directions, or one each (protocol.md 4.6)."""
        callee = caller = self._activity.add(now, self._config.setup_timeout_s)
        if self._config.is_independent:
            caller = self._activity.add(now, self._config.setup_timeout_s)
        for leg, number in ((session.callee, callee), (session.caller, caller)):
            leg.rtp.activity = leg.rtcp.activity = number
            self._sessions[number] = session

    def _answer(self, session: Session, role: Role, media: MediaDescription, now: float) -> PortLine:
        """What `U` and `L` do to an existing session; `role` is the leg whose port is asked for."""
        leg = session.leg(role)
        if not leg.has_ports or media.is_new_port:
            self._give_ports(session, leg, media, now)
            self._complete(session)
        if media.is_weak:
            leg.is_weak = True
        for one in session.legs:
            self._activity.touch(one.activity, now)
        self._describe(session, session.leg(role.peer), media, now)
        return _port_line(leg)

    def _complete(self, session: Session) -> None:
        """A second pair of ports was opened: packets flow from now on (protocol.md 4.4)."""
        if session.is_complete:
            return
        session.is_complete = True
        self._totals.sessions_completed += 1
        for leg in session.legs:
            if not leg.has_own_timeout:
                self._activity.set_timeout(leg.activity, self._config.idle_timeout_s)

    def _describe(self, session: Session, leg: Leg, media: MediaDescription, now: float) -> None:
        """Take over what a command says of a party (protocol.md 5.2)."""
        is_asymmetric = self._config.is_asymmetric if media.is_asymmetric is None else media.is_asymmetric
        for stream in leg.streams:
            self._absorb(session, stream, now)
            if media.remote is not None:
                host, port = media.remote
                stream.latch.signal(Endpoint(host, (port + stream.component) % 65536), now)
            stream.latch.set_asymmetric(is_asymmetric)
        self._replan(session, now)

    def _give_ports(self, session: Session, leg: Leg, media: MediaDescription, now: float) -> None:
        """Open a port pair for a leg of an existing session, in place of the one it has. Raises NoPortsError."""
        local = media.local or leg.local
        if media.local is None and media.is_new_port and len(media.directions) == 2:
            local = media.directions[1]
        local, port = self._open(session, local, is_new_session=False)
        if leg.has_ports:
            self._close(session, leg, "new ports", now)
        self._assign(session, leg, local, port, now)

    def _open(self, session: Session, local: LocalAddress, *, is_new_session: bool) -> tuple[LocalAddress, int]:
        """A port pair on one of our addresses: the address with its slot, and the RTP port. Raises NoPortsError."""
        try:
            local = self._use(local)
            port = self._open_pair(local)
        except OSError as error:
            log.error("%s: cannot open a port on %s: %s", _label(session), local.host or "*", error.strerror)
            raise NoPortsError("cannot open a port", is_new_session=is_new_session) from error
        except PortSpaceError as error:
            log.error("%s: %s", _label(session), error)
            raise NoPortsError(str(error), is_new_session=is_new_session) from error
        return local, port

    def _use(self, local: LocalAddress) -> LocalAddress:
        """The address, made known to everybody if it was not. Raises OSError where it cannot be used."""
        known = self._locals.known_as(local)
        if known is not None:
            return known
        self._media.add_local(local)
        self._locals.join(local)
        return local

    def _open_pair(self, local: LocalAddress) -> int:
        ports = self._ports[local.slot]
        for port in ports.candidates():
            try:
                self._media.open(local, port)
            except PortBusyError as error:
                log.debug("%s", error)
                continue
            ports.take(port)
            return port
        raise PortSpaceError("no free port pair is left; widen the range with -m and -M")

    def _assign(self, session: Session, leg: Leg, local: LocalAddress, port: int, now: float) -> None:
        peers = session.leg(leg.role.peer).streams
        for stream, peer in zip(leg.streams, peers, strict=True):
            stream.settle(local, port + stream.component, now)
            stream.forwarded_packets = self._offload.forwarded(stream.key)
            self._streams[stream.key] = session, stream, peer
            # What the kernel saw at the port tells that the party is active.
            self._activity.set_row(stream.activity, 2 * leg.role + stream.component, self._offload.row(stream.key))

    def _end(self, session: Session, reason: str, now: float) -> None:
        for leg in session.legs:
            if leg.has_ports:
                self._close(session, leg, reason, now)
        for number in {leg.activity for leg in session.legs}:
            self._activity.remove(number)
            del self._sessions[number]
        self._table.remove(session)
        self._totals.add_ended(session, now)
        log.info("%s: session ended: %s", _label(session), reason)

    def _close(self, session: Session, leg: Leg, reason: str, now: float) -> None:
        """Withdraw, count, then free.

        The kernel goes on sending the peer's packets from the port until the peer is closed or planned anew. That
        happens in the same turn, before the port can be given to anybody.
        """
        for stream in leg.streams:
            self._offload.withdraw(stream.key, reason)
            self._absorb(session, stream, now)
            del self._streams[stream.key]
        self._media.close(leg.local, leg.rtp.local_port)
        self._ports[leg.local.slot].release(leg.rtp.local_port)

    def _drop(self, session: Session, is_reverse: bool, is_weak: bool, now: float) -> None:
        if not is_weak:
            session.is_strong = False
        else:
            session.leg(Role.CALLEE if is_reverse else Role.CALLER).is_weak = False
        if not (session.is_strong or session.callee.is_weak or session.caller.is_weak):
            self._end(session, "deleted", now)

    def _check_alive(self, session: Session) -> None:
        if session not in self._table:
            raise SessionNotFoundError("the session has ended")

    def _notification(
        self, session: Session, wanted: NotifyArguments | None, controller_host: str
    ) -> Notification | None:
        """Whom to tell when the session is idle (protocol.md 2.4)."""
        if wanted is None:
            return None
        target = find_target(self._config.notify, wanted.target)
        if target is None:
            log.error("%s: no notification: %r is none of the targets given with -n", _label(session), wanted.target)
            return None
        return Notification(target, controller_host, wanted.tag)

    def _absorb(self, session: Session, stream: Stream, now: float) -> None:
        """Take in what the kernel forwarded for a stream since the last time."""
        if not (session.is_complete and stream.local_port):
            return
        if self._offload.forwarded(stream.key) == stream.forwarded_packets:
            return
        counters = self._offload.counters(stream.key)
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
        if counters.sequence_set_at >= stream.settled_at:
            changed_at = 0.0 if counters.ssrc == tracker.ssrc else counters.ssrc_changed_at
            stream.latch.absorb_forwarded(counters.ssrc, counters.sequence, counters.sequence_set_at, changed_at, now)
        tracker.absorb_forwarded(packets, counters.state, counters.totals)

    def _replan(self, session: Session, now: float) -> None:
        if not session.is_complete:
            return
        wanted = plan(session)
        for leg in session.legs:
            if isinstance(wanted.get(leg.rtp.key), ForwardingEntry):
                self._hand_over(leg.rtp)
        for key in self._offload.apply(_label(session), wanted):
            self._absorb(session, self._streams[key][1], now)

    def _hand_over(self, stream: Stream) -> None:
        """Tell the kernel where the statistics of an RTP stream stand, before it gets an entry for the first time."""
        counters = self._offload.counters(stream.key)
        if counters is None or self._offload.is_wanted(stream.key):
            return
        if stream.tracker is None:
            stream.tracker = SequenceTracker()
        stream.tracker.skip_forwarded(counters.totals)
        self._offload.seed(stream.key, stream.tracker)

    def _seconds_left(self, leg: Leg, now: float) -> int:
        last_seen = self._activity.last_seen(leg.activity)
        for stream in self._sessions[leg.activity].streams:
            if stream.activity == leg.activity and stream.local_port:
                last_seen = max(last_seen, self._offload.seen_at(stream.key))
        return max(0, math.ceil(self._activity.timeout(leg.activity) - (now - last_seen)))


def _port_line(leg: Leg) -> PortLine:
    return PortLine(leg.rtp.local_port, leg.local)


def _label(session: Session) -> str:
    return session.call_id.decode(errors="backslashreplace")
