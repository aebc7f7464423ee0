"""Sends copies of what streams receive to another host, from ports of their own (protocol.md 8.6).

Where copies go is judged for each packet, as the rules may change (`destinations`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rtpproxy.addr import Endpoint, is_ipv6
from rtpproxy.errors import PortSpaceError, RecordingError
from rtpproxy.service.answers import PortLine
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.legs import Legs
from rtpproxy.service.packets import Sender
from rtpproxy.service.port_pairs import PortPairs
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.session import Component, Leg, Session, Stream

_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True, eq=False)
class CopiedStream:
    """Sends what one stream receives to another host."""

    stream: Stream
    out: Stream
    """The port that copies leave from."""
    to: Endpoint
    sender: Sender
    destinations: Destinations

    @property
    def tee(self) -> int:
        """Return 0: userspace sends the copies."""
        return 0

    def look_again(self, now: float) -> None:
        """Do nothing: addresses are looked at with each packet."""

    def packet(self, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Send a copy, unless nothing may be sent there any more."""
        if not self.destinations.copying(self.out, self.to):
            self.sender.send(self.out, self.out.local_host, self.to, data)


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """Copies of one leg's streams."""

    streams: Sequence[CopiedStream]
    out: Leg
    """The ports that they leave from."""
    pairs: PortPairs

    @property
    def line(self) -> PortLine:
        """The port that copies of RTP leave from, and its address."""
        return PortLine(self.out.rtp.local_port, self.out.local)

    def stop(self, now: float) -> None:
        """Free the ports."""
        self.pairs.close(self.out.local, self.out.rtp.local_port)


class Copies:
    """Makes the copies of one relay."""

    def __init__(
        self,
        sender: Sender,
        pairs: PortPairs,
        legs: Legs,
        local_addresses: LocalAddresses,
        destinations: Destinations,
        *,
        with_rtcp: bool,
    ) -> None:
        self._sender = sender
        self._pairs = pairs
        self._legs = legs
        self._locals = local_addresses
        self._destinations = destinations
        self._components = (Component.RTP, Component.RTCP) if with_rtcp else (Component.RTP,)

    def make(self, session: Session, leg: Leg, to: Endpoint, now: float) -> Copy:
        """Open ports for copies of what a leg receives. Raises RecordingError if nothing may be sent there."""
        if to.port == _HIGHEST_PORT:
            raise RecordingError(f"no copies to {to}: RTCP would need the port above")
        out = self._legs.make(leg.role, self._local(leg, to))
        ends = {one: Endpoint(to.host, to.port + one) for one in self._components}
        for component, end in ends.items():
            why = self._destinations.copying(out.streams[component], end)
            why = why or ("a port of the session itself" if _is_own(session, end) else "")
            if why:
                raise RecordingError(f"no copies to {end}: {why}")
        try:
            local, port = self._pairs.open(out.local)
        except PortSpaceError as error:
            raise RecordingError(f"no port to send copies from: {error}") from error
        for stream in out.streams:
            stream.settle(local, port + stream.component, now)
        streams = [
            CopiedStream(leg.streams[one], out.streams[one], ends[one], self._sender, self._destinations)
            for one in self._components
        ]
        return Copy(streams, out, self._pairs)

    def _local(self, leg: Leg, to: Endpoint) -> LocalAddress:
        """Choose our address for copies: that of the leg, or one of the family of the destination."""
        is_to_ipv6 = is_ipv6(to.host)
        if leg.local.is_ipv6 == is_to_ipv6:
            return leg.local
        found = self._locals.of_family(is_to_ipv6)
        if found is None:
            raise RecordingError(f"no copies to {to}: the relay has no address of that family")
        return found


def _is_own(session: Session, to: Endpoint) -> bool:
    """Tell if copies would come back to the session, and be copied again."""
    return any(stream.local_port == to.port and stream.local.covers(to.host) for stream in session.streams)
