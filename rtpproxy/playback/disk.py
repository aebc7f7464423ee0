"""Does work on disks in threads, because a disk or a network file system that hangs must hold up nobody else."""

import os
import threading
from asyncio import AbstractEventLoop
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from rtpproxy.errors import PlaybackError

MAX_THREADS = 16
MAX_OF_DIRECTORY = 4
"""Threads that work in one directory: one that hangs leaves the others to prompts elsewhere."""
MAX_WAITING = 10_000
"""Limit of work that waits for a thread."""
_T = TypeVar("_T")


class Job(Generic[_T]):
    """A piece of work, which may raise OSError or PlaybackError."""

    def __init__(
        self, work: Callable[[], _T], on_done: Callable[[Callable[[], _T]], None], clock: Callable[[], float]
    ) -> None:
        self._work = work
        self._on_done = on_done
        self._clock = clock
        self._begun_at: float | None = None
        self.took_s: float | None = None
        """Seconds from its begin to its end, and before that for work to end that was begun earlier. Without the time
        that a thread needs to start, or to be told: where the processor is busy that is long, on any disk."""
        self._has_ended = threading.Event()
        self._result: list[_T] = []
        self._error: OSError | PlaybackError | None = None
        self._is_told = False

    def queue(self) -> None:
        """Take note that it has to wait for other work."""
        self._begun_at = self._clock()

    def run(self) -> None:
        """Do it, in a thread."""
        begun_at = self._clock() if self._begun_at is None else self._begun_at
        try:
            self._result.append(self._work())
        except (OSError, PlaybackError) as error:
            self._error = error
        finally:
            self.took_s = self._clock() - begun_at
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

    def do(self, directory: bytes, work: Callable[[], _T], on_done: Callable[[Callable[[], _T]], None]) -> Job[_T]: ...


class Disk:
    """A few threads, which exist while there is work."""

    def __init__(self, loop: AbstractEventLoop, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._loop = loop
        self._clock = clock
        self._lock = threading.Lock()
        self._threads = 0
        self._busy: Counter[bytes] = Counter()
        """Threads by directory."""
        self._waiting: dict[bytes, deque[Job[Any]]] = {}
        """By directory; there is no empty one."""
        self._count = 0
        """Of what waits."""

    def do(self, directory: bytes, work: Callable[[], _T], on_done: Callable[[Callable[[], _T]], None]) -> Job[_T]:
        """Do work in a thread, then call `on_done` in the event loop. Raises PlaybackError if that is impossible.

        `directory` is the one that the work is in.
        """
        job = Job(work, on_done, self._clock)
        with self._lock:
            if self._threads == MAX_THREADS or self._busy[directory] >= MAX_OF_DIRECTORY:
                if self._count == MAX_WAITING:
                    raise PlaybackError("the disk has not answered for long")
                job.queue()
                self._waiting.setdefault(directory, deque()).append(job)
                self._count += 1
                return job
            self._threads += 1
            self._busy[directory] += 1
        try:
            # A daemon: whoever waits for a disk must not keep the relay from ending.
            threading.Thread(target=self._run, args=(directory, job), name="rtpproxy-prompts", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._leave(directory)
            raise PlaybackError(f"no thread can be started: {error}") from error
        return job

    def _run(self, directory: bytes, job: Job[Any]) -> None:
        following: tuple[bytes, Job[Any]] | None = directory, job
        while following is not None:
            directory, job = following
            is_done = False
            try:
                job.run()
                is_done = True
            finally:
                # The relay may have ended meanwhile.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(job.tell)
                with self._lock:
                    self._leave(directory)
                    # By a mistake of ours this thread ends; the next one does what waits.
                    following = self._next() if is_done else None

    def _leave(self, directory: bytes) -> None:
        self._threads -= 1
        self._busy[directory] -= 1
        if not self._busy[directory]:
            del self._busy[directory]

    def _next(self) -> tuple[bytes, Job[Any]] | None:
        """Take what a thread that is free can do, if there is any."""
        for directory, jobs in self._waiting.items():
            if self._busy[directory] < MAX_OF_DIRECTORY:
                job = jobs.popleft()
                self._count -= 1
                # The next time it is another directory's turn.
                del self._waiting[directory]
                if jobs:
                    self._waiting[directory] = jobs
                self._threads += 1
                self._busy[directory] += 1
                return directory, job
        return None


def directory_of(path: bytes) -> bytes:
    """Name the directory that a prompt is in; empty for a name alone."""
    return os.path.dirname(path)
