"""Feeds sessions with the packets of others (protocol.md 8.7), as for a recorder that is called by SIP (SIPREC).

What a party of the *source* sends is also sent to one party of the *fed* session. The fed session's own packets are
dropped. As these would keep it alive, those of the source do so in their place.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rtpproxy.addr import Endpoint
from rtpproxy.errors import RecordingError
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.offloading import Offloading
from rtpproxy.service.timers import Timers
from rtpproxy.service.witnesses import Copier, Watch, Witnesses
from rtpproxy.session.session import Issuer, Role, Session, Stream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FedLine:
    """From what a stream receives to the remote of a stream of another session, from that one's port."""

    stream: Stream
    out: Stream
    fed: Session
    destinations: Destinations

    def to(self) -> Endpoint | None:
        """Return where copies go, once the fed session has both legs; None if that is not known, or not allowed."""
        out, to = self.out, self.out.latch.remote
        is_ready = self.fed.is_complete and out.local_port and to is not None and to.port
        return to if is_ready and not self.destinations.is_denied(out) else None


@dataclass(frozen=True, slots=True)
class _Feed:
    source: Session
    role: Role
    """The leg of the source that goes to the fed session's callee."""
    watch: Watch


class Feeds:
    """The fed sessions of one relay, and their sources."""

    def __init__(
        self,
        copier: Copier,
        witnesses: Witnesses,
        offloading: Offloading,
        destinations: Destinations,
        timers: Timers,
    ) -> None:
        self._copier = copier
        self._witnesses = witnesses
        self._offloading = offloading
        self._destinations = destinations
        self._timers = timers
        self._feeds: dict[Session, _Feed] = {}
        """By fed session."""

    def feed(self, fed: Issuer, source: Issuer, now: float) -> None:
        """Send what the source's issuer sends to the fed session's issuer, and what its peer sends to its peer.

        Replaces the source that the session had. Raises RecordingError for a session that is its own source, or if
        nothing can be copied.
        """
        session = fed.session
        if session is source.session:
            raise RecordingError("a session cannot be fed with its own packets")
        role = source.role if fed.role is Role.CALLEE else source.role.peer
        found = self._feeds.get(session)
        if found is not None and (found.source, found.role) == (source.session, role):
            return
        self._stop(session, now)
        watch = self._copy(session, source.session, role)
        self._feeds[session] = _Feed(source.session, role, watch)
        session.is_fed, session.feeders = True, tuple(watch.streams)
        for fed_role, source_role in ((Role.CALLEE, role), (Role.CALLER, role.peer)):
            self._timers.follow(session, session.leg(fed_role), source.session.leg(source_role))
        self._witnesses.begin(source.session, watch, now)
        self._offloading.replan(session, now)

    def end(self, session: Session, now: float) -> None:
        """Forget a session that ends, as fed one and as source."""
        if not self._feeds:
            return
        self._stop(session, now)
        for fed in [fed for fed, feed in self._feeds.items() if feed.source is session]:
            self._stop(fed, now, is_source_ending=True)

    def _copy(self, session: Session, source: Session, role: Role) -> Watch:
        pairs: Sequence[tuple[Stream, Stream]] = [
            *zip(source.leg(role).streams, session.callee.streams, strict=True),
            *zip(source.leg(role.peer).streams, session.caller.streams, strict=True),
        ]

        def on_end(at: float) -> None:
            log.error("%s: gets no more copies of %s", session.label, source.label)
            self._stop(session, at)

        return self._copier.copy(
            f"{session.label}: copies of {source.label}",
            [FedLine(stream, out, session, self._destinations) for stream, out in pairs],
            on_end=on_end,
            absorb=self._witnesses.absorb(source, source.streams),
        )

    def _stop(self, session: Session, now: float, *, is_source_ending: bool = False) -> None:
        feed = self._feeds.pop(session, None)
        if feed is None:
            return
        session.feeders = ()
        self._timers.unfollow(session)
        self._witnesses.end(feed.source, feed.watch, now, is_ending=is_source_ending)
