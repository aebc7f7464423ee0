"""Holds an open prompt file for all that play it: each part of it is read once, and forgotten when nobody needs it."""

import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

from rtpproxy.errors import PlaybackError
from rtpproxy.playback.disk import Worker, directory_of
from rtpproxy.playback.files import Found, read_block
from rtpproxy.playback.player import BLOCK_BYTES, Block


class User(Protocol):
    """Plays a prompt."""

    def has_read(self, number: int, block: Block) -> None:
        """Take a block that has been read."""

    def has_failed(self) -> None:
        """Hear that the prompt cannot be played any more."""


class Prompt:
    """One version of one file."""

    def __init__(self, found: Found, disk: Worker, on_failure: Callable[["Prompt", str], None]) -> None:
        """`on_failure` is called, never from within `block`, when it cannot be played any more; it gets the reason."""
        self.found = found
        self.users: set[User] = set()
        self._disk = disk
        self._on_failure = on_failure
        self._blocks: WeakValueDictionary[int, Block] = WeakValueDictionary()
        self._reading: set[int] = set()
        self._is_closed = False

    def block(self, number: int) -> Block | None:
        """Return a block that is in memory; otherwise begin to read it, and return None. Raises PlaybackError."""
        block = self._blocks.get(number)
        if block is None and number not in self._reading and not self._is_closed:
            self._read(number)
        return block

    def close(self) -> None:
        """Close the file once nothing of it is being read."""
        self._is_closed = True
        if not self._reading:
            close(self.found, self._disk)

    def _read(self, number: int) -> None:
        position = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, self.found.version.size - position)
        self._reading.add(number)
        try:
            self._disk.do(
                directory_of(self.found.path),
                lambda: read_block(self.found.descriptor, position, size),
                lambda outcome: self._has_read(number, outcome),
            )
        except PlaybackError:
            self._reading.discard(number)
            raise

    def _has_read(self, number: int, outcome: Callable[[], bytes]) -> None:
        self._reading.remove(number)
        if self._is_closed:
            self.close()
            return
        try:
            block = self._blocks[number] = Block(outcome())
        except PlaybackError as error:
            self._on_failure(self, str(error))
            return
        except OSError as error:
            self._on_failure(self, f"it cannot be read: {error.strerror}")
            return
        for user in tuple(self.users):
            user.has_read(number, block)


def close(found: Found, disk: Worker) -> None:
    """Close a file in a thread: a file system in userspace may let whoever does that wait."""
    try:
        # Nothing was written, so whatever close(2) says does not matter.
        disk.do(directory_of(found.path), lambda: os.close(found.descriptor), lambda _: None)
    except PlaybackError:
        os.close(found.descriptor)
