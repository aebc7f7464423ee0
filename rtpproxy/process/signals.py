"""Signals and what each one does to the relay (protocol.md 12.3). A new signal is added here."""

import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable

STOP = tuple(signal.Signals[f"SIG{name}"] for name in ("TERM", "INT", "USR1", "USR2", "XCPU", "XFSZ", "VTALRM", "PROF"))
"""Stop the relay cleanly; a second one of these signals ends it at once."""
STOP_SLOWLY = signal.SIGHUP
"""Refuses new sessions, and stops the relay once the last session has ended."""


def catch(loop: AbstractEventLoop, stop: Callable[[int], None], stop_slowly: Callable[[], None]) -> None:
    """Call `stop` with the number of a signal of `STOP`, and `stop_slowly` on `STOP_SLOWLY`, from the event loop."""
    for number in STOP:
        loop.add_signal_handler(number, stop, int(number))
    loop.add_signal_handler(STOP_SLOWLY, stop_slowly)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # A shell script starts background commands with SIGQUIT ignored; the relay must die of it all the same.
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
