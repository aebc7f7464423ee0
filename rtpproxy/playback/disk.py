"""Does work on disks in threads, because a disk or a network file system that hangs must hold up nobody else."""

import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from rtpproxy.errors import PlaybackError

MAX_THREADS = 16
MAX_WAITING = 10_000
"""Limit of work that waits for a thread."""
_T = TypeVar("_T")


class Job(Generic[_T]):
    """A piece of work, which may raise OSError or PlaybackError."""

    def __init__(self, work: Callable[[], _T], on_done: Callable[[Callable[[], _T]], None]) -> None:
        self._work = work
        self._on_done = on_done
        self._has_ended = threading.Event()
        self._result: list[_T] = []
        self._error: OSError | PlaybackError | None = None
        self._is_told = False

    def run(self) -> None:
        """Do it, in a thread."""
        try:
            self._result.append(self._work())
        except (OSError, PlaybackError) as error:
            self._error = error
        finally:
            self._has_ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for its end, and tell of it if it has come; False if not."""
        if not self._has_ended.wait(seconds):
            return False
        self.tell()
        return True

    def tell(self) -> None:
        """Call `on_done`, once. It gets what returns the result, or raises the error."""
        if not self._is_told:
            self._is_told = True
            self._on_done(self._outcome)

    def _outcome(self) -> _T:
        if self._error is not None:
            raise self._error
        if not self._result:
            raise PlaybackError("the work on the disk failed; the relay's standard error output says why")
        return self._result[0]


class Worker(Protocol):
    """Does work: `Disk`."""

    def do(self, work: Callable[[], _T], on_done: Callable[[Callable[[], _T]], None]) -> Job[_T]: ...


class Disk:
    """A few threads, which exist while there is work."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting: deque[Job[Any]] = deque()

    def do(self, work: Callable[[], _T], on_done: Callable[[Callable[[], _T]], None]) -> Job[_T]:
        """Do work in a thread, then call `on_done` in the event loop. Raises PlaybackError if that is impossible."""
        job = Job(work, on_done)
        with self._lock:
            if self._threads == MAX_THREADS:
                if len(self._waiting) == MAX_WAITING:
                    raise PlaybackError("the disk has not answered for long")
                self._waiting.append(job)
                return job
            self._threads += 1
        try:
            # A daemon: whoever waits for a disk must not keep the relay from ending.
            threading.Thread(target=self._run, args=(job,), name="rtpproxy-prompts", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
            raise PlaybackError(f"no thread can be started: {error}") from error
        return job

    def _run(self, job: Job[Any] | None) -> None:
        while job is not None:
            is_done = False
            try:
                job.run()
                is_done = True
            finally:
                # The relay may have ended meanwhile.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(job.tell)
                with self._lock:
                    # By a mistake of ours this thread ends; the next one does what waits.
                    job = self._waiting.popleft() if is_done and self._waiting else None
                    self._threads -= job is None
