"""The way of packets to the process that writes, sends and watches: by messages, and by the kernel's ring.

Whoever wants packets there (`recorder`, `copier`, `tapper`) makes a group of sinks and streams that go into them. All
else is the same for them: packets that userspace relays, numbers for those that the kernel tees, counts, the end, and
what happens when the process dies.
"""

import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rtpproxy.addr import is_ipv6
from rtpproxy.errors import OffloadError, RecordingError
from rtpproxy.recording import messages
from rtpproxy.recording.arrivals import when_read
from rtpproxy.recording.directories import Directories
from rtpproxy.recording.messages import Ended, ToReader, ToRelay, encode_packet
from rtpproxy.recording.packet import Packet, Place
from rtpproxy.recording.supervisor import OpenRing, Supervisor
from rtpproxy.recording.taken import Group, Side, Sink, Taken
from rtpproxy.session.session import Leg, Stream, Witness

log = logging.getLogger(__name__)

_Group = TypeVar("_Group", bound=Group)

CLOSE_S = 5.0
"""Time that a relay which ends waits for its recordings to be written."""
MOST_LOSSES = 20
"""Streams that are named for what they lost."""
_NS_PER_S = 1_000_000_000
_MAX_REMEMBERED = 10_000
_ANY = {False: "0.0.0.0", True: "::"}


class Carrier:
    """Brings packets of all groups of one relay to the process."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        directories: Directories | None,
        clock: Callable[[], float],
        open_ring: Callable[[], OpenRing] | None = None,
        arrived_ns: Callable[[float], int] = when_read,
    ) -> None:
        """`clock` is that of packets: monotonic, in seconds. Without directories there are no recordings.

        `open_ring` makes the ring, or raises OffloadError. Without it every packet has to come to userspace.
        `arrived_ns` tells when a packet arrived that is just being handed on, and was read at a time.
        """
        self._clock = clock
        self._arrived_ns = arrived_ns
        self._open_ring = open_ring
        self._ring: OpenRing | None = None
        self._supervisor = Supervisor(loop, directories, self._on_message, lambda: len(self._groups), self._resume)
        self._groups: dict[int, Group] = {}
        """By number of each sink that has not ended."""
        self._tees: dict[int, list[Taken]] = {}
        """By number in the ring: the streams, until their sinks have ended."""
        self._listeners: list[Callable[[ToRelay], None]] = []
        self._last_sink = self._last_stream = self._last_tee = self._latest_ns = 0
        self._hosts: dict[str, bytes] = {}

    def ensure(self) -> None:
        """Start the process, and make the ring, unless they are there. Raises RecordingError.

        What cannot be teed, for want of a ring, comes to userspace.
        """
        self._supervisor.ensure()
        if self._ring is not None or self._open_ring is None:
            return
        try:
            ring = self._open_ring()
            self._supervisor.read_ring(ring)
        except (OffloadError, OSError) as error:
            log.warning("userspace relays streams that are recorded, copied or watched: %s", error)
        else:
            self._ring = ring

    def listen(self, listener: Callable[[ToRelay], None]) -> None:
        """Hand on what the process says, but for the ends of sinks."""
        self._listeners.append(listener)

    def tell_directories(self) -> None:
        """Tell which directories are used from now on. Raises OSError."""
        self._supervisor.tell_directories()

    def going_on(self, kind: type[_Group]) -> set[_Group]:
        """Return the groups of a kind that have not ended, with their counts up to date."""
        groups = {group for group in self._groups.values() if isinstance(group, kind)}
        for group in groups:
            for side in group.sides:
                side.absorb(self._clock())
        return groups

    def losses(self, groups: Iterable[Group]) -> Mapping[str, int]:
        """Name streams of groups that go on and have lost packets, those with most, and count these.

        A name has no ": ", which is before each number in the reply to `It`.
        """
        lossy = [
            (one.lost, one.port, group.title.replace(": ", ", "))
            for group in groups
            for one in group.streams
            if one.lost
        ]
        return {
            f"packets_lost of the stream at port {port} ({title})": lost
            for lost, port, title in sorted(lossy, reverse=True)[:MOST_LOSSES]
        }

    # Groups

    def next_sink(self) -> int:
        """Return a number for a new sink."""
        self._last_sink += 1
        return self._last_sink

    def open(self, group: Group, sink: Sink, message: ToReader, descriptors: Sequence[int] = ()) -> None:
        """Hand a sink to the process. The descriptors are closed here in any case."""
        self._groups[sink.number] = group
        self._supervisor.send(message, descriptors)

    def send(self, message: ToReader, descriptors: Sequence[int] = ()) -> None:
        """Send a message about a sink, if the process is running. The descriptors are closed here in any case."""
        self._supervisor.send(message, descriptors)

    def take_up(self, group: Group, sink: Sink, stream: Stream, shown_at: Leg | None = None) -> Taken:
        """Let a stream's packets go into a sink of a group. It begins with `Taken.begin`.

        With `shown_at` they are shown as leaving from that leg, for its party, once that is known (protocol.md 8.5).
        """
        self._last_stream += 1
        taken = Taken(self, group.owner, self._last_stream, sink, stream, shown_at)
        group.streams.append(taken)
        self._join(taken)
        self.show(taken, 0.0)
        return taken

    def show(self, stream: Taken, now: float) -> None:
        """Take note that the addresses may have changed that packets are shown with."""
        if stream.shown_at is not None:
            self._show(stream, stream.shown_at, int(now * _NS_PER_S))

    def tee(self, witnesses: Sequence[Witness]) -> int:
        """Choose the number under which the kernel tees the packets of one stream from now on, for all of these.

        It is a new one each time: what the ring has under a number is for the same witnesses, whenever it is read.
        0 where packets have to come to userspace, or need not be teed.
        """
        taken = [witness for witness in witnesses if isinstance(witness, Taken)]
        if self._ring is None or not taken or len(taken) < len(witnesses):
            return 0
        self._last_tee += 1
        number = self._last_tee
        for stream in taken:
            if len(stream.tees) == stream.tees.maxlen:
                self._tees.pop(stream.tees[0], None)
            stream.tees.append(number)
        self._tees[number] = taken
        self._tell_tee(number)
        return number

    def take(self, stream: Taken, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Take a packet that userspace relays."""
        stream.sink.given += 1
        stream.given += 1
        process = self._supervisor.process
        if process is None:
            stream.refused += 1
            return
        if not process.has_room:
            stream.refused += 1
            stream.missing += 1
            return
        arrived_ns = stream.latest_ns = max(stream.latest_ns, self._arrived_ns(now))
        self._latest_ns = max(self._latest_ns, arrived_ns)
        if stream.shown_at is not None:
            self._show(stream, stream.shown_at, arrived_ns)
        if stream.missing:
            process.send(messages.Lost(stream.number, arrived_ns, stream.missing))
            stream.missing = 0
        host, port = source
        to = self._place(local_host or _ANY[is_ipv6(host)], stream.stream.local_port)
        process.add_packet(encode_packet(stream.number, Packet(arrived_ns, self._place(host, port), to, data)))

    def stop(self, side: Side, now: float) -> None:
        """End one side of a group, and with the last side the group."""
        # Packets may have been taken after the command was: they arrived before its reply.
        group, at_ns = side.group, max(int(now * _NS_PER_S), self._latest_ns)
        if side not in group.sides:
            return
        if any(stream.tees for stream in side.streams):
            at_ns = max(at_ns, int(self._clock() * _NS_PER_S))
        group.sides.remove(side)
        side.absorb(now)
        for stream in side.streams:
            stream.teed = stream.teed_so_far
            stream.refused += stream.missed
            stream.missing += stream.missed
            stream.sink.given += stream.missed
            if stream.missing:
                self._supervisor.send(messages.Lost(stream.number, at_ns, stream.missing))
                stream.missing = 0
            self._supervisor.send(messages.Leave(stream.number, at_ns))
        if not group.sides:
            self.close_group(group, at_ns)

    def close_group(self, group: Group, at_ns: int = 0) -> None:
        """End all sinks of a group: what arrived until then goes into them."""
        group.closed_at_ns = at_ns
        for sink in group.sinks:
            group.owner.closed(sink.number)
            self._supervisor.send(messages.Close(sink.number, at_ns))

    def close(self, now: float) -> None:
        """End all groups, and the process."""
        for group in set(self._groups.values()):
            for side in tuple(group.sides):
                self.stop(side, now)
        self._supervisor.close(CLOSE_S)

    # Telling the process

    def _join(self, stream: Taken) -> None:
        self._supervisor.send(messages.Join(stream.number, stream.sink.number, 0))

    def _tell_tee(self, number: int) -> None:
        self._supervisor.send(messages.Teed(number, tuple(stream.number for stream in self._tees[number])))

    def _show(self, stream: Taken, leg: Leg, at_ns: int) -> None:
        """Show packets as if they left for the other party, once it is known where that is."""
        to = leg.rtcp.latch.remote
        if to is None or not leg.has_ports:
            return
        host = leg.rtcp.local_host or leg.rtp.local_host or _ANY[is_ipv6(to.host)]
        shown = (host, leg.rtcp.local_port, *to)
        if shown != stream.shown:
            stream.shown = shown
            outgoing = self._place(*shown[:2]), self._place(*shown[2:])
            self._supervisor.send(messages.Join(stream.number, stream.sink.number, at_ns, outgoing))

    def _place(self, host: str, port: int) -> Place:
        packed = self._hosts.get(host)
        if packed is None:
            if len(self._hosts) >= _MAX_REMEMBERED:
                self._hosts.clear()
            family = socket.AF_INET6 if is_ipv6(host) else socket.AF_INET
            packed = self._hosts[host] = socket.inet_pton(family, host.partition("%")[0])
        return Place(packed, port)

    # Hearing from the process

    def _on_message(self, message: ToRelay) -> None:
        if isinstance(message, Ended):
            self._on_ended(message)
        else:
            for listener in self._listeners:
                listener(message)

    def _on_ended(self, ended: Ended) -> None:
        group = self._groups.pop(ended.output, None)
        if group is None:
            return
        sink = group.find(ended.output)
        sink.ended = ended
        self._forget_tees(group.streams_of(sink))
        group.owner.ended(sink.number)
        if group.closed_at_ns is None:
            # It ended by itself: the sides stop what goes on, and with the last of them the other sinks are closed.
            for side in tuple(group.sides):
                side.on_end(self._clock())
        if group.has_ended:
            text, is_well = group.result()
            log.log(logging.INFO if is_well else logging.ERROR, "%s: %s", group.title, text)

    def _forget_tees(self, ended: Sequence[Taken]) -> None:
        for stream in ended:
            for tee in stream.tees:
                if left := [one for one in self._tees.pop(tee, ()) if one is not stream]:
                    self._tees[tee] = left

    # When it died

    def _resume(self) -> None:
        """Hand everything that goes on to a process that was started anew."""
        for number, group in tuple(self._groups.items()):
            self._continue(number, group)
        for tee in self._tees:
            self._tell_tee(tee)

    def _continue(self, number: int, group: Group) -> None:
        """Go on with a sink that a dead process began."""
        sink = group.find(number)
        for side in group.sides:
            side.absorb(self._clock())
        try:
            group.owner.open_again(number)
        except RecordingError as error:
            self._on_ended(Ended(number, sink.kept, False, str(error)))
            return
        for stream in group.streams_of(sink):
            stream.missing, stream.shown = 0, None
            self._join(stream)
        if group.closed_at_ns is not None:
            self._supervisor.send(messages.Close(number, group.closed_at_ns))
