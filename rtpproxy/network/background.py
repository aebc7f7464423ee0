"""Asks the kernel in a thread where it may keep the caller waiting.

Linux changes links, addresses, neighbours and routes under one lock (the RTNL), and so answers some questions only
when it is free. While another program changes 200,000 routes, one question waited up to 0.14 s. Commands and packets
must not. The same thread lets the kernel verify programs (`offload.loading`).
"""

from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

_Result = TypeVar("_Result")


class Runner(Protocol):
    """Does work, and tells when it is done."""

    def run(self, work: Callable[[], _Result], on_done: Callable[[Callable[[], _Result]], None]) -> None: ...


class Background:
    """One thread, which does one piece of work after the other.

    It starts with the first one: threads that were there before the relay gave its privileges up would have none.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "rtpproxy-kernel")
        self._is_closed = False

    def run(self, work: Callable[[], _Result], on_done: Callable[[Callable[[], _Result]], None]) -> None:
        """Do `work` in the thread, then call `on_done` in the event loop, unless closed meanwhile.

        It gets a function that returns the result, or raises what `work` raised; it must call that function.
        """

        def tell(outcome: "Future[_Result]") -> None:
            if not self._is_closed:
                on_done(outcome.result)
            elif not outcome.cancelled():
                outcome.exception()  # else asyncio logs that nobody asked for it

        self._loop.run_in_executor(self._thread, work).add_done_callback(tell)

    def close(self) -> None:
        """Wait for the work that was begun; what was not is left undone, and nobody is told."""
        self._is_closed = True
        self._thread.shutdown(cancel_futures=True)
