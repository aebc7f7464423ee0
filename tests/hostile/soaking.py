"""Recording and copying at random: commands of which most succeed, and what they leave, as simply as possible.

Source: protocol.md 2.5, 2.6 and 8; docs/differences.md. Sides are numbered as in `model`: 1 is what the caller sends.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tests.hostile.commands import CALLS, TAGS, Command, Generator, Subcommand, World
from tests.hostile.model import Model, SessionModel

NAMES = ("one", "two", "three.a")
WRONG_NAMES = ("a/b", "../one", ".one", "n" * 300)
WATCHED = (("tag", False), ("tag 96", False), ("tag%20x 101 h", False), ("tag 0 h", False))
NOT_WATCHED = (("tag 200", True), ("tag 101 x", True), ("%2", True))
"""Arguments of `&& M3:1`, and that the module refuses them (protocol.md 13.3)."""
CALLEE, CALLER = 0, 1
LETTERS = {CALLER: "o", CALLEE: "a"}
"""In names of recordings: the caller *originates* the call, the callee *answers* it."""


@dataclass
class MediaCommand(Command):
    """`R`, `C` or `N`."""

    letters: str = ""
    """Modifiers."""
    name: str = ""
    """Of a file."""
    to: str = ""
    """Host that copies go to."""
    is_refused: bool = False
    """Nothing can be copied to that place."""


class MediaGenerator(Generator):
    """Makes commands of all kinds, those for recordings and copies among them."""

    CODECS = ("c0,8", "c0,8", "C101", "c")
    """Without an empty list, with which no prompt can be played."""

    def __init__(self, rng: Random, world: World, to: tuple[str, ...], timeouts: tuple[int, ...]) -> None:
        """`to` are hosts that copies can be sent to."""
        super().__init__(rng, world, timeouts=timeouts)
        self._to = to

    def next(self) -> Command:
        if not self._rng.randrange(6):
            return self._rng.choice((self.record, self.stop, self.copy))()
        return super().next()

    def media_command(self) -> Command:
        """Playback; recordings and copies that succeed have methods of their own."""
        while (command := super().media_command()).text[:1] not in "PS":
            pass
        return command

    def record(self) -> Command:
        """`R`."""
        letters = self._rng.choice(("", "", "s"))
        return self._command("R", letters)

    def stop(self) -> Command:
        """`N`."""
        return self._command("N", self._rng.choice(("", "a")))

    def copy(self) -> Command:
        """`C`, to a file or to another host."""
        rng = self._rng
        letters = rng.choice(("", "", "s", "p", "sp"))
        if rng.randrange(3) == 0:
            name = rng.choice((*NAMES, *NAMES, *WRONG_NAMES))
            return self._command("C", letters, name, name=name)
        host = rng.choice(self._to)
        if rng.randrange(8):
            return self._command("C", letters, f"udp:{f'[{host}]' if ':' in host else host}:7000", to=host)
        # Multicast, and no port for RTCP: the first two can be read, the others cannot.
        target = rng.choice(("224.0.0.1:7000", f"{host}:65535", f"{host}:0", f"{host}", "example.com:7000", ""))
        is_read = target in ("224.0.0.1:7000", f"{host}:65535")
        return self._command("C", letters, f"udp:{target}", to="224.0.0.1" if is_read else "", is_refused=True)

    def _command(self, letter: str, letters: str, *arguments: str, **about: object) -> MediaCommand:
        call, from_tag, to_tag = self._names()
        text = " ".join([self._letter(letter) + letters, call, *arguments, from_tag, *([to_tag] if to_tag else [])])
        return MediaCommand(text, letter, "", call, from_tag, to_tag, letters=letters, **about)  # type: ignore[arg-type]

    def _subcommand(self, has_more: bool) -> Subcommand:
        rng = self._rng
        if not rng.randrange(5):
            text, is_refused = rng.choice((*WATCHED, *NOT_WATCHED))
            return Subcommand(f"M3:1 {text}", "M", is_refused=is_refused)
        while (one := super()._subcommand(has_more)).text.startswith("M1:1"):
            pass  # here this module runs
        return one

    def _feed(self) -> Subcommand:
        source = self._rng.choice(CALLS), self._rng.choice(TAGS), self._rng.choice(TAGS)
        return Subcommand(f"C {' '.join(source)}", "C", source=source)


@dataclass(eq=False)
class Recording:
    """Files, and the sides that they are of."""

    names: list[str]
    is_whole: bool
    """One file for all streams of the session."""
    sides: set[tuple[SessionModel, int]] = field(default_factory=set)


class MediaModel(Model):
    """The sessions of a real relay, in real time, which therefore never end by themselves, and what is made of them.

    The relay records as pcap, into separate files or single ones.
    """

    def __init__(self, world: World, ports: range, *, idle_s: float) -> None:
        super().__init__(world, ports, setup_s=idle_s, idle_s=idle_s)
        self.recordings: list[Recording] = []
        self.copied: set[tuple[SessionModel, int]] = set()
        self.bound: set[tuple[int, int]] = set()
        """Space and RTP port of pairs of which a socket had one before the command: the process that sends copies has
        those of copies that have just ended, as any program may have one."""
        self.names: set[str] = set()
        """Of all files that were ever made."""
        self.unknown: tuple[SessionModel, int] | None = None
        """The side whose copies leave from a port that the last reply did not tell; to be asked for by `Cp`."""

    def check(self, command: Command, reply: str, now: float) -> None:
        if isinstance(command, MediaCommand):
            if command.kind == "R":
                expected = "0" if self._record_all(command) else "E50"
                assert reply == expected
            elif command.kind == "N":
                stopped = [self._stop(*one) for one in self._sides_to_stop(command)]
                assert reply == ("0" if any(stopped) else "E50")
            else:
                self._check_copy(command, reply)
        else:
            super().check(command, reply, now)
        alive = set(self.sessions)
        self.copied = {one for one in self.copied if one[0] in alive}
        for recording in self.recordings:
            recording.sides = {one for one in recording.sides if one[0] in alive}
        self.recordings = [recording for recording in self.recordings if recording.sides]

    def _may_be_taken(self, space: int, free: set[int]) -> bool:
        return {(space, port) for port in free} <= self.bound

    def _check_left(self, session: SessionModel, ttl_s: int, now: float) -> None:
        """Time goes on while a command is executed, and packets come that are no command's."""
        assert math.floor(session.timers.left(now)) <= ttl_s <= max(session.timers.timeout)

    # Files

    def _record_all(self, command: MediaCommand) -> bool:
        """Record a side of each session that matches, or of none."""
        found = list(self._matching(command))
        begun = []
        for session, side in found:
            is_begun = self._record(session, side, "", is_single="s" in command.letters)
            if is_begun is None:
                for one in begun:
                    self._stop(*one)
                return False
            if is_begun:
                begun.append((session, side))
        return bool(found)

    def _record(self, session: SessionModel, side: int, name: str, *, is_single: bool) -> bool | None:
        """Record a side; False where that is done already, None where it cannot be."""
        if self._made(session, side):
            return None if is_single else False
        stems = [name] if name else self._stems(session)
        if is_single:
            wanted = [[name] if name else [f"{stem}.pcap"] for stem in stems]
            for names in wanted:
                joined = self._writing(names[0])
                others = {one for one, _ in joined.sides} if joined else set()
                if joined and joined.is_whole and others == {session}:
                    joined.sides.add((session, side))
                    return True
        else:
            wanted = [[f"{one}.rtp", f"{one}.rtcp"] for one in (s if name else f"{s}.{LETTERS[side]}" for s in stems)]
        for names in wanted:
            if names[0] in WRONG_NAMES or names[0].removesuffix(".rtp") in WRONG_NAMES:
                return None
            if not any(map(self._writing, names)):
                self.recordings.append(Recording(names, is_single, {(session, side)}))
                self.names.update(names)
                return True
        return None

    def _stems(self, session: SessionModel) -> list[str]:
        """The second, with the media number, is for a call of which another line has the first."""
        tag = session.from_tag
        return [f"{session.call}={tag.rpartition(';')[0] or tag}", f"{session.call}={tag}"]

    def _writing(self, name: str) -> Recording | None:
        return next((one for one in self.recordings if name in one.names), None)

    # Copies

    def _check_copy(self, command: MediaCommand, reply: str) -> None:
        found = self.find(command.call, command.from_tag, command.to_tag)
        if found is None:
            assert reply == "E50"
            return
        session, direction = found
        side, wants_port = 1 - direction, "p" in command.letters
        if command.name:
            is_single = "s" in command.letters
            is_made = not wants_port and self._record(session, side, command.name, is_single=is_single) is not None
            assert reply == ("0" if is_made else "E65")
        elif not command.to or (command.is_refused and not self._made(session, side)):
            assert reply == "E65"
        elif (session, side) in self.copied or (self._made(session, side) and side in session.copy_pairs):
            self._check_pair(session, side, reply, wants_port=wants_port)
        elif self._made(session, side) and not wants_port:
            assert reply == "0"
        elif command.is_refused:
            assert reply == "E65"
        else:
            self._check_new_pair(session, side, command, reply, wants_port=wants_port)

    def _check_pair(self, session: SessionModel, side: int, reply: str, *, wants_port: bool) -> None:
        if wants_port:
            assert int(reply.split()[0]) == session.copy_pairs[side][1]
        else:
            assert reply == "0"

    def _check_new_pair(
        self, session: SessionModel, side: int, command: MediaCommand, reply: str, *, wants_port: bool
    ) -> None:
        local = session.locals[side]
        if local.is_ipv6 != (":" in command.to):
            local = self.world.latest(":" in command.to)
        if not wants_port and reply == "0":
            self.copied.add((session, side))
            self.unknown = session, side
            return
        taken = self._take(local, reply, "E65")
        if taken is not None:
            where, port = taken
            session.copy_pairs[side] = where.space, port
            if not self._made(session, side):
                self.copied.add((session, side))

    def tell(self, reply: str) -> None:
        """Hear from which port the copies leave of the side that is `unknown`."""
        assert self.unknown is not None
        session, side = self.unknown
        self.unknown = None
        port, host = reply.split()[:2]
        (where,) = [one for one in self.world.known if (one.shown or one.host) == host]
        assert int(port) in self._free(where.space), "not a free port"
        session.copy_pairs[side] = where.space, int(port)

    # What is made of sides

    def _made(self, session: SessionModel, side: int) -> bool:
        return (session, side) in self.copied or any((session, side) in one.sides for one in self.recordings)

    def _matching(self, command: MediaCommand) -> Iterator[tuple[SessionModel, int]]:
        """Sessions whose tag is one of the tags, with or without a media number; and the side of the from-tag."""
        for session in self.sessions:
            if session.call == command.call:
                for tag, side in ((command.from_tag, CALLER), (command.to_tag, CALLEE)):
                    if tag is not None and (session.from_tag == tag or session.from_tag.startswith(f"{tag};")):
                        yield session, side
                        break

    def _sides_to_stop(self, command: MediaCommand) -> list[tuple[SessionModel, int]]:
        found = list(self._matching(command))
        others = [(session, 1 - side) for session, side in found] if "a" in command.letters else []
        return [*found, *others]

    def _stop(self, session: SessionModel, side: int) -> bool:
        if not self._made(session, side):
            return False
        session.copy_pairs.pop(side, None)
        self.copied.discard((session, side))
        for recording in self.recordings:
            recording.sides.discard((session, side))
        self.recordings = [recording for recording in self.recordings if recording.sides]
        return True
