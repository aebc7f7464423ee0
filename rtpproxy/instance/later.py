"""Calls functions after a time, as long as the relay is not taken down."""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable


class Later:
    """The calls of one relay that are to come."""

    def __init__(self, loop: AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._handles: set[TimerHandle] = set()

    def call(self, delay_s: float, callback: Callable[[float], None]) -> None:
        """Call `callback` after so many seconds with the time that it is then, seconds, monotonic."""

        def call() -> None:
            self._handles.discard(handle)
            callback(self._clock())

        handle = self._loop.call_later(delay_s, call)
        self._handles.add(handle)

    def close(self) -> None:
        """Call nothing any more."""
        for handle in self._handles:
            handle.cancel()
        self._handles.clear()
