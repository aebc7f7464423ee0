"""Taps of streams: what modules have looked at of the packets that sessions receive, wherever these are relayed.

A module says what it wants of each new session, or taps one session when a command asks for that.
"""

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rtpproxy.errors import RecordingError, SessionNotFoundError
from rtpproxy.seldom import is_worth_a_line
from rtpproxy.service.witnesses import Watch, Witnesses
from rtpproxy.session.session import Session, Stream
from rtpproxy.session.table import SessionTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """What is to be looked at, for what, and who hears what is found."""

    purpose: Hashable
    """Tells it from the other taps of its session."""
    kind: str
    """What looks at the packets, in a process of its own (`recording.handlers`)."""
    streams: Sequence[Stream]
    """Of one session."""
    on_found: Callable[[bytes], None]
    """Gets what that found, in its own words, up to a second after the session ended."""
    settings: bytes = b""
    """For what looks at the packets."""
    payload_type: int | None = None
    """Only RTP packets of this payload type are meant; None for all packets."""
    is_hiding: bool = False
    """These packets are not relayed. Needs a payload type; a stream hides one at most."""

    def is_for_same(self, other: "Tap") -> bool:
        """Tell if the same packets are looked at in the same way."""
        return (
            (self.kind, self.settings, self.payload_type) == (other.kind, other.settings, other.payload_type)
            and len(self.streams) == len(other.streams)
            and all(one is another for one, another in zip(self.streams, other.streams, strict=True))
        )


class Tapper(Protocol):
    """Has packets looked at: `recording.tapper.Tapper`."""

    def tap(
        self,
        title: str,
        tap: Tap,
        *,
        on_found: Callable[[bytes], None],
        on_end: Callable[[float], None],
        absorb: Callable[[float], None],
    ) -> Watch: ...
    def counts(self) -> Mapping[str, int]: ...


@dataclass(slots=True)
class _Running:
    tap: Tap
    watch: Watch


class Taps:
    """The taps of all sessions of one relay."""

    def __init__(self, tapper: Tapper, table: SessionTable, witnesses: Witnesses) -> None:
        self._tapper = tapper
        self._table = table
        self._witnesses = witnesses
        self._wanting: list[Callable[[Session], Iterable[Tap]]] = []
        self._running: dict[Session, dict[Hashable, _Running]] = {}
        """By session, and by purpose."""
        self._failures = 0

    def of_new_sessions(self, wanted: Callable[[Session], Iterable[Tap]]) -> None:
        """Ask for the taps of every session that is made from now on. To be called before the first request."""
        self._wanting.append(wanted)

    def created(self, session: Session, now: float) -> None:
        """Tap a new session as it is wanted; what fails is logged."""
        for wanted in self._wanting:
            for tap in wanted(session):
                try:
                    self.put(session, tap, now)
                except RecordingError as error:
                    self._failures += 1
                    if is_worth_a_line(self._failures):
                        log.error("%s: no %s tap (%d so far): %s", session.label, tap.kind, self._failures, error)

    def put(self, session: Session, tap: Tap, now: float) -> None:
        """Tap streams of a session, in place of the tap of that purpose that it may have.

        One that looks at the same packets goes on. Packets that have arrived before are not looked at, nor hidden.
        Raises SessionNotFoundError, RecordingError.
        """
        if session not in self._table:
            raise SessionNotFoundError("the session has ended")
        running = self._find(session, tap.purpose)
        if running is not None and running.tap.is_for_same(tap):
            self._hide(session, running.tap, tap, now)
            running.tap = tap
            return
        watch = self._start(session, tap)
        if running is not None:
            self.remove(session, tap.purpose, now)
        self._running.setdefault(session, {})[tap.purpose] = _Running(tap, watch)
        if tap.is_hiding:
            self._witnesses.take_in(session, tap.streams, now)
            self._set_hidden(tap, tap.payload_type)
        self._witnesses.begin(session, watch, now)

    def remove(self, session: Session, purpose: Hashable, now: float, *, is_ending: bool = False) -> None:
        """End a tap, if the session has it; with the session itself, if that is ending."""
        running = self._find(session, purpose)
        if running is None:
            return
        del self._running[session][purpose]
        if not self._running[session]:
            del self._running[session]
        if running.tap.is_hiding:
            # What has arrived is still hidden.
            self._witnesses.take_in(session, running.tap.streams, now)
            self._set_hidden(running.tap, None)
        self._witnesses.end(session, running.watch, now, is_ending=is_ending)

    def end(self, session: Session, now: float) -> None:
        """End all taps of a session that ends."""
        for purpose in tuple(self._running.get(session, ())):
            self.remove(session, purpose, now, is_ending=True)

    def counts(self) -> Mapping[str, int]:
        """Count taps and their packets, by name; empty where there are none."""
        return self._tapper.counts()

    def _find(self, session: Session, purpose: Hashable) -> _Running | None:
        return self._running.get(session, {}).get(purpose)

    def _start(self, session: Session, tap: Tap) -> Watch:
        def on_end(at: float) -> None:
            self.remove(session, tap.purpose, at)

        def on_found(found: bytes) -> None:
            # A tap that goes on may have changed hands.
            running = self._find(session, tap.purpose)
            (tap if running is None else running.tap).on_found(found)

        return self._tapper.tap(
            f"{session.label}: {tap.kind} tap",
            tap,
            on_found=on_found,
            on_end=on_end,
            absorb=self._witnesses.absorb(session, tap.streams),
        )

    def _hide(self, session: Session, before: Tap, after: Tap, now: float) -> None:
        """Hide packets from now on, or not any more."""
        if before.is_hiding == after.is_hiding:
            return
        self._witnesses.take_in(session, after.streams, now)
        self._set_hidden(after, after.payload_type if after.is_hiding else None)
        self._witnesses.replan(session, now)

    def _set_hidden(self, tap: Tap, payload_type: int | None) -> None:
        for stream in tap.streams:
            self._witnesses.hide(stream, payload_type)
