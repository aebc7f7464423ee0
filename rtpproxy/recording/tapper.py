"""Taps streams: has the process look at what they receive, and hears what it finds there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rtpproxy.recording.carrier import Carrier
from rtpproxy.recording.collected import CollectedCounts
from rtpproxy.recording.messages import Collected, Noticed, OpenTap, Progress, ToRelay
from rtpproxy.recording.taken import Group, Side, Sink, Taken
from rtpproxy.session.session import Stream


class Tap(Protocol):
    """What is to be looked at, and for what: `service.taps.Tap`."""

    @property
    def kind(self) -> str: ...
    @property
    def settings(self) -> bytes: ...
    @property
    def streams(self) -> Sequence[Stream]: ...
    @property
    def payload_type(self) -> int | None: ...


@dataclass(slots=True, eq=False, kw_only=True)
class TapSink(Sink):
    """What looks at the packets of some streams."""

    tap: Tap
    on_found: Callable[[bytes], None]
    packets: int = 0
    """Packets that it is done with, as far as the process told."""

    @property
    def kept(self) -> int:
        """Packets that it is done with."""
        return self.packets


@dataclass(slots=True, eq=False, kw_only=True)
class TapGroup(Group):
    """One tap."""

    taps: list[TapSink] = field(default_factory=list)

    @property
    def sinks(self) -> Sequence[Sink]:
        """The tap."""
        return self.taps

    def result(self) -> tuple[str, bool]:
        """Tell in one line what became of it, and whether all is well."""
        return self.outcome(f"{sum(one.packets for one in self.taps)} packets watched")


class Tapper:
    """All taps of one relay."""

    def __init__(self, carrier: Carrier) -> None:
        """`carrier` brings packets to the process."""
        self._carrier = carrier
        carrier.listen(self._on_message)
        self._taps: dict[int, tuple[TapGroup, TapSink]] = {}
        """By number of each tap that has not ended."""
        self._packets = self._lost = 0
        self._collected = CollectedCounts()

    def tap(
        self,
        title: str,
        tap: Tap,
        *,
        on_found: Callable[[bytes], None],
        on_end: Callable[[float], None],
        absorb: Callable[[float], None],
    ) -> Side:
        """Have what some streams receive looked at, as one thing that is told of in the log under a title.

        `on_found` hears what is found, `on_end` if it ends by itself; `absorb` brings the counts of the streams up to
        date. Raises RecordingError.
        """
        self._carrier.ensure()
        group = TapGroup(owner=self, title=title)
        sink = TapSink(number=self._carrier.next_sink(), tap=tap, on_found=on_found)
        group.taps.append(sink)
        self._taps[sink.number] = group, sink
        self._open(group, sink)
        taken = [self._carrier.take_up(group, sink, stream) for stream in tap.streams]
        for one in taken:
            one.payload_type = tap.payload_type
        side = Side(self._carrier, group, taken, on_end, absorb)
        group.sides.append(side)
        return side

    def counts(self) -> Mapping[str, int]:
        """Count the taps that go on, and packets: looked at, and known to be lost; empty before the first one."""
        if not self._taps and not self._packets + self._lost:
            return {}
        going_on = self._carrier.going_on(TapGroup)
        opened = [one for group in going_on for one in group.taps if one.ended is None]
        streams = [stream for group in going_on for stream in group.streams if stream.sink.ended is None]
        return {
            "taps_open": len(opened),
            "taps_packets": self._packets + sum(one.packets for one in opened),
            "taps_lost": self._lost + sum(stream.lost for stream in streams),
            **self._carrier.losses(going_on),
            **self._collected.counts(),
        }

    def log_end(self) -> None:
        """Tell what became of all reports, when the process has ended."""
        self._collected.log_end()

    # As owner of taps

    def look_again(self, stream: Taken, now: float) -> None:
        """Do nothing: it does not matter where packets go."""

    def open_again(self, number: int) -> None:
        """Go on with a tap of a dead process, which begins anew with what it looks for."""
        self._open(*self._taps[number])

    def closed(self, number: int) -> None:
        """Do nothing: what it finds until it ends is told."""

    def ended(self, number: int) -> None:
        """Count a tap that ended."""
        _, sink = self._taps.pop(number)
        assert sink.ended is not None
        sink.packets = sink.ended.packets
        self._packets += sink.packets
        self._lost += sink.lost

    def _on_message(self, message: ToRelay) -> None:
        if isinstance(message, Noticed):
            found = self._taps.get(message.output)
            if found is not None:
                found[1].on_found(message.found)
        elif isinstance(message, Collected):
            self._collected.take(message)
        elif isinstance(message, Progress):
            for number, packets, _ in message.sent:
                if number in self._taps:
                    self._taps[number][1].packets = packets

    def _open(self, group: TapGroup, sink: TapSink) -> None:
        streams = group.streams_of(sink)
        message = OpenTap(
            *(sink.number, sink.tap.kind, sink.tap.settings, sink.tap.payload_type),
            given=sink.given,
            packets=sink.packets,
            teed=sum(stream.teed_so_far for stream in streams),
            tees=tuple(tee for stream in streams for tee in stream.tees),
        )
        self._carrier.open(group, sink, message)
