"""Recordings and copies of what parties send (protocol.md 2.5: `R`, `C`, `N`, and 8).

A *side* is one leg of a session, with what it receives. There is one recording or copy of a side, or none.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rtpproxy.errors import RecordingError, SessionNotFoundError
from rtpproxy.service.answers import PortLine
from rtpproxy.service.copies import Copies, Copy, Ports
from rtpproxy.service.requests import CopyTo, Record, RecordAs, StopRecording
from rtpproxy.service.witnesses import Watch, Witnesses
from rtpproxy.session.session import Issuer, Role, Session
from rtpproxy.session.table import SessionTable

log = logging.getLogger(__name__)

Key = tuple[Session, Role]


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
    ) -> Watch: ...
    def counts(self) -> Mapping[str, int]: ...


@dataclass(slots=True)
class _Side:
    """What is made of one side."""

    made: Watch
    ports: list[Ports] = field(default_factory=list)
    """Ports that were asked for in vain, as the side was recorded already."""


class Recordings:
    """The recordings and copies of all sessions of one relay."""

    def __init__(self, table: SessionTable, recorder: Recorder, copies: Copies, witnesses: Witnesses) -> None:
        self._table = table
        self._recorder = recorder
        self._copies = copies
        self._witnesses = witnesses
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
            copy = self._copies.make(issuer.session, leg, request.to, self._on_end(key), now)
            self._begin(key, copy, now)
            ports = copy.ports
        elif isinstance(side.made, Copy):
            ports = side.made.ports
        elif not request.wants_port:
            return None
        else:
            if not side.ports:
                side.ports.append(self._copies.open_ports(issuer.session, leg, request.to, now))
            ports = side.ports[0]
        return ports.line if request.wants_port else None

    def stop(self, request: StopRecording, now: float) -> list[Session]:
        """End what is made of a side, or of both, in every session that the tags match. Returns the sessions.

        Raises SessionNotFoundError if there is nothing to end.
        """
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
        """Count files, copies and packets, by name; empty where nothing can be recorded and userspace sends copies."""
        return {**self._recorder.counts(), **self._copies.counts()}

    def end(self, session: Session, now: float) -> None:
        """End everything of a session that ends."""
        for role in Role:
            self._stop((session, role), now, is_ending=True)

    def _record(self, session: Session, role: Role, name: bytes | None, *, is_single: bool, now: float) -> bool:
        """Begin to record a side; False if it is recorded or copied already."""
        key = session, role
        if key in self._sides:
            if is_single and self._recorder.has_single_files:
                raise RecordingError("the side is recorded already")
            return False

        absorb = self._witnesses.absorb(session, session.leg(role).streams)
        made = self._recorder.record(session, role, name, is_single=is_single, on_end=self._on_end(key), absorb=absorb)
        self._begin(key, made, now)
        return True

    def _on_end(self, key: Key) -> Callable[[float], None]:
        def on_end(at: float) -> None:
            self._stop(key, at)

        return on_end

    def _begin(self, key: Key, made: Watch, now: float) -> None:
        self._sides[key] = _Side(made)
        self._witnesses.begin(key[0], made, now)

    def _stop(self, key: Key, now: float, *, is_ending: bool = False) -> bool:
        side = self._sides.pop(key, None)
        if side is None:
            return False
        self._witnesses.end(key[0], side.made, now, is_ending=is_ending)
        for ports in side.ports:
            ports.free()
        return True
