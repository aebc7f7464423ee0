"""Standard input and output as a control socket (protocol.md 1.1, 1.3)."""

import asyncio
import os
from collections.abc import Callable

from rtpproxy.control.execute import Execute
from rtpproxy.control.lines import LineClient, Rota


class _Stdio:
    """Standard input and output as a `Duplex`. Until it is closed both are non-blocking, for all who share them."""

    INPUT, OUTPUT = 0, 1

    def __init__(self) -> None:
        self._was_blocking = {descriptor: os.get_blocking(descriptor) for descriptor in (self.INPUT, self.OUTPUT)}
        for descriptor in self._was_blocking:
            os.set_blocking(descriptor, False)

    def recv(self, size: int) -> bytes:
        return os.read(self.INPUT, size)

    def send(self, data: bytes) -> int:
        return os.write(self.OUTPUT, data)

    def close(self) -> None:
        for descriptor, was_blocking in self._was_blocking.items():
            os.set_blocking(descriptor, was_blocking)


class StdioListener:
    """Serves standard input, for `stdio` and `stdioc`, until it ends. It may be a pipe, terminal, socket or file."""

    def __init__(self, loop: asyncio.AbstractEventLoop, execute: Execute, on_end: Callable[[], None]) -> None:
        """`on_end` is called when input ends or output fails, but not for `close`."""
        self._on_end: Callable[[], None] | None = on_end
        duplex = _Stdio()
        descriptors = (duplex.INPUT, duplex.OUTPUT)
        self._client = LineClient(
            loop, Rota(loop), duplex, descriptors, lambda line: execute(line, ""), lambda _: self._ended()
        )

    def stop(self) -> None:
        """Read no more, and answer the commands that were read; the descriptors stay open."""
        self._on_end = None
        self._client.finish()

    def close(self) -> None:
        """Stop: the descriptors are not ours to close."""
        self.stop()

    def _ended(self) -> None:
        if self._on_end is not None:
            self._on_end()
