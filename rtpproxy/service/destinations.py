"""Lets streams send only to where `session.reach` allows it, and tells the operator what is refused.

Whoever is to send media on behalf of a session asks here first; `learning` and `signalled` are for endpoints that are
about to become destinations, the rest for those that are.
"""

import logging

from rtpproxy.addr import Endpoint
from rtpproxy.seldom import is_worth_a_line
from rtpproxy.session.latch import Refuses
from rtpproxy.session.reach import Reach, is_loopback
from rtpproxy.session.session import Leg, Session, Stream

log = logging.getLogger(__name__)


class Destinations:
    """The destinations of all streams of one relay."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self.denied_packets = 0
        """Packets dropped because they came from where media may not be sent, or were for a party that is there."""

    def signalled(self, session: Session, leg: Leg, rtp: Endpoint) -> tuple[Endpoint | None, Endpoint | None]:
        """Work out the RTP and RTCP endpoints of a leg from the RTP endpoint that a command names.

        None where nothing may be sent, which is logged. Without RTP there is no RTCP, either.
        """
        rtcp = Endpoint(rtp.host, (rtp.port + 1) % 65536)
        if self._reach.is_free(rtp.host):
            leg.rtp.is_denied = leg.rtcp.is_denied = False
            return rtp, rtcp
        leg.rtp.is_denied = leg.rtcp.is_denied = not self._accepts(session, leg, rtp)
        if leg.rtp.is_denied:
            return None, None
        leg.rtcp.is_denied = not self._accepts(session, leg, rtcp)
        return rtp, None if leg.rtcp.is_denied else rtcp

    def learning(self, local_host: str) -> Refuses:
        """Return the rule for what packets teach that arrive at one of our addresses, empty if that is unknown."""
        return self._refuses_from_loopback if _is_maybe_loopback(local_host) else self._refuses

    def denied(self, session: Session, source: tuple[str, int], local_host: str) -> None:
        """Count a packet from a source that was not learned, and log some of them."""
        self.denied_packets += 1
        if is_worth_a_line(self.denied_packets):
            why = self._reach.refusal(source, is_from_loopback=_is_maybe_loopback(local_host))
            log.info("%s: %s is not learned: %s", session.label, Endpoint(*source), why)

    def copying(self, stream: Stream, to: Endpoint) -> str:
        """Say why no copies may be sent from a stream's port to an endpoint, in words; empty if they may."""
        return self._reach.refusal(to, is_from_loopback=self._reach.is_loopback(stream.local, stream.local_host))

    def is_denied(self, stream: Stream) -> bool:
        """Tell if nothing may be sent to a stream's remote, for instance because it has become an address of ours."""
        return bool(self._why(stream, is_from_loopback=_is_maybe_loopback(stream.local_host)))

    def withdraw(self, session: Session, stream: Stream) -> bool:
        """Forget a stream's remote if nothing may be sent there any more; True if so. Absorb what the kernel saw first.

        To be called when what the rules depend on has changed.
        """
        return self._withdraw(session, stream, is_from_loopback=_is_maybe_loopback(stream.local_host))

    def withdraw_moved(self, session: Session, leg: Leg) -> None:
        """Do the same for a leg whose ports have moved to another address of ours, before packets arrive there."""
        for stream in leg.streams:
            self._withdraw(session, stream, is_from_loopback=self._reach.is_loopback(stream.local, stream.local_host))

    def _accepts(self, session: Session, leg: Leg, endpoint: Endpoint) -> bool:
        is_from_loopback = any(self._reach.is_loopback(stream.local, stream.local_host) for stream in leg.streams)
        why = self._reach.refusal(endpoint, is_from_loopback=is_from_loopback)
        if why:
            log.info("%s: nothing is sent to %s, which a command named: %s", session.label, endpoint, why)
        return not why

    def _withdraw(self, session: Session, stream: Stream, *, is_from_loopback: bool) -> bool:
        why = self._why(stream, is_from_loopback=is_from_loopback)
        if why:
            log.info("%s: nothing is sent to %s any more: %s", session.label, stream.latch.remote, why)
            stream.latch.forget()
            stream.is_denied = True
        return bool(why)

    def _why(self, stream: Stream, *, is_from_loopback: bool) -> str:
        remote = stream.latch.remote
        return "" if remote is None else self._reach.refusal(remote, is_from_loopback=is_from_loopback)

    def _refuses(self, source: tuple[str, int]) -> bool:
        return bool(self._reach.refusal(source, is_from_loopback=False))

    def _refuses_from_loopback(self, source: tuple[str, int]) -> bool:
        return bool(self._reach.refusal(source, is_from_loopback=True))


def _is_maybe_loopback(local_host: str) -> bool:
    """Tell if packets arrive at loopback; True also where that is unknown, on a bound socket with a wildcard.

    There, a packet from loopback counts as one to loopback: both come from this host only.
    """
    return not local_host or is_loopback(local_host)
