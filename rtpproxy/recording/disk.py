"""Does work on a disk in a thread, because a disk or a network file system that hangs must hold nobody up for long."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rtpproxy.errors import RecordingError

WAIT_S = 0.5
"""Time that whoever needs a result waits for it at most; where a disk hangs, the first one only."""
_T = TypeVar("_T")


class Disk:
    """One piece of work at a time. While one hangs, all others are refused at once."""

    def __init__(self) -> None:
        self._latest: _Work[Any] | None = None

    @property
    def is_busy(self) -> bool:
        """True while work goes on, which has been given up."""
        return self._latest is not None and not self._latest.is_done

    def do(self, work: Callable[[], _T], undo: Callable[[_T], None]) -> _T:
        """Do some work, and return its result, or raise the RecordingError that it raises.

        Raises RecordingError, too, if that takes too long; `undo` gets the result then, in the thread, once there is
        one.
        """
        if self.is_busy:
            raise RecordingError("the disk still does not answer")
        ours = _Work(work, undo)
        self._latest = ours
        try:
            # A daemon: whoever waits for a disk must not keep the relay from ending.
            threading.Thread(target=ours.run, name="rtpproxy-disk", daemon=True).start()
        except RuntimeError as error:
            self._latest = None
            raise RecordingError(f"no thread can be started: {error}") from error
        return ours.result()


class _Work(Generic[_T]):
    """A piece of work, which one thread does and another waits for."""

    def __init__(self, work: Callable[[], _T], undo: Callable[[_T], None]) -> None:
        self._work = work
        self._undo = undo
        self._lock = threading.Lock()
        self._has_ended = threading.Event()
        self._is_given_up = False
        self._result: list[_T] = []
        self._error: RecordingError | None = None

    @property
    def is_done(self) -> bool:
        """True once the thread is through with it."""
        return self._has_ended.is_set()

    def run(self) -> None:
        """Do it, in the thread."""
        try:
            try:
                result = self._work()
            except RecordingError as error:
                self._error = error
                return
            except Exception as error:  # the disk is not to blame; the trace goes to standard error
                self._error = RecordingError(f"unexpected error: {error!r}")
                raise
            with self._lock:
                self._result.append(result)
                is_late = self._is_given_up
            if is_late:
                self._undo(result)
        finally:
            self._has_ended.set()

    def result(self) -> _T:
        """Wait for it, but not for long."""
        if not self._has_ended.wait(WAIT_S):
            with self._lock:
                if not self._result:
                    self._is_given_up = True
        if self._error is not None:
            raise self._error
        if self._is_given_up or not self._result:
            raise RecordingError(f"the disk has not answered for {WAIT_S} s")
        return self._result[0]
