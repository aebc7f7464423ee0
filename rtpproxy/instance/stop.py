"""The request that a relay stops, at once or slowly, and who makes it."""

import asyncio
import logging
from collections.abc import Callable

from rtpproxy.config import Config, ControlKind

log = logging.getLogger(__name__)


class Stop:
    """The request to stop, whoever makes it: a signal, the end of standard input, the end of the last session."""

    def __init__(self, abort: Callable[[int], None]) -> None:
        """`abort` is called with the number of a signal that comes while the relay is stopping."""
        self._abort = abort
        self._event = asyncio.Event()
        self._is_slow = False
        self._followers: list[Callable[[], None]] = []

    @property
    def is_asked(self) -> bool:
        """True once the relay must stop."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the relay must stop."""
        await self._event.wait()

    def on_signal(self, number: int) -> None:
        """Stop cleanly; at the second signal, abort."""
        if self.is_asked:
            self._abort(number)
        log.info("stopping on signal %d", number)
        self._event.set()

    def now(self, why: str) -> None:
        """Stop cleanly; `why` is logged."""
        log.info("%s", why)
        self._event.set()

    def slowly(self) -> None:
        """Ask for a slow stop: no new sessions, and the end when the last one has ended."""
        log.info("stopping slowly: no new sessions; exit when the last one ends")
        self._is_slow = True
        for follower in self._followers:
            follower()

    def follow(self, follower: Callable[[], None]) -> None:
        """Call `follower` when a slow stop is asked for; at once, if it has been asked for already."""
        self._followers.append(follower)
        if self._is_slow:
            follower()


def on_input_end(kind: ControlKind, config: Config, stop: Stop) -> None:
    """Handle the end of standard input, which was a control socket (protocol.md 1.1, 12.3)."""
    if kind is ControlKind.STDIOC:
        stop.now("stopping: standard input ended")
    elif len(config.control) == 1:
        stop.slowly()
