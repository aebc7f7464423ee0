"""Witnesses of streams: recordings, copies and taps, which get what streams receive, by userspace or the kernel's tee.

Packets that have arrived are taken before something begins or ends: so those that arrived before the reply to the
command do not belong to it at its start, and do at its end.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rtpproxy.addr import Endpoint
from rtpproxy.service.offloading import Offloading
from rtpproxy.session.session import Session, Stream, Witness


class WitnessOf(Witness, Protocol):
    """Gets what one stream receives."""

    @property
    def stream(self) -> Stream: ...


class Watch(Protocol):
    """Witnesses of streams of one session, until they are stopped: a recording, copies or a tap, of a side or both."""

    @property
    def streams(self) -> Sequence[WitnessOf]: ...
    def begin(self) -> None:
        """Take note that packets come from now on; the counts of the streams are up to date."""

    def stop(self, now: float) -> None: ...


class Line(Protocol):
    """From where to where packets are copied."""

    @property
    def stream(self) -> Stream:
        """What it receives is copied."""

    @property
    def out(self) -> Stream:
        """Copies leave from its port."""

    def to(self) -> Endpoint | None:
        """Judge where copies go now; None for nowhere."""


class Copier(Protocol):
    """Copies packets: `recording.copier.Copier` or, without kernel tier, `copies.UserspaceCopier`."""

    def copy(
        self, title: str, lines: Sequence[Line], *, on_end: Callable[[float], None], absorb: Callable[[float], None]
    ) -> Watch: ...
    def counts(self) -> Mapping[str, int]: ...


class Tees(Protocol):
    """Numbers what the kernel tees: `recording.carrier.Carrier`."""

    def tee(self, witnesses: Sequence[Witness]) -> int:
        """Choose a number for packets of one stream that are for these; 0 if userspace has to give it to them."""


class Arrived(Protocol):
    """Holds packets that have arrived: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""

    def take_waiting(self) -> None: ...


class Witnesses:
    """The witnesses of all streams of one relay."""

    def __init__(self, tees: Tees, offloading: Offloading, arrived: Arrived) -> None:
        self._tees = tees
        self._offloading = offloading
        self._arrived = arrived

    def absorb(self, session: Session, streams: Sequence[Stream]) -> Callable[[float], None]:
        """Return what brings the counts of streams up to date."""

        def absorb(at: float) -> None:
            for stream in streams:
                self._offloading.absorb(session, stream, at)

        return absorb

    def begin(self, session: Session, watch: Watch, now: float) -> None:
        """Give to these witnesses what the session's streams receive from now on."""
        # What arrived while it was made does not belong to it, so it must not be counted as if it did.
        self.take_in(session, [one.stream for one in watch.streams], now)
        watch.begin()
        for one in watch.streams:
            self._set(one.stream, (*one.stream.witnesses, one))
        self._offloading.replan(session, now)

    def end(self, session: Session, watch: Watch, now: float, *, is_ending: bool = False) -> None:
        """Stop these witnesses; with the session itself, if that is ending."""
        self.take_in(session, [one.stream for one in watch.streams], now)
        for one in watch.streams:
            self._set(one.stream, tuple(witness for witness in one.stream.witnesses if witness is not one))
        if not is_ending:
            self._offloading.replan(session, now)
        watch.stop(now)

    def replan(self, session: Session, now: float) -> None:
        """Take note that other packets are hidden than before."""
        self._offloading.replan(session, now)

    def hide(self, stream: Stream, payload_type: int | None) -> None:
        """Hide packets of a payload type from the peer, or none; `replan` makes it so."""
        self._offloading.teeing(stream).hidden_type = payload_type

    def take_in(self, session: Session, streams: Sequence[Stream], now: float) -> None:
        """Take the packets that have arrived, and bring the counts of streams up to date."""
        self._arrived.take_waiting()
        for stream in streams:
            self._offloading.absorb(session, stream, now)

    def _set(self, stream: Stream, witnesses: tuple[Witness, ...]) -> None:
        stream.witnesses = witnesses
        teeing = self._offloading.teeing(stream)
        teeing.number = self._tees.tee(witnesses)
        teeing.payload_type = wanted_type(witnesses)


def wanted_type(witnesses: Sequence[Witness]) -> int | None:
    """Find the one payload type that all these witnesses want; None if they want others, too."""
    types = {witness.payload_type for witness in witnesses}
    return types.pop() if len(types) == 1 else None
