"""What the relay knows of packets that it brought to the process: by stream, by sink, by group. Without I/O."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rtpproxy.recording.messages import Ended
from rtpproxy.session.session import Leg, Role, Stream

MOST_TEES = 64
"""Numbers of a tee that are remembered of a stream: packets of older ones were read from the ring long ago."""


@dataclass(slots=True, eq=False, kw_only=True)
class Sink:
    """What packets go into (a file, a copy, a tap), from its making until the process says that it ended."""

    number: int
    given: int = 0
    """Packets that belong into it so far, but for those in the ring."""
    ended: Ended | None = None

    @property
    def kept(self) -> int:
        """Packets that are certain to be there, even if the process tells nothing more."""
        return 0

    @property
    def lost(self) -> int:
        """Packets that belong into it and did not get there; known once it ended."""
        return 0 if self.ended is None else max(0, self.given + self.ended.teed - self.ended.packets)


class Owner(Protocol):
    """Makes sinks, and knows what they are: `recorder.Recorder`, `copier.Copier` or `tapper.Tapper`.

    Sinks come as numbers.
    """

    def look_again(self, stream: "Taken", now: float) -> None:
        """Take note that the addresses of a stream's session may have changed."""

    def open_again(self, number: int) -> None:
        """Hand a sink that another process began to a new one. Raises RecordingError if that is impossible."""

    def closed(self, number: int) -> None:
        """Hear that nothing that arrives from now on goes into a sink."""

    def ended(self, number: int) -> None:
        """Hear that everything is known of a sink."""


@dataclass(slots=True, eq=False, kw_only=True)
class Group:
    """Sinks that begin and end together, and are told of in one line."""

    owner: Owner
    title: str
    """What it is, in words."""
    streams: list["Taken"] = field(default_factory=list)
    """Those that go into the sinks, now or before."""
    sides: list["Side"] = field(default_factory=list)
    closed_at_ns: int | None = None
    """When it was stopped; None while it goes on."""

    @property
    def sinks(self) -> Sequence[Sink]:
        """Files, copies or taps."""
        raise NotImplementedError

    @property
    def has_ended(self) -> bool:
        """True once everything is known of all sinks."""
        return all(sink.ended is not None for sink in self.sinks)

    def find(self, number: int) -> Sink:
        """Find a sink by its number."""
        return next(sink for sink in self.sinks if sink.number == number)

    def streams_of(self, sink: Sink) -> list["Taken"]:
        """List the streams that go into a sink, now or before."""
        return [stream for stream in self.streams if stream.sink is sink]

    def result(self) -> tuple[str, bool]:
        """Tell in one line what became of it, and whether all is well."""
        raise NotImplementedError

    def outcome(self, done: str, left: str = "") -> tuple[str, bool]:
        """Tell the same, of what all groups have.

        `done` says how much is where; `left` what is left there, if something went wrong.
        """
        lost = sum(sink.lost for sink in self.sinks)
        whys = sorted({sink.ended.why for sink in self.sinks if sink.ended is not None and sink.ended.why})
        text = done
        if lost:
            by_port = [f"{one.lost} of the stream at port {one.port}" for one in self.streams if one.lost]
            text += f", {lost} lost{', among them ' * bool(by_port)}{', '.join(by_port)}"
        if whys:
            text += f"; failed: {', '.join(whys)}{left}"
        return text, not lost and not whys


class Taker(Protocol):
    """Takes the packets of streams that come to userspace: `carrier.Carrier`."""

    def take(self, stream: "Taken", data: bytes, source: tuple[str, int], local_host: str, now: float) -> None: ...
    def stop(self, side: "Side", now: float) -> None: ...


@dataclass(slots=True, eq=False)
class Taken:
    """A stream on its way to one sink. Gets what the stream receives."""

    taker: Taker
    owner: Owner
    number: int
    """Tells its packets from those of all other streams."""
    sink: Sink
    stream: Stream
    shown_at: Leg | None = None
    """The other leg, if the packets, which are RTCP, are shown as leaving there (protocol.md 8.5)."""
    shown: tuple[str, int, str, int] | None = None
    """Where they are shown to leave from, and for whom, as the process was told last."""
    payload_type: int | None = None
    """It takes only RTP packets of this payload type; None for all packets."""
    port: int = 0
    """Ours, that its packets arrived at when it began."""
    teed_before: int = 0
    """Packets that had been teed when it began."""
    missed_before: int = 0
    """Packets that had not been teed by then."""
    given: int = 0
    """Packets that came to userspace."""
    refused: int = 0
    """Packets that there was no room for on the way, or no process to take them; once it is stopped, or in the ring."""
    latest_ns: int = 0
    """When the latest of these arrived (CLOCK_MONOTONIC): those that come after it are not shown as earlier."""
    missing: int = 0
    """Packets that there was no room for, since the process was told last."""
    teed: int | None = None
    """Packets that the kernel wrote to the ring, of all payload types if others want them; None while it goes on."""
    tees: deque[int] = field(default_factory=lambda: deque(maxlen=MOST_TEES))
    """Numbers under which the kernel writes, or wrote, its packets to the ring."""

    @property
    def missed(self) -> int:
        """Packets that the kernel could not write to the ring, up to when they were last absorbed."""
        return self.stream.tee_missed_packets - self.missed_before

    @property
    def lost(self) -> int:
        """Packets that did not get to the process, as far as is known. What that loses is told of the sink."""
        return self.refused + (self.missed if self.teed is None else 0)

    @property
    def teed_so_far(self) -> int:
        """Packets that the kernel wrote to the ring, up to when they were last absorbed."""
        if self.teed is not None or not self.tees:
            return self.teed or 0
        return max(0, self.stream.teed_packets - self.teed_before)

    def begin(self) -> None:
        """Count from now on: what the stream received before is not taken."""
        self.port = self.stream.local_port
        self.teed_before, self.missed_before = self.stream.teed_packets, self.stream.tee_missed_packets

    def packet(self, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Take a packet that the stream accepted."""
        self.taker.take(self, data, source, local_host, now)

    def look_again(self, now: float) -> None:
        """Take note that addresses may have changed."""
        self.owner.look_again(self, now)


@dataclass(slots=True, eq=False)
class Side:
    """Streams that are taken up and stopped together, as the service holds them: those of one leg, or of a session."""

    taker: Taker
    group: Group
    streams: Sequence[Taken]
    on_end: Callable[[float], None]
    """Called if the group ends by itself."""
    absorb: Callable[[float], None]
    """Brings the streams' counts up to date."""
    role: Role | None = None
    """The leg, of a recording."""

    def begin(self) -> None:
        """Take note that the streams' packets come from now on; their counts are up to date."""
        for stream in self.streams:
            stream.begin()

    def stop(self, now: float) -> None:
        """End it: nothing that arrives from now on is taken."""
        self.taker.stop(self, now)
