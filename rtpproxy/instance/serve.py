"""Runs one relay: its parts are built from a configuration, started, and taken down in reverse order."""

import asyncio
import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from rtpproxy.config import Config
from rtpproxy.instance.build import Clocks, build, note_directories, open_control
from rtpproxy.instance.load import LoadMeter
from rtpproxy.instance.start import start, warnings
from rtpproxy.instance.stop import Stop
from rtpproxy.instance.ticks import Ticks
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
from rtpproxy.process import signals

log = logging.getLogger(__name__)

OnReady = Callable[[Sequence[str]], Callable[[], None]]
"""Takes the warnings of the start, which the operator must see whatever the log level is.

May give up privileges. Returns what gives up, in the thread that calls it, the one that loading programs needs.
"""


async def serve(
    config: Config, clocks: Clocks, on_ready: OnReady, abort: Callable[[int], None], bound: Sequence[int] = ()
) -> None:
    """Run the relay until it is told to stop. Raises StartError when it cannot start.

    `on_ready` is called once everything serves; `abort` with the number of a signal that came while stopping. `bound`
    are descriptors of UDP sockets that are bound already, for control sockets.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_exception)
    stop = Stop(abort)
    signals.catch(loop, stop.on_signal, stop.slowly)
    with ExitStack() as stack:
        notes = Notes(note_directories(), here)
        stack.callback(notes.close)
        server = await open_control(config, clocks.monotonic, notes, bound, stack)
        parts = build(config, clocks, notes, server, stack)
        stop.follow(parts.service.stop_slowly)
        start(parts, stop, stack)
        Ticks(parts, loop, clocks.monotonic, stop).start()
        LoadMeter(parts.service, loop, clocks, stop).start()
        if not stop.is_asked:
            give_up = on_ready(warnings(parts))
            if config.user:
                parts.kernel.load_rest(give_up)
            parts.recorder.start()
            parts.modules.start()
            log.info("rtpproxy started")
        await stop.wait()
    log.info("rtpproxy stopped")


def _log_exception(_: AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    log.error("unexpected: %s", context.get("message"), exc_info=trace)
