"""Copies of what streams receive to another host, from ports of their own (protocol.md 8.6).

Where copies go is judged again whenever the rules may have changed (`destinations`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rtpproxy.addr import Endpoint, is_ipv6
from rtpproxy.errors import PortSpaceError, RecordingError
from rtpproxy.service.answers import PortLine
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.legs import Legs
from rtpproxy.service.packets import Sender
from rtpproxy.service.port_pairs import PortPairs
from rtpproxy.service.witnesses import Copier, Line, Watch, Witnesses, WitnessOf
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.session import Component, Leg, Role, Session, Stream

_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True, eq=False)
class CopyLine:
    """From where to where copies of one stream go."""

    stream: Stream
    out: Stream
    """The port that copies leave from."""
    target: Endpoint
    destinations: Destinations

    def to(self) -> Endpoint | None:
        """Return the target; None while nothing may be sent there."""
        return None if self.destinations.copying(self.out, self.target) else self.target


@dataclass(frozen=True, slots=True, eq=False)
class Ports:
    """The ports that copies leave from, until they are freed."""

    out: Leg
    pairs: PortPairs

    @property
    def line(self) -> PortLine:
        """The port that copies of RTP leave from, and its address."""
        return PortLine(self.out.rtp.local_port, self.out.local)

    def free(self) -> None:
        """Free the ports."""
        self.pairs.close(self.out.local, self.out.rtp.local_port)


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """Copies of one leg's streams."""

    watch: Watch
    ports: Ports

    @property
    def streams(self) -> Sequence[WitnessOf]:
        """What takes the packets of each stream."""
        return self.watch.streams

    def begin(self) -> None:
        """Take note that packets come from now on."""
        self.watch.begin()

    def stop(self, now: float) -> None:
        """End it, and free the ports."""
        self.watch.stop(now)
        self.ports.free()


class Copies:
    """Makes the copies of one relay."""

    def __init__(  # noqa: PLR0913 - the parts of the service that a copy touches
        self,
        copier: Copier,
        witnesses: Witnesses,
        pairs: PortPairs,
        legs: Legs,
        local_addresses: LocalAddresses,
        destinations: Destinations,
        *,
        with_rtcp: bool,
    ) -> None:
        self._copier = copier
        self._witnesses = witnesses
        self._pairs = pairs
        self._legs = legs
        self._locals = local_addresses
        self._destinations = destinations
        self._components = (Component.RTP, Component.RTCP) if with_rtcp else (Component.RTP,)

    def make(self, session: Session, leg: Leg, to: Endpoint, on_end: Callable[[float], None], now: float) -> Copy:
        """Copy what a leg receives; `on_end` is called if that ends by itself. Raises RecordingError."""
        ports = self.open_ports(session, leg, to, now)
        out, ends = ports.out, self._ends(to)
        lines = [CopyLine(leg.streams[one], out.streams[one], ends[one], self._destinations) for one in ends]
        sender = "caller" if leg.role is Role.CALLER else "callee"
        absorb = self._witnesses.absorb(session, leg.streams)
        try:
            title = f"{session.label}: copies of what the {sender} sends to {to}"
            return Copy(self._copier.copy(title, lines, on_end=on_end, absorb=absorb), ports)
        except RecordingError:
            ports.free()
            raise

    def open_ports(self, session: Session, leg: Leg, to: Endpoint, now: float) -> Ports:
        """Open ports for copies of what a leg receives. Raises RecordingError if nothing may be sent there."""
        if to.port == _HIGHEST_PORT:
            raise RecordingError(f"no copies to {to}: RTCP would need the port above")
        out = self._legs.make(leg.role, self._local(leg, to))
        for component, end in self._ends(to).items():
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
        return Ports(out, self._pairs)

    def counts(self) -> Mapping[str, int]:
        """Count copies and their packets, by name; empty where userspace sends them."""
        return self._copier.counts()

    def _ends(self, to: Endpoint) -> Mapping[Component, Endpoint]:
        return {one: Endpoint(to.host, to.port + one) for one in self._components}

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


@dataclass(frozen=True, slots=True, eq=False)
class _RelayedLine:
    """Sends copies of one stream by userspace."""

    line: Line
    sender: Sender

    @property
    def stream(self) -> Stream:
        return self.line.stream

    @property
    def payload_type(self) -> int | None:
        """All packets are copied."""
        return None

    def look_again(self, now: float) -> None:
        """Do nothing: where copies go is judged with each packet."""

    def packet(self, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Send a copy, if there is where to."""
        to, out = self.line.to(), self.line.out
        if to is not None:
            self.sender.send(out, out.local_host, to, data)


@dataclass(frozen=True, slots=True, eq=False)
class _RelayedLines:
    """Copies that userspace sends."""

    streams: Sequence[_RelayedLine]

    def begin(self) -> None:
        """Do nothing: nothing is counted."""

    def stop(self, now: float) -> None:
        """Do nothing: nothing waits to be sent."""


class UserspaceCopier:
    """Sends copies where there is no kernel tier. Same interface as `recording.copier.Copier`."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def copy(
        self, title: str, lines: Sequence[Line], *, on_end: Callable[[float], None], absorb: Callable[[float], None]
    ) -> _RelayedLines:
        """Send copies of what streams receive. They do not end by themselves."""
        return _RelayedLines([_RelayedLine(line, self._sender) for line in lines])

    def counts(self) -> Mapping[str, int]:
        """Return no counts."""
        return {}
