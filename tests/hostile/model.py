"""Sessions, and what commands and time do to them (protocol.md 4 and 7), written as simply as possible.

The model does not choose ports: it takes the reply that was given and says whether it may be that one.
"""

import math
import re

from tests.hostile.commands import Address, Command, Media, Subcommand, World

FORWARD, REVERSE = 0, 1
_PORT_LINE = re.compile(r"(\d+)(.*)")


class SessionModel:
    """One session. Sides are numbered as in protocol.md: 0 faces the callee, 1 the caller."""

    def __init__(self, command: Command, locals_: list[Address], timers: "Timers") -> None:
        assert command.media is not None
        self.call, self.from_tag = command.call, command.from_tag
        self.ports: list[int | None] = [None, None]
        self.locals = locals_
        self.is_strong = not command.media.is_weak
        self.weak = [command.media.is_weak, False]
        self.is_complete = False
        self.has_codecs = [False, command.media.has_codecs]
        """Of the party that each side faces, by its last command."""
        self.is_played_to = [False, False]
        self.timers = timers
        self.notify: tuple[str, str] | None = None
        self.copy_pairs: dict[int, tuple[int, int]] = {}
        """By side: space and RTP port of the pair that copies of it leave from."""

    @property
    def is_held(self) -> bool:
        """Tell whether any reference is left."""
        return self.is_strong or any(self.weak)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Space and RTP port of each pair it has."""
        own = [(local.space, port) for local, port in zip(self.locals, self.ports, strict=True) if port is not None]
        return [*own, *self.copy_pairs.values()]


class Timers:
    """The idle time of one session: one counter, or one a side (protocol.md 4.6)."""

    def __init__(self, now: float, setup_s: float, is_independent: bool) -> None:
        count = 2 if is_independent else 1
        self.seen = [now] * count
        self.timeout = [setup_s] * count
        self.is_own = [False] * count

    def touch(self, side: int, now: float) -> None:
        self.seen[side % len(self.seen)] = now

    def touch_all(self, now: float) -> None:
        self.seen = [now] * len(self.seen)

    def set(self, side: int, seconds: float, now: float) -> None:
        index = side % len(self.seen)
        self.timeout[index], self.seen[index], self.is_own[index] = seconds, now, True

    def establish(self, idle_s: float) -> None:
        self.timeout = [old if is_own else idle_s for old, is_own in zip(self.timeout, self.is_own, strict=True)]

    def left(self, now: float) -> float:
        return min(timeout - (now - seen) for timeout, seen in zip(self.timeout, self.seen, strict=True))


class Model:
    """All sessions of one relay."""

    def __init__(
        self, world: World, ports: range, *, setup_s: float, idle_s: float, is_independent: bool = False
    ) -> None:
        """`ports` are the RTP ports of each port space."""
        self.world = world
        self.sessions: list[SessionModel] = []
        self.busy: set[tuple[int, int]] = set()
        """Space and RTP port of pairs that others have."""
        self.created = self.expired = 0
        self._ports, self._setup_s, self._idle_s, self._is_independent = ports, setup_s, idle_s, is_independent

    @property
    def held(self) -> set[tuple[int, int]]:
        """Space and RTP port of every pair that a session has."""
        return {pair for session in self.sessions for pair in session.pairs}

    def find(self, call: str, from_tag: str, to_tag: str | None) -> tuple[SessionModel, int] | None:
        """The first that matches exactly, and in which direction (4.2)."""
        for session in self.sessions:
            if session.call != call:
                continue
            if session.from_tag == from_tag:
                return session, FORWARD
            if to_tag is not None and to_tag == session.from_tag:
                return session, REVERSE
            number = session.from_tag.rpartition(";")[1:]
            if (
                to_tag is not None
                and session.from_tag.startswith(to_tag + ";")
                and from_tag.rpartition(";")[1:] == number
            ):
                return session, REVERSE
        return None

    def check(self, command: Command, reply: str, now: float) -> None:
        """The reply must be a right one; the sessions are then what it says."""
        if command.error:
            assert reply == command.error
        elif command.kind == "plain":
            assert reply == command.reply or command.reply == "."
        elif command.kind == "X":
            assert reply == "0"
            self.sessions.clear()
        elif command.kind == "D":
            is_found = self._delete(command.call, command.from_tag, command.to_tag, command.is_weak)
            assert reply == ("0" if is_found else "E50")
        else:
            self._check_session_command(command, reply, now)

    def tick(self, now: float) -> list[tuple[str, str]]:
        """The idle ones end; who is told of it."""
        idle = [session for session in self.sessions if session.timers.left(now) <= 0]
        self.sessions = [session for session in self.sessions if session not in idle]
        self.expired += len(idle)
        return [session.notify for session in idle if session.notify is not None]

    def _check_session_command(self, command: Command, reply: str, now: float) -> None:
        if command.kind == "U" and command.notify is not None and not self.world.notify:
            assert reply == "E75"
            return
        found = self.find(command.call, command.from_tag, command.to_tag)
        if command.kind == "U":
            self._check_update(command, found, reply, now)
        elif found is None:
            assert reply == ("0" if command.kind == "L" else "E50")
        elif command.kind == "L":
            session, direction = found
            line, *results = reply.split(" && ")
            side = 1 - direction
            if self._answer(session, side, command.media, line, now):
                self._follow(command.subcommands, results, session, 1 - side, now)
        elif command.kind == "Q":
            self._check_query(command, found, reply, now)
        elif command.kind == "play":
            self._check_play(command, found, reply)
        else:
            assert reply == command.reply

    def _check_update(self, command: Command, found: tuple[SessionModel, int] | None, reply: str, now: float) -> None:
        line, *results = reply.split(" && ")
        if found is None:
            session, side = self._create(command, line, now), 0
            if session is None:
                return
        else:
            session, side = found
            if not self._answer(session, side, command.media, line, now):
                return
            session.is_strong |= not command.media.is_weak
        session.notify = command.notify if command.notify and command.notify[0] in self.world.notify else None
        self._follow(command.subcommands, results, session, 1 - side, now)

    def _create(self, command: Command, line: str, now: float) -> SessionModel | None:
        media, known = command.media, self.world.known
        towards_caller, towards_callee = (*media.letters, known[0], known[0])[:2]
        if media.local is not None:
            towards_caller = towards_callee = media.local
        taken = self._take(towards_callee, line, "E72")
        if taken is None:
            return None
        local, port = taken
        if media.local is not None:
            towards_caller = local
        timers = Timers(now, self._setup_s, self._is_independent)
        session = SessionModel(command, [local, towards_caller], timers)
        session.ports[0] = port
        self.sessions.append(session)
        self.created += 1
        return session

    def _answer(self, session: SessionModel, side: int, media: Media, line: str, now: float) -> bool:
        """Update an existing session; `side` is that of the reply. False when it was refused."""
        if session.ports[side] is None or media.is_new_port:
            local = media.local or session.locals[side]
            if media.local is None and media.is_new_port and len(media.letters) == 2:
                local = media.letters[1]
            taken = self._take(local, line, "E71")
            if taken is None:
                return False
            session.locals[side], session.ports[side] = taken
            if not session.is_complete:
                session.is_complete = True
                session.timers.establish(self._idle_s)
        else:
            assert line == f"{session.ports[side]}{session.locals[side].suffix}", "the port changed"
        session.weak[side] |= media.is_weak
        session.has_codecs[1 - side] = media.has_codecs
        session.timers.touch_all(now)
        return True

    def _take(self, local: Address, line: str, refusal: str) -> tuple[Address, int] | None:
        """A new pair on an address: where, and which. None when it was rightly refused."""
        joined = self.world.join(local)
        free = set() if joined is None else self._free(joined.space)
        if not free or (line == refusal and self._may_be_taken(joined.space, free)):
            assert line == refusal, "a port was given where there is none"
            return None
        shape = _PORT_LINE.fullmatch(line)
        assert shape, "refused, though a pair is free"
        port = int(shape[1])
        assert port in free, "not a free port"
        assert shape[2] == joined.suffix
        return joined, port

    def _free(self, space: int) -> set[int]:
        taken = self.held | self.busy
        return {port for port in self._ports if (space, port) not in taken}

    def _may_be_taken(self, space: int, free: set[int]) -> bool:
        """Tell if others may have all these ports, although nobody said so."""
        return False

    def _delete(self, call: str, from_tag: str, to_tag: str | None, is_weak: bool) -> bool:
        is_found = False
        for session in [one for one in self.sessions if one.call == call]:
            is_forward = _matches(from_tag, session.from_tag)
            if not is_forward and not (to_tag is not None and _matches(to_tag, session.from_tag)):
                continue
            is_found = True
            if is_weak:
                session.weak[1 if is_forward else 0] = False
            else:
                session.is_strong = False
            if not session.is_held:
                self.sessions.remove(session)
        return is_found

    def _check_play(self, command: Command, found: tuple[SessionModel, int], reply: str) -> None:
        """`P` and `S`. Of all prompts, those with the name `prompt` exist."""
        session, direction = found
        side = 1 - direction
        letter, _, *words = command.text.split()
        if letter in ("S", "P0"):
            assert reply == "0"
            session.is_played_to[side] = False
        elif words[1] == "session" and not session.has_codecs[side]:
            assert reply == "E35"
        elif words[0] != "prompt":
            assert reply == "E60"
        else:
            assert reply == "0"
            session.is_played_to[side] = True

    def _check_query(self, command: Command, found: tuple[SessionModel, int], reply: str, now: float) -> None:
        session, direction = found
        if command.late_error:
            assert reply == command.late_error
            return
        values, *results = reply.split(" && ")
        if command.has_default_counters:
            ttl_s, *others = map(int, values.split())
            self._check_left(session, ttl_s, now)
            assert len(others) == 4
        self._follow(command.subcommands, results, session, 1 - direction, now)

    def _check_left(self, session: SessionModel, ttl_s: int, now: float) -> None:
        assert ttl_s == max(0, math.ceil(session.timers.left(now)))

    def _follow(
        self, subcommands: tuple[Subcommand, ...], results: list[str], session: SessionModel, issuer: int, now: float
    ) -> None:
        """Sub-commands run up to the first that fails (2.6). `issuer` is the side of the party they speak for."""
        expected: list[str] = []
        for index, one in enumerate(subcommands):
            shown = results[index] if index < len(results) else ""
            is_ok = session in self.sessions and self._can_run(one, session)
            if is_ok and one.kind == "L":
                is_ok = self._answer(session, issuer, one.media, shown if shown != "-1" else "E71", now)
                issuer = 1 - issuer
            elif is_ok:
                self._run(one, session, issuer, now)
            if not is_ok:
                expected.append("-1")
                break
            expected.append(shown if one.kind == "L" else "")
        while expected and not expected[-1]:
            expected.pop()
        assert results == [one or "0" for one in expected]

    def _can_run(self, one: Subcommand, session: SessionModel) -> bool:
        if one.source is None:
            return not one.is_refused
        found = self.find(*one.source)
        return found is not None and found[0] is not session

    def _run(self, one: Subcommand, session: SessionModel, issuer: int, now: float) -> None:
        if one.kind == "S":
            session.timers.set(1 - issuer if one.is_reverse else issuer, one.seconds, now)
        elif one.kind == "D":
            self._delete(session.call, session.from_tag, None, one.is_weak)


def _matches(tag: str, session_tag: str) -> bool:
    return session_tag == tag or session_tag.startswith(tag + ";")
