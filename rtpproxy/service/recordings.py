"""Recordings and copies of what parties send (protocol.md 2.5: `R`, `C`, `N`, and 8).

A *side* is one leg of a session, with what it receives. There is one recording or copy of a side, or none.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rtpproxy.errors import RecordingError, SessionNotFoundError
from rtpproxy.service.answers import PortLine
from rtpproxy.service.copies import Copies, Copy
from rtpproxy.service.offloading import Offloading
from rtpproxy.service.requests import CopyTo, Record, RecordAs, StopRecording
from rtpproxy.session.session import Issuer, Role, Session, Stream, Witness
from rtpproxy.session.table import SessionTable

log = logging.getLogger(__name__)

Key = tuple[Session, Role]


class WitnessOf(Witness, Protocol):
    """Gets what one stream receives."""

    @property
    def stream(self) -> Stream: ...


class Recorded(Protocol):
    """Records one side, until it is stopped: `recording.recording.Side` or `copies.Copy`."""

    @property
    def streams(self) -> Sequence[WitnessOf]: ...
    def stop(self, now: float) -> None: ...


class RecordedInFiles(Recorded, Protocol):
    """Records one side in files: `recording.recording.Side`."""

    def begin(self) -> None: ...


class Recorder(Protocol):
    """Makes recordings in files: `recording.recorder.Recorder`, or `recording.off.NoRecorder`."""

    @property
    def has_single_files(self) -> bool: ...
    def record(
        self,
        session: Session,
        role: Role,
        name: bytes | None,
        *,
        is_single: bool,
        on_end: Callable[[float], None],
        absorb: Callable[[float], None],
    ) -> RecordedInFiles: ...
    def counts(self) -> Mapping[str, int]: ...


@dataclass(slots=True)
class _Side:
    """What is made of one side."""

    made: Recorded
    ports: list[Copy] = field(default_factory=list)
    """Ports that were asked for in vain, as the side was recorded already."""


class Arrived(Protocol):
    """Holds packets that have arrived: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""

    def take_waiting(self) -> None: ...


class Recordings:
    """The recordings and copies of all sessions of one relay.

    Packets that have arrived are taken before a side begins or ends: so those that arrived before the reply to the
    command are not recorded at its start, and are at its end.
    """

    def __init__(
        self, table: SessionTable, recorder: Recorder, copies: Copies, offloading: Offloading, arrived: Arrived
    ) -> None:
        self._table = table
        self._recorder = recorder
        self._copies = copies
        self._offloading = offloading
        self._arrived = arrived
        self._sides: dict[Key, _Side] = {}

    def record(self, request: Record, now: float) -> list[Session]:
        """Record a side of every session that the tags match, or of none. Returns the sessions.

        Raises SessionNotFoundError, RecordingError.
        """
        found = self._table.find_all(request.call_id, request.from_tag, request.to_tag)
        if not found:
            raise SessionNotFoundError("no such session")
        begun = []
        try:
            for session, is_reverse in found:
                role = Role.CALLEE if is_reverse else Role.CALLER
                if self._record(session, role, None, is_single=request.is_single, now=now):
                    begun.append((session, role))
        except RecordingError:
            for key in begun:
                self._stop(key, now)
            raise
        return [session for session, _ in found]

    def record_all(self, session: Session, now: float) -> None:
        """Record both sides of a new session; what fails is logged."""
        whys = {}
        for role in (Role.CALLER, Role.CALLEE):
            try:
                self._record(session, role, None, is_single=True, now=now)
            except RecordingError as error:
                whys[str(error)] = role
        for why in whys:
            log.error("%s: not recorded: %s", session.label, why)

    def record_as(self, issuer: Issuer, request: RecordAs, now: float) -> None:
        """Record the issuer's side in files of a given name. Raises RecordingError."""
        self._record(issuer.session, issuer.role, request.name, is_single=request.is_single, now=now)

    def copy_to(self, issuer: Issuer, request: CopyTo, now: float) -> PortLine | None:
        """Copy the issuer's side to another host. Returns the port that copies leave from, if that is asked for.

        A side that is recorded or copied already stays as it is (protocol.md 2.5). Raises RecordingError.
        """
        key = issuer.session, issuer.role
        side = self._sides.get(key)
        leg = issuer.session.leg(issuer.role)
        if side is None:
            copy = self._copies.make(issuer.session, leg, request.to, now)
            self._arrived.take_waiting()
            self._begin(key, copy, now)
        elif isinstance(side.made, Copy):
            copy = side.made
        elif request.wants_port and not side.ports:
            copy = self._copies.make(issuer.session, leg, request.to, now)
            side.ports.append(copy)
        elif request.wants_port:
            copy = side.ports[0]
        else:
            return None
        return copy.line if request.wants_port else None

    def stop(self, request: StopRecording, now: float) -> list[Session]:
        """End what is made of a side, or of both, in every session that the tags match. Returns the sessions.

        Raises SessionNotFoundError if there is nothing to end.
        """
        if self._sides:
            self._arrived.take_waiting()
        found = self._table.find_all(request.call_id, request.from_tag, request.to_tag)
        stopped = []
        for session, is_reverse in found:
            role = Role.CALLEE if is_reverse else Role.CALLER
            keys = [(session, one) for one in (role, role.peer) if one is role or request.is_both]
            if any([self._stop(key, now) for key in keys]):
                stopped.append(session)
        if not stopped:
            raise SessionNotFoundError("nothing is recorded" if found else "no such session")
        return stopped

    def counts(self) -> Mapping[str, int]:
        """Count files and packets of recordings, by name; empty where nothing can be recorded."""
        return self._recorder.counts()

    def end(self, session: Session, now: float) -> None:
        """End everything of a session that ends."""
        if self._sides:
            keys = [(session, role) for role in Role if (session, role) in self._sides]
            if keys:
                self._arrived.take_waiting()
            for key in keys:
                self._stop(key, now, is_ending=True)

    def _record(self, session: Session, role: Role, name: bytes | None, *, is_single: bool, now: float) -> bool:
        """Begin to record a side; False if it is recorded or copied already."""
        key = session, role
        if key in self._sides:
            if is_single and self._recorder.has_single_files:
                raise RecordingError("the side is recorded already")
            return False

        def on_end(at: float) -> None:
            self._stop(key, at)

        def absorb(at: float) -> None:
            for stream in session.leg(role).streams:
                self._offloading.absorb(session, stream, at)

        made = self._recorder.record(session, role, name, is_single=is_single, on_end=on_end, absorb=absorb)
        # What arrived while the files were made is not recorded, so it must not be counted as if it was.
        self._arrived.take_waiting()
        absorb(now)
        made.begin()
        self._begin(key, made, now)
        return True

    def _begin(self, key: Key, made: Recorded, now: float) -> None:
        self._sides[key] = _Side(made)
        for one in made.streams:
            one.stream.witnesses = (*one.stream.witnesses, one)
        self._offloading.replan(key[0], now)

    def _stop(self, key: Key, now: float, *, is_ending: bool = False) -> bool:
        side = self._sides.pop(key, None)
        if side is None:
            return False
        for one in side.made.streams:
            one.stream.witnesses = tuple(witness for witness in one.stream.witnesses if witness is not one)
        if not is_ending:
            self._offloading.replan(key[0], now)
        side.made.stop(now)
        for copy in side.ports:
            copy.stop(now)
        return True
