"""A recording as the relay sees it: its files, the streams in them, and how they ended. Without I/O."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rtpproxy.config import RecordFormat
from rtpproxy.recording.directories import Identity
from rtpproxy.recording.messages import Ended
from rtpproxy.session.session import Leg, Role, Session, Stream


@dataclass(slots=True, eq=False)
class File:
    """One file, from its making until the process that writes it says that it ended."""

    number: int
    name: bytes
    """In the directory of recordings."""
    spool_name: bytes
    """In the spool while it is written; empty without a spool."""
    identity: Identity
    format: RecordFormat
    given: int = 0
    """Packets that belong into it so far, but for those in the ring."""
    refused: int = 0
    """Of these, packets that there was no room for on the way or in the ring, or no process to write them."""
    ended: Ended | None = None

    @property
    def lost(self) -> int:
        """Packets that belong into it and are not there; known once it ended."""
        return 0 if self.ended is None else max(0, self.given + self.ended.teed - self.ended.packets)


@dataclass(slots=True, eq=False)
class Recording:
    """One or two files that begin and end together, and are told of in one line."""

    title: str
    """Whose recording it is, in words."""
    session: Session | None = None
    """The session that it is the whole of; None if it is of one side."""
    files: list[File] = field(default_factory=list)
    streams: list["RecordedStream"] = field(default_factory=list)
    """Those in the files, now or before."""
    sides: list["Side"] = field(default_factory=list)
    closed_at_ns: int | None = None
    """When it was stopped; None while it goes on."""

    @property
    def has_ended(self) -> bool:
        """True once everything is known of all files."""
        return all(file.ended is not None for file in self.files)

    def outcome(self) -> tuple[str, bool]:
        """Tell in one line what became of it, and whether all is well."""
        endings = [file.ended for file in self.files if file.ended is not None]
        packets, lost = sum(ended.packets for ended in endings), sum(file.lost for file in self.files)
        whys = sorted({ended.why for ended in endings if ended.why})
        where = ", ".join(repr(file.name)[2:-1] for file in self.files)
        text = f"{packets} packets in {where}"
        if lost:
            text += f", {lost} lost"
        if whys:
            left = [file for file in self.files if file.ended is not None and not file.ended.is_in_place]
            text += f"; failed: {', '.join(whys)}"
            if left:
                text += f"; left in the spool: {', '.join(repr(file.spool_name)[2:-1] for file in left)}"
        return text, not lost and not whys


class Taker(Protocol):
    """Takes the packets of recorded streams that come to userspace: `recorder.Recorder`."""

    def take(
        self, stream: "RecordedStream", data: bytes, source: tuple[str, int], local_host: str, now: float
    ) -> None: ...
    def look_again(self, stream: "RecordedStream", now: float) -> None: ...
    def stop(self, side: "Side", now: float) -> None: ...


@dataclass(slots=True, eq=False)
class RecordedStream:
    """A stream that is recorded. Gets what the stream receives."""

    taker: Taker
    number: int
    """Tells its packets from those of all other streams."""
    file: File
    stream: Stream
    tee: int
    """The same number if the kernel may write its packets to the ring, else 0."""
    shown_at: Leg | None = None
    """The other leg, if the packets, which are RTCP, are shown as leaving there (protocol.md 8.5)."""
    shown: tuple[str, int, str, int] | None = None
    """Where they are shown to leave from, and for whom, as the process that writes was told last."""
    received_before: int = 0
    """Packets that the stream had received when it was recorded from then on."""
    missed_before: int = 0
    """Packets that had not been teed by then."""
    given: int = 0
    """Packets that came to userspace."""
    latest_ns: int = 0
    """When the latest of these arrived (CLOCK_MONOTONIC): those that come after it are not shown as earlier."""
    missing: int = 0
    """Packets that there was no room for, since that process was told last."""
    teed: int | None = None
    """Packets that the kernel wrote to the ring; None while it goes on."""

    @property
    def missed(self) -> int:
        """Packets that the kernel could not write to the ring, up to when they were last absorbed."""
        return self.stream.tee_missed_packets - self.missed_before

    @property
    def teed_so_far(self) -> int:
        """Packets that the kernel wrote to the ring, up to when they were last absorbed."""
        if self.teed is not None or not self.tee:
            return self.teed or 0
        return max(0, self.stream.received_packets - self.received_before - self.given - self.missed)

    def begin(self) -> None:
        """Count from now on: what the stream received before is not recorded."""
        self.received_before, self.missed_before = self.stream.received_packets, self.stream.tee_missed_packets

    def packet(self, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Record a packet that the stream accepted."""
        self.taker.take(self, data, source, local_host, now)

    def look_again(self, now: float) -> None:
        """Take note that addresses may have changed."""
        self.taker.look_again(self, now)


@dataclass(slots=True, eq=False)
class Side:
    """One leg's part in a recording, as the service holds it."""

    taker: Taker
    recording: Recording
    role: Role
    streams: Sequence[RecordedStream]
    """RTP and, unless it is left out, RTCP."""
    on_end: Callable[[float], None]
    """Called if the recording ends by itself."""
    absorb: Callable[[float], None]
    """Brings the streams' counts up to date."""

    def begin(self) -> None:
        """Take note that the streams' packets come from now on; their counts are up to date."""
        for stream in self.streams:
            stream.begin()

    def stop(self, now: float) -> None:
        """End it: nothing that arrives from now on is recorded."""
        self.taker.stop(self, now)
