"""Keeps the process that writes, sends and watches running: starts it when it is first needed, and again."""

import logging
import os
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from typing import Protocol

from rtpproxy.errors import RecordingError
from rtpproxy.recording import messages
from rtpproxy.recording.directories import Directories
from rtpproxy.recording.messages import ToReader, ToRelay
from rtpproxy.recording.reader_process import ReaderProcess

log = logging.getLogger(__name__)

SHORT_S = 5.0
"""A process that died within this time is not started again at once."""
_PROCESS = "the process for recordings and copies"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0


class OpenRing(Protocol):
    """The ring that the kernel writes packets to: `offload.tee.OpenRing`. The descriptor stays open."""

    @property
    def fd(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def numbers(self) -> str: ...
    @property
    def record_bytes(self) -> int: ...


class Supervisor:
    """The process of one relay, whichever it is at the moment. What is sent while there is none is lost."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        directories: Directories | None,
        on_message: Callable[[ToRelay], None],
        outputs: Callable[[], int],
        resume: Callable[[], None],
    ) -> None:
        """`outputs` tells how many files, copies and taps go on.

        `resume` hands these to a process that was started for them. Without directories there are no files.
        """
        self._loop = loop
        self._directories = directories
        self._on_message = on_message
        self._outputs = outputs
        self._resume = resume
        self._ring: OpenRing | None = None
        self._started_at = 0.0
        self._restart: TimerHandle | None = None
        self.process: ReaderProcess | None = None
        """None before the first start, and while it is not running."""
        self.pause_s = 0.0
        """Time before the next start, after a death."""

    def ensure(self) -> None:
        """Start the process, if it is not running. Raises RecordingError."""
        if self.process is not None:
            return
        if self._restart is not None:
            raise RecordingError(f"{_PROCESS} dies again and again; see the log")
        try:
            self._start(goes_on=False)
        except OSError as error:
            raise RecordingError(f"cannot start {_PROCESS}: {error.strerror}") from error

    def send(self, message: ToReader, descriptors: Sequence[int] = ()) -> None:
        """Send a message, if the process is running. The descriptors are closed in any case."""
        if self.process is not None:
            self.process.send(message, descriptors)
        else:
            for descriptor in descriptors:
                os.close(descriptor)

    def tell_directories(self) -> None:
        """Tell which directories are used from now on. Raises OSError."""
        self._tell_directories(finishes=True)

    def _tell_directories(self, *, finishes: bool) -> None:
        if self.process is None:
            return
        if self._directories is None:
            self.process.send(messages.NoDirectory())
        else:
            descriptors = self._directories.duplicate()
            self.process.send(messages.Directories(len(descriptors) > 1, finishes), descriptors)

    def read_ring(self, ring: OpenRing) -> None:
        """Let the process, and those that follow it, read the ring from now on. Raises OSError."""
        self._tell_ring(ring)
        self._ring = ring

    def close(self, wait_s: float) -> None:
        """Let the process finish all files, and wait for that so long."""
        if self._restart is not None:
            self._restart.cancel()
        process, self.process = self.process, None
        if process is not None and not process.close(wait_s):
            log.warning("recordings are still being written; the process %d ends when they are", process.pid)

    def _start(self, *, goes_on: bool) -> None:
        process = self.process = ReaderProcess(self._loop, self._on_message, self._on_death)
        self._started_at = self._loop.time()
        try:
            # Files that go on have no lock now: they are no leftovers.
            self._tell_directories(finishes=not goes_on)
            if self._ring is not None:
                self._tell_ring(self._ring)
        except OSError:
            self.process = None
            process.close(0.0)
            raise

    def _tell_ring(self, ring: OpenRing) -> None:
        if self.process is not None:
            about = messages.MapRing(ring.size_bytes, ring.numbers, ring.record_bytes)
            self.process.send(about, [os.dup(ring.fd)])

    def _on_death(self, how: str) -> None:
        self.process = None
        has_lasted = self._loop.time() - self._started_at >= SHORT_S
        self.pause_s = 0.0 if has_lasted else self._next_pause_s()
        log.error(
            "%s died (%s); %d files, copies and taps go on, without what it had not written or sent",
            *(_PROCESS, how, self._outputs()),
        )
        self._restart = self._loop.call_later(self.pause_s, self._start_again)

    def _next_pause_s(self) -> float:
        return min(max(FIRST_PAUSE_S, 2 * self.pause_s), LONGEST_PAUSE_S)

    def _start_again(self) -> None:
        self._restart = None
        if not self._outputs():
            return
        try:
            self._start(goes_on=True)
        except OSError as error:
            self.pause_s = self._next_pause_s()
            log.error("cannot start %s: %s", _PROCESS, error.strerror)
            self._restart = self._loop.call_later(self.pause_s, self._start_again)
            return
        self._resume()
