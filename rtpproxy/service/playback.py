"""Prompts that are played to parties, for instance music on hold (protocol.md 2.5: `P` and `S`, and 9).

While one is played, the party gets nothing of what the other one sends: that is counted, and dropped before it is
recorded. A prompt that is heard keeps its session alive.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from rtpproxy.config import SHORT_BYTES
from rtpproxy.errors import NoCodecsError
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.events import Observer
from rtpproxy.service.offloading import Offloading
from rtpproxy.service.packets import Sender
from rtpproxy.service.requests import Play
from rtpproxy.service.timers import Timers
from rtpproxy.session.session import Issuer, Role, Session, Stream
from rtpproxy.session.totals import Totals

log = logging.getLogger(__name__)


class Playing(Protocol):
    """A prompt that is played: `playback.players.Playing`."""

    def stop(self) -> None: ...
    def wake(self) -> None:
        """Take note that the address of the party may be another one."""


class Players(Protocol):
    """Plays prompts: `playback.players.Players`."""

    def play(
        self, prompt: bytes, payload_types: Sequence[int], packet_ms: int, passes: int | None, outlet: "Party"
    ) -> Playing: ...
    def tick(self, now: float) -> None: ...


class Party:
    """Whom a prompt is played to: one leg of a session, wherever its party is at the time."""

    def __init__(self, playback: "Playback", issuer: Issuer) -> None:
        self._playback = playback
        self.issuer = issuer
        self.stream: Stream = issuer.session.leg(issuer.role).rtp
        self.judged: tuple[str, int] | None = None
        """The remote of which it is known that something may be sent to it."""
        self.is_heard = False
        """Something was sent since the last look."""
        self.playing: Playing

    @property
    def title(self) -> str:
        """Name the party in the log."""
        return f"{self.issuer.session.label}, to the {self.issuer.role.name.lower()}"

    def send(self, packet: bytes) -> bool:
        """Send a packet; False where that is impossible until the party's address is another one."""
        return self._playback.send(self, packet)

    def ended(self, now: float) -> None:
        """Take note that there is no more."""
        self._playback.ended(self, now)


class Parties(Observer):
    """Those to whom something is played. As an observer it learns when one of them may be reached."""

    def __init__(self) -> None:
        self._parties: dict[Session, dict[Role, Party]] = {}

    def __iter__(self) -> Iterator[Party]:
        return (party for parties in self._parties.values() for party in parties.values())

    def of(self, session: Session) -> Collection[Party]:
        """List those of a session."""
        return tuple(self._parties.get(session, {}).values())

    def find(self, issuer: Issuer) -> Party | None:
        """Find a leg's; None if nothing is played to it."""
        return self._parties.get(issuer.session, {}).get(issuer.role)

    def add(self, party: Party) -> None:
        """Remember one, of a leg that had none."""
        self._parties.setdefault(party.issuer.session, {})[party.issuer.role] = party

    def remove(self, party: Party) -> None:
        """Forget one."""
        session = party.issuer.session
        del self._parties[session][party.issuer.role]
        if not self._parties[session]:
            del self._parties[session]

    def completed(self, session: Session, now: float) -> None:
        """A party may have got its port."""
        self._wake(session)

    def changed(self, session: Session, now: float) -> None:
        """A command may have named the address of a party."""
        self._wake(session)

    def learned(self, session: Session, stream: Stream, now: float) -> None:
        """A packet may have shown the address of a party."""
        self._wake(session)

    def _wake(self, session: Session) -> None:
        for party in self._parties.get(session, {}).values():
            party.playing.wake()


class Playback:
    """The prompts of all sessions of one relay."""

    def __init__(  # noqa: PLR0913 - the parts of the service that a prompt touches
        self,
        parties: Parties,
        players: Players,
        sender: Sender,
        offloading: Offloading,
        destinations: Destinations,
        timers: Timers,
        totals: Totals,
        *,
        is_doubling: bool,
    ) -> None:
        """`is_doubling` sends payloads below SHORT_BYTES twice."""
        self._parties = parties
        self._players = players
        self._sender = sender
        self._offloading = offloading
        self._destinations = destinations
        self._timers = timers
        self._totals = totals
        self._double_below = SHORT_BYTES if is_doubling else 0

    def play(self, issuer: Issuer, request: Play, now: float) -> None:
        """Play a prompt to the issuer, in place of what is played to it. Raises NoCodecsError, PlaybackError.

        When it fails, nothing has changed.
        """
        session = issuer.session
        leg = session.leg(issuer.role)
        payload_types, packet_ms = request.payload_types, 0
        if payload_types is None:
            if leg.codecs is None:
                raise NoCodecsError("the party's last U or L has no list of codecs (c)")
            payload_types, packet_ms = leg.codecs, session.leg(issuer.role.peer).packet_ms
        party = Party(self, issuer)
        party.playing = self._players.play(request.prompt, payload_types, packet_ms, request.passes, party)
        self._remove(self._parties.find(issuer))
        self._parties.add(party)
        self._totals.players_created += 1
        party.stream.is_played_to = True
        self._offloading.replan(session, now)

    def stop(self, issuer: Issuer, now: float) -> None:
        """End what is played to the issuer, if anything is."""
        if self._remove(self._parties.find(issuer)):
            self._offloading.replan(issuer.session, now)

    def end(self, session: Session) -> None:
        """End what is played to the parties of a session that ends."""
        for party in self._parties.of(session):
            self._remove(party)

    def tick(self, now: float) -> None:
        """Keep the sessions alive whose parties hear something. To be called every second."""
        self._players.tick(now)
        for party in self._parties:
            if party.is_heard:
                party.is_heard = False
                self._timers.touch(party.issuer.session, now)

    # For `Party`

    def send(self, party: Party, packet: bytes) -> bool:
        """Send a packet to where the party is."""
        stream = party.stream
        to = stream.latch.remote
        if to is None or not (to[1] and stream.local_port):
            return False
        if to != party.judged:
            if self._destinations.is_denied(stream):
                return False
            party.judged = to
        if self._sender.send(stream, stream.local_host, to, packet):
            party.is_heard = True
            self._totals.packets_played += 1
            if len(packet) < self._double_below:
                self._sender.send(stream, stream.local_host, to, packet)
        return True

    def ended(self, party: Party, now: float) -> None:
        """Relay again what the other party sends."""
        self._forget(party)
        self._offloading.replan(party.issuer.session, now)
        log.info("%s: nothing is played any more", party.title)

    def _remove(self, party: Party | None) -> bool:
        """Stop what is played to a party; False for none."""
        if party is None:
            return False
        party.playing.stop()
        self._forget(party)
        return True

    def _forget(self, party: Party) -> None:
        self._parties.remove(party)
        party.stream.is_played_to = False
        self._totals.players_destroyed += 1
