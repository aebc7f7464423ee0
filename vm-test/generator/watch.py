"""Asks the relays, beside the media, how many streams the kernel forwards, and notes when it was all of them."""

import threading
import time
from dataclasses import dataclass

from generator.addresses import ControlAddress
from generator.control import Client, NoAnswerError, connect
from generator.signalling import read_kernel_streams

_POLL_S, _SHARE = 0.02, 10
"""Pause between two questions; ten times as long as an answer takes, so that asking does not load the relay."""


@dataclass
class Takeover:
    """How many streams were in the kernel at last, None where a relay does not tell; when first `expected` were."""

    expected: int
    streams: int | None = None
    at_ns: int | None = None


class Watch:
    """Polls `It`, in a thread and with connections of its own, until it is finished."""

    def __init__(self, controls: tuple[ControlAddress, ...], deadline_s: float) -> None:
        self._join_s = deadline_s * 2 * len(controls)
        self._clients = [connect(control, deadline_s) for control in controls]
        self._before = [self._count(client) for client in self._clients]
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._takeover = Takeover(0)

    def start(self, expected: int) -> None:
        """Begin to ask, unless a relay does not tell anyway."""
        self._takeover = Takeover(expected)
        if None not in self._before:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def finish(self) -> Takeover:
        """Ask a last time, and stop."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(self._join_s)
        for client in self._clients:
            client.close()
        return self._takeover

    def _run(self) -> None:
        while True:
            is_last = self._is_over.is_set()
            now_ns = time.monotonic_ns()
            counts = [self._count(client) for client in self._clients]
            added = [
                max(0, count - before)
                for count, before in zip(counts, self._before, strict=True)
                if count is not None and before is not None
            ]
            self._takeover.streams = sum(added) if len(added) == len(counts) else None
            if sum(added) >= self._takeover.expected and self._takeover.at_ns is None:
                self._takeover.at_ns = now_ns
            if is_last:
                return
            taken_s = (time.monotonic_ns() - now_ns) / 1e9
            pause_s = _POLL_S if self._takeover.at_ns is None else 10 * _POLL_S
            self._is_over.wait(max(pause_s, _SHARE * taken_s))

    @staticmethod
    def _count(client: Client) -> int | None:
        try:
            return read_kernel_streams(client.ask("It"))
        except NoAnswerError:
            return None
