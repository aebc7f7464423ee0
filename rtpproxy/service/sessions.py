"""The use cases of the relay: requests and packets come in, sessions change, media and the kernel tier follow.

No sockets, no clock: adapters arrive through the constructor, typed by Protocols of this folder, and time is an
argument, in seconds, monotonic.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from rtpproxy.addr import Endpoint
from rtpproxy.config import DSCP_MASK, Config, Network
from rtpproxy.errors import (
    NoPortsError,
    NotificationOffError,
    SessionNotFoundError,
    StoppingError,
)
from rtpproxy.service.answers import PortLine, SessionCounters, Tiers
from rtpproxy.service.contests import Contests
from rtpproxy.service.copies import Copies
from rtpproxy.service.counters import Counters, Receiving, SessionTotals
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.events import Ending, Observer, Observers
from rtpproxy.service.feeds import Feeds
from rtpproxy.service.legs import Legs, local_for_new_ports
from rtpproxy.service.notification import find_notification
from rtpproxy.service.offloading import Entries, Expecting, KernelCounters, Offloading
from rtpproxy.service.overload import Overload
from rtpproxy.service.packets import Packets, Sender
from rtpproxy.service.playback import Parties, Playback, Players
from rtpproxy.service.port_pairs import PortOwner, PortPairs
from rtpproxy.service.recordings import Recorder, Recordings
from rtpproxy.service.repacketizing import Later
from rtpproxy.service.requests import (
    CopyTo,
    Delete,
    DropReference,
    Feed,
    Lookup,
    MediaDescription,
    Play,
    Query,
    Record,
    RecordAs,
    SetTimeout,
    SetTos,
    StopPlaying,
    StopRecording,
    Update,
)
from rtpproxy.service.taps import Tapper, Taps
from rtpproxy.service.timers import Timers
from rtpproxy.service.witnesses import Arrived, Copier, Tees, Witnesses
from rtpproxy.session.local import LocalAddresses
from rtpproxy.session.ports import PortAllocator
from rtpproxy.session.reach import Reach
from rtpproxy.session.reaper import Activity
from rtpproxy.session.session import Issuer, Leg, Role, Session
from rtpproxy.session.table import SessionTable
from rtpproxy.session.totals import Totals

log = logging.getLogger(__name__)

WARN_SHARE = 0.8
"""Share of the capacity above which the operator is warned once."""
JUDGED_AT_ONCE = 128
"""Sessions whose remotes are judged in one turn, which takes a millisecond or, if all must be forgotten, some ten."""


class Media(Sender, PortOwner, Expecting, Receiving, Arrived, Protocol):
    """The userspace path: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""


class Service:
    """All sessions of one relay, and everything that requests, packets and time do to them."""

    def __init__(  # noqa: PLR0913 - the parts of a relay
        self,
        config: Config,
        local_addresses: LocalAddresses,
        media: Media,
        entries: Entries,
        kernel_counters: KernelCounters,
        recorder: Recorder,
        copier: Copier,
        tapper: Tapper,
        tees: Tees,
        players: Players,
        new_ports: Callable[[], PortAllocator],
        observers: Sequence[Observer],
        capacity: int,
        later: Later,
    ) -> None:
        """`new_ports` makes the allocator of a port space; `capacity` is the number of sessions that fit on the host.

        `observers` are told of every session's life, after the totals.
        """
        self._config = config
        self._media = media
        self._table = SessionTable()
        self._warn_above = WARN_SHARE * capacity
        self._is_stopping = False
        totals, activity, parties = Totals(), Activity(), Parties()
        self._overload = Overload(config.overload, totals)
        self._observers = Observers((SessionTotals(totals), parties, *observers))
        self._timers = Timers(config, activity, kernel_counters)
        self._reach = Reach(config.listen, config.media_allow, config.media_deny)
        self._destinations = Destinations(self._reach)
        self._unjudged: deque[Session] = deque()
        """Those whose remotes were judged by what belonged to this host before."""
        self._offloading = Offloading(entries, kernel_counters, media, self._destinations, self._observers)
        self._contests = Contests()
        self._packets = Packets(
            *(media, self._offloading, self._destinations, self._contests, self._observers, activity, totals, later),
            is_doubling=config.is_doubling,
        )
        pairs = PortPairs(local_addresses, media, new_ports)
        self._legs = Legs(config, local_addresses, pairs, self._packets, self._offloading, self._destinations)
        witnesses = Witnesses(tees, self._offloading, media)
        copies = Copies(
            *(copier, witnesses, pairs, self._legs, local_addresses, self._destinations),
            with_rtcp=not config.leaves_rtcp_out,
        )
        self._recordings = Recordings(self._table, recorder, copies, witnesses)
        self._playback = Playback(
            *(parties, players, media, self._offloading, self._destinations, self._timers, totals),
            is_doubling=config.is_doubling,
        )
        self.taps = Taps(tapper, self._table, witnesses)
        """For modules."""
        self._feeds = Feeds(copier, witnesses, self._offloading, self._destinations, self._timers)
        self._counters = Counters(totals, entries, kernel_counters, media, self._offloading, self._timers)
        # Bound here, not called by a method of its own: this saves 50 ns for each packet in userspace.
        self.datagram = self._packets.datagram

    # Requests

    @property
    def has_notification(self) -> bool:
        """Tell whether a notification socket was configured."""
        return bool(self._config.notify)

    def update(self, request: Update, controller_host: str, now: float) -> tuple[PortLine, Issuer]:
        """Create or change a session (protocol.md 4.4). Returns the port for the other party.

        `controller_host` is the address that the request came from, empty for this host. Raises NoPortsError,
        NotificationOffError, StoppingError, OverloadError.
        """
        if request.notify is not None and not self._config.notify:
            raise NotificationOffError("a notification was asked for, and -n was not given")
        found = self._table.find(request.call_id, request.from_tag, request.to_tag)
        if found is None:
            session, is_reverse = self._create(request, now), False
            line = _port_line(session.callee)
            tell = self._observers.created
        else:
            session, is_reverse = found
            line = self._answer(session, Role.CALLER if is_reverse else Role.CALLEE, request.media, now)
            if not request.media.is_weak:
                session.is_strong = True
            tell = self._observers.changed
        session.controller_host = controller_host
        session.notification = None
        if request.notify is not None:
            session.notification = find_notification(session, request.notify, self._config.notify, controller_host)
        tell(session, now)
        return line, Issuer(session, Role.CALLEE if is_reverse else Role.CALLER)

    def lookup(self, request: Lookup, now: float) -> tuple[PortLine, Issuer] | None:
        """Describe the answering leg. Returns the port for the calling party; None when there is no such session.

        Raises NoPortsError.
        """
        found = self._table.find(request.call_id, request.from_tag, request.to_tag)
        if found is None:
            return None
        session, is_reverse = found
        issuer = Issuer(session, Role.CALLER if is_reverse else Role.CALLEE)
        line = self._answer(session, issuer.role.peer, request.media, now)
        self._observers.changed(session, now)
        return line, issuer

    def delete(self, request: Delete, now: float) -> None:
        """Drop the strong or a weak reference, and every session that has none left (protocol.md 4.5).

        Raises SessionNotFoundError.
        """
        found = self._table.find_all(request.call_id, request.from_tag, request.to_tag)
        if not found:
            raise SessionNotFoundError("no such session")
        for session, is_reverse in found:
            self._drop(session, is_reverse, request.is_weak, now)

    def delete_all(self, now: float, why: Ending = Ending.ALL_DELETED) -> None:
        """Drop every session, on request or because the relay stops."""
        for session in self._table:
            self._end(session, why.value, now)
            self._observers.ended(session, why, now)

    def find(self, request: Query) -> Issuer:
        """Find the session whose tags match exactly, and the leg of the from-tag. Raises SessionNotFoundError."""
        found = self._table.find(request.call_id, request.from_tag, request.to_tag)
        if found is None:
            raise SessionNotFoundError("no such session")
        session, is_reverse = found
        return Issuer(session, Role.CALLEE if is_reverse else Role.CALLER)

    def query(self, issuer: Issuer, now: float) -> SessionCounters:
        """Return the counters of a session, those of the kernel included, seen from the issuer's leg."""
        return self._counters.query(issuer, now)

    def totals(self) -> Totals:
        """Return the totals of the process, those of the kernel included."""
        return self._counters.totals()

    def tiers(self) -> Tiers:
        """Count the streams by tier, and frames by verdict."""
        counts = {**self._recordings.counts(), **self.taps.counts()}
        return self._counters.tiers(self._packets.streams, self.dropped(), counts, self._overload.counts())

    def dropped(self) -> dict[str, int]:
        """Count the packets that userspace dropped by a rule that has a name: those that are not 0."""
        counts = {
            "dropped_denied": self._destinations.denied_packets,
            "dropped_waited_too_long": self._media.waited_too_long(),
            "dropped_no_room": self._media.no_room(),
        }
        return {name: count for name, count in counts.items() if count}

    # Recordings and copies

    def record(self, request: Record, now: float) -> None:
        """Record a side of every session that the tags match. Raises SessionNotFoundError, RecordingError."""
        for session in self._recordings.record(request, now):
            self._observers.changed(session, now)

    def record_as(self, request: RecordAs, now: float) -> None:
        """Record a side of one session in files of a given name. Raises SessionNotFoundError, RecordingError."""
        issuer = self.find(request.session)
        self._recordings.record_as(issuer, request, now)
        self._observers.changed(issuer.session, now)

    def copy_to(self, request: CopyTo, now: float) -> PortLine | None:
        """Send copies of a side to another host. Returns the port that they leave from, if that was asked for.

        Raises SessionNotFoundError, RecordingError.
        """
        issuer = self.find(request.session)
        line = self._recordings.copy_to(issuer, request, now)
        self._observers.changed(issuer.session, now)
        return line

    def stop_recording(self, request: StopRecording, now: float) -> None:
        """End recordings and copies. Raises SessionNotFoundError if there are none."""
        for session in self._recordings.stop(request, now):
            self._observers.changed(session, now)

    # Prompts

    def play(self, request: Play, now: float) -> None:
        """Play a prompt to one party. Raises SessionNotFoundError, NoCodecsError, PlaybackError."""
        issuer = self.find(request.session)
        self._playback.play(issuer, request, now)
        self._observers.changed(issuer.session, now)

    def stop_playing(self, request: StopPlaying, now: float) -> None:
        """End what is played to one party, if anything is. Raises SessionNotFoundError."""
        issuer = self.find(request.session)
        self._playback.stop(issuer, now)
        self._observers.changed(issuer.session, now)

    # Requests that may follow another one on its session

    def answer(self, issuer: Issuer, media: MediaDescription, now: float) -> PortLine:
        """Describe the peer of the issuer's leg. Raises NoPortsError, SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        line = self._answer(session, issuer.role, media, now)
        self._observers.changed(session, now)
        return line

    def set_timeout(self, issuer: Issuer, request: SetTimeout, now: float) -> None:
        """Change the idle timeout from now on, and for good (protocol.md 4.6). Raises SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        self._timers.set_timeout(session, _leg_meant(issuer, request), request.seconds, now)
        self._observers.changed(session, now)

    def set_tos(self, issuer: Issuer, request: SetTos, now: float) -> None:
        """Change the TOS byte of the RTP packets to one leg's party. Raises SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        _leg_meant(issuer, request).rtp.tos = request.tos & DSCP_MASK
        self._offloading.replan(session, now)
        self._observers.changed(session, now)

    def drop(self, issuer: Issuer, request: DropReference, now: float) -> None:
        """Drop a reference, as `delete` with the session's own from-tag. Raises SessionNotFoundError."""
        session = issuer.session
        self._check_alive(session)
        self.delete(Delete(session.call_id, session.from_tag, None, request.is_weak), now)

    def feed(self, issuer: Issuer, request: Feed, now: float) -> None:
        """Send copies of another session's packets to the parties. Raises SessionNotFoundError, RecordingError."""
        session = issuer.session
        self._check_alive(session)
        self._feeds.feed(issuer, self.find(request.source), now)
        self._observers.changed(session, now)

    # What media may be sent to

    def host_has(self, local: Collection[Network], broadcast: Collection[Network], now: float) -> bool:
        """Take note of this host's addresses and broadcast addresses: before the first request, and on each change.

        New remotes are judged by them at once, and those that sessions have by and by, so that commands get their
        turn. True if some are left for `judge_more`.
        """
        if self._reach.host_has(local, broadcast):
            self._unjudged = deque(self._table)
        return self.judge_more(now)

    def judge_more(self, now: float) -> bool:
        """Make some sessions forget remotes that nothing may be sent to any more. True if others are left."""
        for _ in range(min(JUDGED_AT_ONCE, len(self._unjudged))):
            session = self._unjudged.popleft()
            if session in self._table:
                self._withdraw_denied(session, now)
        return bool(self._unjudged)

    def control_is_at(self, endpoints: Collection[Endpoint]) -> None:
        """Take note, before the first request, of where control sockets are; 0.0.0.0 and :: are all our addresses."""
        self._reach.control_is_at(endpoints)

    # Time

    def tick(self, now: float) -> None:
        """End the sessions that are idle, and the contests that are settled. To be called every second."""
        self._playback.tick(now)
        for session in self._contests.settle(now):
            self._offloading.replan(session, now)
        for session, timeout_s in self._timers.idle(now):
            self._end(session, f"idle for {timeout_s:.0f} s", now)
            # Only now: were it told first, a session that cannot be ended would be told of at every tick.
            self._observers.timed_out(session, timeout_s, now)
            self._observers.ended(session, Ending.TIMED_OUT, now)
        self._counters.tick(now)

    def measured(self, busy_s: float, late_s: float, now: float) -> None:
        """Take note of how busy the event loop is, as `Overload.measured` does. To be called ten times a second."""
        self._overload.measured(busy_s, late_s, now)

    def stop_slowly(self) -> None:
        """Refuse new sessions from now on."""
        self._is_stopping = True

    @property
    def is_finished(self) -> bool:
        """Tell whether a slow stop is complete: no session is left."""
        return self._is_stopping and not len(self._table)

    # Sessions

    def _create(self, request: Update, now: float) -> Session:
        if self._is_stopping:
            raise StoppingError("stopping slowly: no new sessions")
        self._overload.check()
        media = request.media
        callee, caller = self._legs.make_both(media)
        session = Session(request.call_id, request.from_tag, now, callee, caller)
        try:
            self._legs.open(session, callee, callee.local, now)
        except NoPortsError as error:
            raise NoPortsError(str(error), is_new_session=True) from error
        self._timers.start(session, now)
        self._timers.watch(callee)
        session.is_strong = not media.is_weak
        callee.is_weak = media.is_weak
        self._table.add(session)
        self._legs.describe(session, caller, media, now)
        if self._config.records_all:
            self._recordings.record_all(session, now)
        self.taps.created(session, now)
        if log.isEnabledFor(logging.INFO):
            log.info("%s: session created, port %d", session.label, callee.rtp.local_port)
        self._warn_of_limit()
        return session

    def _warn_of_limit(self) -> None:
        """Warn once that the relay fills up (protocol.md 12.2)."""
        if len(self._table) > self._warn_above:
            self._warn_above = math.inf
            log.warning(
                "%d sessions: over %.0f %% of what ports (-m, -M) and open files (-L) allow",
                *(len(self._table), 100 * WARN_SHARE),
            )

    def _answer(self, session: Session, role: Role, media: MediaDescription, now: float) -> PortLine:
        """Let a request change an existing session; `role` is the leg whose port is asked for."""
        leg = session.leg(role)
        if not leg.has_ports or media.is_new_port:
            self._legs.open(session, leg, local_for_new_ports(leg, media), now)
            self._timers.watch(leg)
            self._complete(session, now)
        if media.is_weak:
            leg.is_weak = True
        self._timers.touch(session, now)
        described = session.leg(role.peer)
        self._legs.describe(session, described, media, now)
        for stream in described.streams:
            self._contests.note(session, stream)
        return _port_line(leg)

    def _withdraw_denied(self, session: Session, now: float) -> None:
        denied = [stream for stream in session.streams if self._destinations.is_denied(stream)]
        for stream in denied:
            self._offloading.absorb(session, stream, now)
            self._destinations.withdraw(session, stream)
            self._observers.learned(session, stream, now)
        if denied or session.feeders or any(stream.witnesses for stream in session.streams):
            # Where copies go is judged anew.
            self._offloading.replan(session, now)

    def _complete(self, session: Session, now: float) -> None:
        """Let packets flow when a second pair of ports was opened (protocol.md 4.4)."""
        if not session.is_complete:
            session.is_complete = True
            self._timers.complete(session)
            self._observers.completed(session, now)

    def _drop(self, session: Session, is_reverse: bool, is_weak: bool, now: float) -> None:
        """Drop a reference, and the session if that was the last."""
        if not is_weak:
            session.is_strong = False
        else:
            session.leg(Role.CALLEE if is_reverse else Role.CALLER).is_weak = False
        if session.is_strong or session.callee.is_weak or session.caller.is_weak:
            self._observers.changed(session, now)
        else:
            self._end(session, "deleted", now)
            self._observers.ended(session, Ending.DELETED, now)

    def _end(self, session: Session, reason: str, now: float) -> None:
        """End a session; the caller tells the observers. `reason` is for the log."""
        self._recordings.end(session, now)
        self._playback.end(session)
        self.taps.end(session, now)
        self._feeds.end(session, now)
        for leg in session.legs:
            if leg.has_ports:
                self._legs.close(session, leg, reason, now)
        self._timers.stop(session)
        self._contests.forget(session)
        self._table.remove(session)
        if log.isEnabledFor(logging.INFO):
            log.info("%s: session ended: %s", session.label, reason)

    def _check_alive(self, session: Session) -> None:
        if session not in self._table:
            raise SessionNotFoundError("the session has ended")


def _leg_meant(issuer: Issuer, request: SetTimeout | SetTos) -> Leg:
    return issuer.session.leg(issuer.role.peer if request.is_reverse else issuer.role)


def _port_line(leg: Leg) -> PortLine:
    return PortLine(leg.rtp.local_port, leg.local)
