"""Appends lines to a file in a thread, because a disk that hangs or is full must hold up no call.

Lines wait in memory until they are written, and those that find no room there are lost and counted.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from rtpproxy.errors import StartError
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

MOST_BYTES = 32 << 20
"""Limit of what waits: some 70,000 records."""
_BATCH_LINES = 128
"""Most lines in one write."""
_GATHER_S = 0.1
"""Time that the thread lets lines gather: whenever it is awake, the event loop waits a little."""
_RETRY_S = 1.0
"""Time between two attempts to write where the first one failed."""
_OPEN_S = 5.0
"""Time in which the file must be open, or the relay does not start."""
_STOP_S = 2.0
"""Time that a relay which stops waits for what is not written yet."""


class Lines(Protocol):
    """The file, for the thread only: `line_file.LineFile`. What a disk refuses is an OSError."""

    path: str

    def open(self) -> None: ...
    def append(self, lines: Sequence[bytes]) -> int: ...
    def close(self) -> None: ...


class Appender:
    """A file, and the thread that writes to it. The methods are for the event loop, which waits for no disk."""

    def __init__(self, file: Lines, most_bytes: int = MOST_BYTES) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        """Guards what follows, for a moment only."""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_closing = False
        self._lost = 0
        self._refusal: OSError | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the file, before privileges are given up. Waits for that, but not for long. Raises StartError."""
        opening = self._start_thread(self._open)
        opening.join(_OPEN_S)
        if opening.is_alive():
            raise StartError(f"{self._file.path}: the disk does not answer, or another program keeps the file locked")
        if self._refusal is not None:
            raise StartError(f"{self._file.path}: {self._refusal.strerror}") from self._refusal

    def start(self) -> None:
        """Start writing, with the privileges that this thread has by now. Raises StartError."""
        self._thread = self._start_thread(self._write_all)

    def append(self, line: bytes) -> None:
        """Have a line written, which ends with a newline."""
        with self._changed:
            if self._waiting_bytes + len(line) <= self._most_bytes:
                self._waiting.append(line)
                self._waiting_bytes += len(line)
                if len(self._waiting) == 1:
                    self._changed.notify()
                return
        self._lost += 1
        if is_worth_a_line(self._lost):
            log.error("%s: no room for more lines that wait for the disk: %d lost so far", self._file.path, self._lost)

    def close(self) -> None:
        """Write what waits, or give up after a short time."""
        if self._thread is None:
            self._file.close()
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(_STOP_S)
        if self._waiting:
            log.error("%s: the relay stops, and %d lines are not written", self._file.path, len(self._waiting))

    def _start_thread(self, work: Callable[[], None]) -> threading.Thread:
        # A daemon: whoever waits for a disk must not keep the relay from ending.
        thread = threading.Thread(target=work, name="rtpproxy-lines", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise StartError(f"{self._file.path}: no thread can be started: {error}") from error
        return thread

    # In a thread

    def _open(self) -> None:
        try:
            self._file.open()
        except OSError as error:
            self._refusal = error

    def _write_all(self) -> None:
        """Write until the relay stops and all is written, or the disk refuses it."""
        self._write_until_closing()
        self._file.close()

    def _write_until_closing(self) -> None:
        failures = 0
        while batch := self._next():
            is_last = self._is_closing
            written, reason = self._write(batch)
            self._drop(written)
            if written == len(batch):
                failures = 0
                continue
            failures += 1
            if is_worth_a_line(failures):
                log.error("%s: %s; %d lines wait", self._file.path, reason, len(self._waiting))
            if is_last and not written:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, 0 if written else _RETRY_S)

    def _next(self) -> list[bytes]:
        """Wait for lines. Returns the first ones, which go on waiting; none when the relay stops and all is written."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._is_closing)
            if len(self._waiting) < _BATCH_LINES:
                self._changed.wait_for(lambda: self._is_closing, _GATHER_S)
            return list(islice(self._waiting, _BATCH_LINES))

    def _write(self, lines: Sequence[bytes]) -> tuple[int, str]:
        """Return how many lines were written, and why no more."""
        try:
            return self._file.append(lines), "not all could be written, as on a full disk"
        except OSError as error:
            return 0, error.strerror or str(error)

    def _drop(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._waiting_bytes -= len(self._waiting.popleft())
