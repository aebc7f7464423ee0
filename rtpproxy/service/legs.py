"""The use cases of the relay: commands and packets come in, sessions change, media and the kernel tier follow.

No sockets, no clock: adapters arrive through the constructor, typed by the Protocols below, and time is an argument.
"""

import logging
import math
from collections.abc import Callable
from typing import Protocol

from rtpproxy.addr import Endpoint
from rtpproxy.config import DSCP_MASK, Config, LatchingMode, NotifyTarget, find_target
from rtpproxy.errors import (
    NoPortsError,
    NotificationOffError,
    PortSpaceError,
    SessionNotFoundError,
    StoppingError,
)
from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.service.answers import PortLine, SessionCounters
from rtpproxy.service.offloading import Offload, Offloading
from rtpproxy.service.packets import Media as PacketMedia
from rtpproxy.service.packets import Packets
from rtpproxy.service.port_pairs import Media as PairMedia
from rtpproxy.service.port_pairs import PortPairs
from rtpproxy.service.requests import (
    Delete,
    DropReference,
    Lookup,
    MediaDescription,
    NotifyArguments,
    Query,
    SetTimeout,
    SetTos,
    Update,
)
from rtpproxy.session.latch import Latch
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.ports import PortAllocator
from rtpproxy.session.reaper import Activity
from rtpproxy.session.session import Component, Issuer, Leg, Notification, Role, Session, Stream
from rtpproxy.session.table import SessionTable
from rtpproxy.session.totals import Tiers, Totals

log = logging.getLogger(__name__)

WARN_SHARE = 0.8
"""Of the sessions that there is room for: above it, the operator is warned once."""

_NOTHING_TRACKED = SequenceTracker()


class Media(PacketMedia, PairMedia, Protocol):
    """The userspace path: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""


class Notifier(Protocol):
    """Who tells controllers of sessions that were idle: `outbound.notify.Notifier`."""

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
        self._notifier = notifier
        self._table = SessionTable()
        self._activity = Activity()
        self._sessions: dict[int, Session] = {}
        """By number in `_activity`."""
        self._totals = Totals()
        self._pairs = PortPairs(local_addresses, media, new_ports)
        self._offloading = Offloading(offload)
        self._packets = Packets(media, self._offloading, self._activity, self._totals, is_doubling=config.is_doubling)
        self.datagram = self._packets.datagram
        self._warn_above = WARN_SHARE * capacity
        self._is_stopping = False
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

    def find(self, command: Query) -> Issuer:
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
            self._offloading.absorb(session, stream, now)
        ours, other = session.leg(issuer.role).rtp, session.leg(issuer.role.peer).rtp
        tracker = ours.tracker or _NOTHING_TRACKED
        return SessionCounters(
            seconds_left=min(self._seconds_left(leg, now) for leg in session.legs),
            received_from_issuer=ours.received_packets,
            received_from_peer=other.received_packets,
            relayed=ours.relayed_packets + other.relayed_packets,
            dropped=ours.dropped_packets + other.dropped_packets,
            longest_gap_s=tracker.longest_gap_s,
            jitter_last=tracker.jitter.last,
            jitter_max=tracker.jitter.maximum,
            jitter_average=tracker.jitter.average,
            sent=tracker.sent,
            received=tracker.received,
            duplicates=tracker.duplicates,
            lost=tracker.lost,
            parse_errors=tracker.parse_errors,
        )

    def totals(self) -> Totals:
        """Totals of the process, those of the kernel included."""
        return self._offloading.with_kernel(self._totals)

    def tiers(self) -> Tiers:
        """Who forwards the streams that there are, and what became of frames."""
        return self._offloading.tiers(self._packets.streams)

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
        stream.tos = command.tos & DSCP_MASK
        self._offloading.replan(session, now)

    def drop(self, issuer: Issuer, command: DropReference, now: float) -> None:
        """Drop a reference, as `D` with the session's own from-tag. Raises SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        self.delete(Delete(session.call_id, session.from_tag, None, command.is_weak), now)

    # Time

    def tick(self, now: float) -> None:
        """End the sessions that are idle. To be called every second."""
        for number in self._activity.idle(now, self._offloading.last_seen()):
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
        packets = self.totals().packets_received
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
        log.info("%s: session created, port %d", session.label, session.callee.rtp.local_port)
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
            self._offloading.absorb(session, stream, now)
            if media.remote is not None:
                host, port = media.remote
                stream.latch.signal(Endpoint(host, (port + stream.component) % 65536), now)
            stream.latch.set_asymmetric(is_asymmetric)
        self._offloading.replan(session, now)

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
        """A port pair on one of our addresses: the address as it is known, and the RTP port. Raises NoPortsError."""
        try:
            return self._pairs.open(local)
        except PortSpaceError as error:
            log.error("%s: %s", session.label, error)
            raise NoPortsError(str(error), is_new_session=is_new_session) from error

    def _assign(self, session: Session, leg: Leg, local: LocalAddress, port: int, now: float) -> None:
        for stream in leg.streams:
            stream.settle(local, port + stream.component, now)
            # What the kernel saw at the port tells that the party is active.
            self._activity.set_row(stream.activity, 2 * leg.role + stream.component, self._offloading.add(stream))
        self._packets.add(session, leg)

    def _end(self, session: Session, reason: str, now: float) -> None:
        for leg in session.legs:
            if leg.has_ports:
                self._close(session, leg, reason, now)
        for number in {leg.activity for leg in session.legs}:
            self._activity.remove(number)
            del self._sessions[number]
        self._table.remove(session)
        self._totals.add_ended(session, now)
        log.info("%s: session ended: %s", session.label, reason)

    def _close(self, session: Session, leg: Leg, reason: str, now: float) -> None:
        """Withdraw, count, then free.

        The kernel goes on sending the peer's packets from the port until the peer is closed or planned anew. That
        happens in the same turn, before the port can be given to anybody.
        """
        for stream in leg.streams:
            self._offloading.remove(session, stream, reason, now)
        self._packets.remove(leg)
        self._pairs.close(leg.local, leg.rtp.local_port)

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
            log.error("%s: no notification: %r is none of the targets given with -n", session.label, wanted.target)
            return None
        return Notification(target, controller_host, wanted.tag)

    def _seconds_left(self, leg: Leg, now: float) -> int:
        last_seen = self._activity.last_seen(leg.activity)
        for stream in self._sessions[leg.activity].streams:
            if stream.activity == leg.activity and stream.local_port:
                last_seen = max(last_seen, self._offloading.seen_at(stream))
        return max(0, math.ceil(self._activity.timeout(leg.activity) - (now - last_seen)))


def _port_line(leg: Leg) -> PortLine:
    return PortLine(leg.rtp.local_port, leg.local)
