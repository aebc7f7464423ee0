"""Feeds sessions with the packets of others (protocol.md 8.7), as for a recorder that is called by SIP (SIPREC).

What a party of the *source* sends is also sent to one party of the *fed* session. The fed session's own packets are
dropped. As these would keep it alive, copies do so in their place.
"""

from dataclasses import dataclass

from rtpproxy.errors import RecordingError
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.offloading import Offloading
from rtpproxy.service.packets import Sender
from rtpproxy.session.reaper import Activity
from rtpproxy.session.session import Issuer, Session, Stream


@dataclass(frozen=True, slots=True, eq=False)
class FedStream:
    """Sends what a stream receives to the remote of a stream of another session, from that one's port."""

    out: Stream
    fed: Session
    sender: Sender
    destinations: Destinations
    activity: Activity

    @property
    def tee(self) -> int:
        """Return 0: userspace sends the copies."""
        return 0

    def look_again(self, now: float) -> None:
        """Do nothing: addresses are looked at with each packet."""

    def packet(self, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Send a copy, once the fed session has both legs and it is known where to."""
        out, to = self.out, self.out.latch.remote
        if not self.fed.is_complete or not out.local_port:
            return
        self.activity.touch(out.activity, now)
        if to is not None and to.port and not self.destinations.is_denied(out):
            self.sender.send(out, out.local_host, to, data)


class Feeds:
    """The fed sessions of one relay, and their sources."""

    def __init__(self, sender: Sender, offloading: Offloading, destinations: Destinations, activity: Activity) -> None:
        self._sender = sender
        self._offloading = offloading
        self._destinations = destinations
        self._activity = activity
        self._sources: dict[Session, tuple[Session, list[FedStream]]] = {}
        """By fed session."""

    def feed(self, fed: Issuer, source: Issuer, now: float) -> None:
        """Send what the source's issuer sends to the fed session's issuer, and what its peer sends to its peer.

        Replaces the source that the session had. Raises RecordingError for a session that is its own source.
        """
        session = fed.session
        if session is source.session:
            raise RecordingError("a session cannot be fed with its own packets")
        self._stop(session, now)
        made = []
        for role in (source.role, source.role.peer):
            out_leg = session.leg(fed.role if role is source.role else fed.role.peer)
            for stream, out in zip(source.session.leg(role).streams, out_leg.streams, strict=True):
                one = FedStream(out, session, self._sender, self._destinations, self._activity)
                stream.witnesses = (*stream.witnesses, one)
                made.append(one)
        self._sources[session] = source.session, made
        session.is_fed = True
        self._offloading.replan(source.session, now)
        self._offloading.replan(session, now)

    def end(self, session: Session, now: float) -> None:
        """Forget a session that ends, as fed one and as source."""
        if not self._sources:
            return
        self._stop(session, now)
        for fed in [fed for fed, (source, _) in self._sources.items() if source is session]:
            del self._sources[fed]

    def _stop(self, session: Session, now: float) -> None:
        found = self._sources.pop(session, None)
        if found is None:
            return
        source, made = found
        for stream in source.streams:
            stream.witnesses = tuple(one for one in stream.witnesses if one not in made)
        self._offloading.replan(source, now)
