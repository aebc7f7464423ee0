"""Plays prompts: files become RTP packets, sent at their times. One timer serves all players of a relay."""

import logging
import math
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from enum import Enum
from random import Random
from typing import Protocol

from rtpproxy.errors import PlaybackError
from rtpproxy.playback.disk import Worker, directory_of
from rtpproxy.playback.files import CUT_SHORT, Files, Found, Version
from rtpproxy.playback.frames import Cut, cut_of
from rtpproxy.playback.openings import Openings
from rtpproxy.playback.player import Block, Player, Start
from rtpproxy.playback.prompt import Prompt, close
from rtpproxy.playback.wheel import Wheel

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""A prompt whose disk does not answer for this long ends."""

_NOTHING = Cut(1, 1)


class Outlet(Protocol):
    """Sends what is played to one party, and is told of its end. `now` is seconds, monotonic."""

    @property
    def title(self) -> str:
        """Name the party in the log."""

    def send(self, packet: bytes) -> bool:
        """Send a packet; False where that is impossible until the address of the party is another one."""

    def ended(self, now: float) -> None:
        """Hear that there is no more; not told after `Playing.stop`."""


class _State(Enum):
    OPENING = "its file is being opened"
    DUE = "its next packet has a time"
    NO_PARTY = "nothing can be sent to the party"
    NO_DISK = "what is next is being read"
    ENDED = "it has ended"


_DUE = _State.DUE


class Playing:
    """A prompt that is played to one party."""

    __slots__ = (
        *("held", "outlet", "packet_ms", "passes", "player", "players", "prompt", "since", "state", "step_ms"),
    )

    def __init__(self, players: "Players", outlet: Outlet, now: float, packet_ms: int, passes: int | None) -> None:
        self.players = players
        self.outlet = outlet
        self.packet_ms = packet_ms
        self.passes = passes
        self.state = _State.OPENING
        self.since = now
        """Time from which on the disk has been waited for."""
        self.prompt: Prompt | None = None
        self.player: Player
        """Made when the file is open."""
        self.step_ms = 0
        """From one packet to the next."""
        self.held: bytes | None = None
        """A packet that could not be sent yet."""

    def stop(self) -> None:
        """Send nothing more."""
        self.players.leave(self)

    def wake(self) -> None:
        """Take note that the address of the party may be another one."""
        if self.state is _State.NO_PARTY:
            self.players.start(self)

    def has_read(self, number: int, block: Block) -> None:
        """Take a block that has been read."""
        if self.player.offer(number, block) and self.state is _State.NO_DISK:
            self.players.start(self)

    def has_failed(self) -> None:
        """End, because the prompt cannot be played any more."""
        self.players.end(self)


class Players:
    """All players of one relay, and the files that they play."""

    def __init__(
        self, loop: AbstractEventLoop, clock: Callable[[], float], files: Files, disk: Worker, random: Random
    ) -> None:
        """`random` must be one that nobody can guess."""
        self._loop = loop
        self._clock = clock
        self._files = files
        self._disk = disk
        self._random = random
        self._wheel: Wheel[Playing] = Wheel()
        self._timer: TimerHandle | None = None
        self._timer_ms = math.inf
        self._prompts: dict[tuple[bytes, Version], Prompt] = {}
        self._waiting: dict[Playing, None] = {}
        """Those that wait for the disk."""
        self._openings = Openings[Playing](files, disk, clock, self._begin, self._not_opened)
        self._looking: set[bytes] = set()
        """Directories whose files are being looked at."""

    def close(self) -> None:
        """Send nothing more, and close every file."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = -math.inf  # never to be set again
        for prompt in self._prompts.values():
            prompt.close()

    def play(
        self, prompt: bytes, payload_types: Sequence[int], packet_ms: int, passes: int | None, outlet: Outlet
    ) -> Playing:
        """Play a prompt so many times, or for ever (None), from the file of the first payload type that has one.

        Its packets last `packet_ms`, or 10 ms where that is 0. The outlet is not called before this has returned.
        Raises PlaybackError if there is no such file. If the disk is slow this returns before that is known: what
        becomes of the file is in the log then.
        """
        if not payload_types:
            raise PlaybackError("no payload type is named")
        playing = Playing(self, outlet, self._clock(), packet_ms, passes)
        if not self._openings.open(prompt, payload_types, playing):
            self._waiting[playing] = None
        return playing

    def tick(self, now: float) -> None:
        """End what the disk does not answer for, and look after the files. To be called every second."""
        late = [playing for playing in self._waiting if now - playing.since >= PATIENCE_S]
        for playing in late:
            log.error("%s: not played any more: the disk has not answered for %.0f s", playing.outlet.title, PATIENCE_S)
            self.end(playing)
        self._openings.forget(lambda playing: playing.state is not _State.OPENING)
        self._look()

    # For `Playing`

    def start(self, playing: Playing) -> None:
        """Let its next packet be due soon."""
        self._waiting.pop(playing, None)
        playing.state = _DUE
        self._wheel.start(playing, self._clock())
        self._set_timer()

    def leave(self, playing: Playing) -> None:
        """Let it end."""
        playing.state, playing.held = _State.ENDED, None
        self._waiting.pop(playing, None)
        prompt, playing.prompt = playing.prompt, None
        if prompt is not None:
            prompt.users.discard(playing)
            self._release(prompt)

    def end(self, playing: Playing) -> None:
        """Let it end, and tell of that."""
        self.leave(playing)
        playing.outlet.ended(self._clock())

    def _begin(self, asked: Sequence[Playing], found: Found) -> None:
        """Let those play what was opened who have not ended. Raises PlaybackError if it cannot be read."""
        key = found.path, found.version
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = self._prompts[key] = Prompt(found, self._disk, self._fail)
        else:
            close(found, self._disk)
        try:
            for playing in asked:
                if playing.state is _State.OPENING:
                    self._begin_one(playing, prompt)
        finally:
            self._release(prompt)

    def _not_opened(self, asked: Sequence[Playing], error: PlaybackError) -> None:
        """End those who were told that something is played to them, and who have not ended."""
        for playing in asked:
            if playing.state is _State.OPENING:
                log.error("%s: not played: %s", playing.outlet.title, error)
                self.end(playing)

    def _begin_one(self, playing: Playing, prompt: Prompt) -> None:
        payload_type = prompt.found.payload_type
        cut = cut_of(payload_type, playing.packet_ms)
        size = prompt.found.version.size if cut else 0
        start = Start(self._random.getrandbits(32), self._random.getrandbits(16), 2 * self._random.getrandbits(31))
        playing.player = Player(prompt, size, payload_type, cut or _NOTHING, playing.passes, start)
        playing.step_ms = (cut or _NOTHING).duration_ms
        playing.prompt = prompt
        prompt.users.add(playing)
        log.info("%s: plays %s, SSRC %08x", playing.outlet.title, _name(prompt), start.ssrc)
        self.start(playing)

    def _release(self, prompt: Prompt) -> None:
        """Close a file that nobody plays any more."""
        key = prompt.found.path, prompt.found.version
        if not prompt.users and self._prompts.get(key) is prompt:
            del self._prompts[key]
            prompt.close()

    # Time

    def _set_timer(self) -> None:
        at = self._wheel.next_ms()
        if at is None or at >= self._timer_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = at
        # Whole milliseconds, in which loops count, too: so it is never early, and then set again and again.
        self._timer = self._loop.call_later(max(0, at - int(self._clock() * 1000)) / 1000, self._turn)

    def _turn(self) -> None:
        """Send what is due."""
        now = self._clock()
        self._timer, self._timer_ms = None, math.inf
        again = self._wheel.again
        try:
            for items in self._wheel.due(now):
                for playing in items:
                    if playing.state is not _DUE:
                        continue
                    packet = playing.held or self._packet(playing, now)
                    if packet is None:
                        continue
                    if playing.outlet.send(packet):
                        playing.held = None
                        again(playing, playing.step_ms)
                    else:
                        playing.held, playing.state = packet, _State.NO_PARTY
        finally:
            self._set_timer()

    def _packet(self, playing: Playing, now: float) -> bytes | None:
        """Make the next packet. If there is none, take the player to its end, or let it wait for the disk."""
        try:
            packet = playing.player.packet()
        except PlaybackError as error:
            log.error("%s: not played any more: %s", playing.outlet.title, error)
            self.end(playing)
            return None
        if packet is None and playing.player.is_over:
            self.end(playing)
        elif packet is None:
            playing.state, playing.since = _State.NO_DISK, now
            self._waiting[playing] = None
        return packet

    # Ends

    def _fail(self, prompt: Prompt, why: str) -> None:
        """End all that play a prompt."""
        users = tuple(prompt.users)
        if users:
            log.error("prompt %s: %s; players that end: %d", _name(prompt), why, len(users))
        for user in users:
            user.has_failed()

    def _look(self) -> None:
        """Find files that are gone or cut short, in threads; not where the last look has not ended."""
        directories: dict[bytes, list[Prompt]] = {}
        for prompt in self._prompts.values():
            directories.setdefault(directory_of(prompt.found.path), []).append(prompt)
        for directory in directories.keys() - self._looking:
            try:
                self._look_in(directory, directories[directory])
            except PlaybackError as error:
                log.error("prompts are not watched: %s", error)
                return

    def _look_in(self, directory: bytes, prompts: Sequence[Prompt]) -> None:
        def look() -> list[tuple[Prompt, str]]:
            return [(prompt, why) for prompt in prompts if (why := self._objection(prompt.found))]

        def has_looked(outcome: Callable[[], list[tuple[Prompt, str]]]) -> None:
            self._looking.remove(directory)
            for prompt, why in outcome():
                self._fail(prompt, why)

        self._disk.do(directory, look, has_looked)
        self._looking.add(directory)

    def _objection(self, found: Found) -> str:
        """Say in words why a file should not be played any more; in the thread.

        What has another file at its path is played on from the one that is open: whoever asks now gets the other one.
        """
        try:
            version = self._files.version(found.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            return f"it is gone: {error.strerror}"
        except OSError:
            # Something has the name. That it cannot be opened now is nothing to those who have it open; if it cannot be
            # read either, that ends them.
            return ""
        is_same = (version.device, version.inode) == (found.version.device, found.version.inode)
        return CUT_SHORT if is_same and version.size < found.version.size else ""


def _name(prompt: Prompt) -> str:
    return repr(prompt.found.path)[2:-1]
