"""Copies what streams receive to other hosts: opens the sockets, and hands them to the process that sends.

A copy leaves from a port of ours, which has no socket: packets that come there are steered to the relay's own. So the
process gets an ordinary UDP socket that is bound to the port and receives nothing, and needs no privilege to send.
"""

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rtpproxy.addr import Endpoint, is_ipv6, is_link_local
from rtpproxy.errors import RecordingError
from rtpproxy.recording.carrier import Carrier
from rtpproxy.recording.messages import Aim, OpenCopy, Progress, To, ToRelay
from rtpproxy.recording.taken import Group, Side, Sink, Taken
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Stream

log = logging.getLogger(__name__)


class Line(Protocol):
    """From where to where packets are copied: `service.copies.CopyLine` or `service.feeds.FedLine`."""

    @property
    def stream(self) -> Stream: ...
    @property
    def out(self) -> Stream: ...
    def to(self) -> Endpoint | None: ...


class _Way(NamedTuple):
    """The socket that copies leave by, told by what it is made of, and where they go."""

    local: LocalAddress
    port: int
    tos: int
    to: Endpoint

    @property
    def socket(self) -> tuple[LocalAddress, int, int]:
        return self.local, self.port, self.tos


@dataclass(slots=True, eq=False, kw_only=True)
class SentCopy(Sink):
    """The copies of one stream."""

    line: Line
    way: _Way | None = None
    """As the process was told last; None for nowhere."""
    opened: tuple[LocalAddress, int, int] | None = None
    """The socket that the process has."""
    packets: int = 0
    withheld: int = 0
    """As `messages.Sent` has them, and as the process told last."""

    @property
    def kept(self) -> int:
        """Packets that were sent or withheld."""
        return self.packets

    @property
    def sent(self) -> int:
        """Packets that were sent, as far as the process told."""
        return self.packets - self.withheld


@dataclass(slots=True, eq=False, kw_only=True)
class CopyGroup(Group):
    """The copies of some streams of one session."""

    copies: list[SentCopy] = field(default_factory=list)

    @property
    def sinks(self) -> Sequence[Sink]:
        """The copies."""
        return self.copies

    def result(self) -> tuple[str, bool]:
        """Tell in one line what became of them, and whether all is well."""
        return self.outcome(f"{sum(one.sent for one in self.copies)} packets sent")


class Copier:
    """All copies of one relay."""

    def __init__(self, carrier: Carrier, open_socket: Callable[[Stream], socket.socket]) -> None:
        """`carrier` brings packets to the process; `open_socket` opens one on a stream's port, or raises OSError."""
        self._carrier = carrier
        self._open_socket = open_socket
        carrier.listen(self._on_message)
        self._copies: dict[int, tuple[CopyGroup, SentCopy]] = {}
        """By number of each copy that has not ended."""
        self._sent = self._withheld = self._lost = 0

    def copy(
        self, title: str, lines: Sequence[Line], *, on_end: Callable[[float], None], absorb: Callable[[float], None]
    ) -> Side:
        """Copy what some streams receive, as one thing that is told of in the log under a title.

        `on_end` is called if that ends by itself; `absorb` brings the counts of the streams up to date. Raises
        RecordingError.
        """
        self._carrier.ensure()
        group = CopyGroup(owner=self, title=title)
        try:
            for line in lines:
                copy = SentCopy(number=self._carrier.next_sink(), line=line)
                group.copies.append(copy)
                self._copies[copy.number] = group, copy
                self._open(group, copy)
        except RecordingError:
            self._carrier.close_group(group)
            raise
        streams = [self._carrier.take_up(group, copy, copy.line.stream) for copy in group.copies]
        side = Side(self._carrier, group, streams, on_end, absorb)
        group.sides.append(side)
        return side

    def counts(self) -> Mapping[str, int]:
        """Count the copies that go on, and packets: sent, not to be sent for now, and known to be lost."""
        going_on = self._carrier.going_on(CopyGroup)
        opened = [one for group in going_on for one in group.copies if one.ended is None]
        streams = [stream for group in going_on for stream in group.streams if stream.sink.ended is None]
        return {
            "copies_open": len(opened),
            "copies_sent": self._sent + sum(one.sent for one in opened),
            "copies_withheld": self._withheld + sum(one.withheld for one in opened),
            "copies_lost": self._lost + sum(stream.lost for stream in streams),
            **self._carrier.losses(going_on),
        }

    # As owner of copies

    def look_again(self, stream: Taken, now: float) -> None:
        """Send copies to where they go by now, from where they leave by now, or nowhere."""
        found = self._copies.get(stream.sink.number)
        if found is None:
            return
        try:
            self._aim(found[1])
        except OSError as error:
            group, copy = found
            log.error("%s: nothing is sent to %s: %s", group.title, copy.line.to(), error.strerror)

    def open_again(self, number: int) -> None:
        """Go on with a copy that a dead process sent. Raises RecordingError."""
        group, copy = self._copies[number]
        copy.way = copy.opened = None
        self._open(group, copy)

    def closed(self, number: int) -> None:
        """Do nothing: the port is free once the process has closed the socket."""

    def ended(self, number: int) -> None:
        """Count a copy that ended."""
        _, copy = self._copies.pop(number)
        assert copy.ended is not None
        copy.packets, copy.withheld = copy.ended.packets, max(copy.withheld, copy.ended.withheld)
        self._sent += copy.sent
        self._withheld += copy.withheld
        self._lost += copy.lost

    def _on_message(self, message: ToRelay) -> None:
        if isinstance(message, Progress):
            for number, packets, withheld in message.sent:
                if number in self._copies:
                    _, copy = self._copies[number]
                    copy.packets, copy.withheld = packets, withheld

    def _open(self, group: CopyGroup, copy: SentCopy) -> None:
        streams = group.streams_of(copy)
        message = OpenCopy(
            copy.number,
            given=copy.given,
            packets=copy.packets,
            withheld=copy.withheld,
            teed=sum(stream.teed_so_far for stream in streams),
            tees=tuple(tee for stream in streams for tee in stream.tees),
        )
        self._carrier.open(group, copy, message)
        try:
            self._aim(copy)
        except OSError as error:
            raise RecordingError(
                f"cannot send copies from port {copy.line.out.local_port}: {error.strerror}"
            ) from error

    def _aim(self, copy: SentCopy) -> None:
        way = _find_way(copy.line)
        if way == copy.way:
            return
        copy.way, descriptors = None, []
        try:
            if way is not None and way.socket != copy.opened:
                descriptors = [self._open_socket(copy.line.out).detach()]
                copy.opened = way.socket
            copy.way = way
        finally:
            # Whatever happens, nothing more goes to where it went.
            to = None if copy.way is None else _to(copy.way.to)
            self._carrier.send(Aim(copy.number, to, bool(descriptors)), descriptors)


def _find_way(line: Line) -> _Way | None:
    """Find out how copies leave; None if they cannot: nothing may be sent there, or another family would be needed."""
    out, to = line.out, line.to()
    if to is None or not out.local_port or is_ipv6(to.host) != out.local.is_ipv6:
        return None
    if is_link_local(to.host) and "%" not in to.host:
        return None
    return _Way(out.local, out.local_port, out.tos, to)


def _to(endpoint: Endpoint) -> To:
    host, _, zone = endpoint.host.partition("%")
    return To(host, endpoint.port, int(zone or 0))
