"""The line protocol: one command a line, replies in order, and turns for clients with many commands (protocol.md 1.3).

The caller chooses where the bytes come from: a connection or standard input.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

LINE_BUFFER_BYTES = 8192
"""A line with its LF must fit; a client that fills the buffer without an LF is dropped."""


class Rota:
    """Gives turns to the clients with waiting commands, one command a turn: a client with thousands delays nobody."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[LineClient] = deque()
        self._is_due = False

    def add(self, client: "LineClient") -> None:
        """Serve a command of `client` soon, after those that wait already."""
        self._waiting.append(client)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        try:
            self._waiting.popleft().serve()
        finally:
            self._is_due = bool(self._waiting)
            if self._is_due:
                self._loop.call_soon(self._run)


class Duplex(Protocol):
    """Reads and writes bytes without blocking; raises BlockingIOError instead."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes, /) -> int: ...
    def close(self) -> None: ...


class LineClient:
    """A `cunix`, `tcp` or `stdio` client: one command a line, replies in order.

    While a reply waits for a slow reader, or commands for their turn, nothing more is read. So the memory for a client
    is bounded: one buffer of commands, and one reply.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rota: Rota,
        duplex: Duplex,
        descriptors: tuple[int, int],
        execute: Callable[[bytes], bytes],
        on_closed: Callable[["LineClient"], None],
    ) -> None:
        """`descriptors` of input and output are waited for. `on_closed` is called once, whoever closes."""
        self._loop = loop
        self._rota = rota
        self._duplex = duplex
        self._input, self._output = descriptors
        self._execute = execute
        self._on_closed = on_closed
        self._is_open = True
        self._is_listening = False
        self._is_waiting = False
        """It has a command, and waits for its turn."""
        self._received = b""
        """Lines that wait, and the beginning of the next."""
        self._unsent = b""
        self._listen()

    def close(self) -> None:
        """Drop the client. May be called again."""
        if not self._is_open:
            return
        self._is_open = False
        self._stop_listening()
        if self._unsent:
            self._loop.remove_writer(self._output)
        self._duplex.close()
        self._on_closed(self)

    def finish(self) -> None:
        """Answer the commands that were read, as long as the client takes their replies, and drop the client."""
        while self._is_open and not self._unsent and b"\n" in self._received:
            self.serve()
        self.close()

    def serve(self) -> None:
        """Execute the first waiting command."""
        self._is_waiting = False
        if not self._is_open:
            return
        line, _, self._received = self._received.partition(b"\n")
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)  # a command without its reply would put replies out of step
            self._send(self._execute(line))
            on_failure.pop_all()

    def _listen(self) -> None:
        if self._is_listening:
            return
        try:
            self._loop.add_reader(self._input, self._on_readable)
        except PermissionError:
            # A regular file, which is always ready and cannot be waited for.
            self._loop.call_soon(self._on_readable)
            return
        self._is_listening = True

    def _stop_listening(self) -> None:
        if self._is_listening:
            self._loop.remove_reader(self._input)
            self._is_listening = False

    def _on_readable(self) -> None:
        if not self._is_open:
            return
        if self._is_waiting:
            self._stop_listening()
            return
        try:
            data = self._duplex.recv(LINE_BUFFER_BYTES - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._received += data
        self._go_on()

    def _go_on(self) -> None:
        """Execute the next command, or wait for it; to be called when nothing is left to send."""
        if b"\n" in self._received:
            self._is_waiting = True
            self._rota.add(self)
        elif len(self._received) >= LINE_BUFFER_BYTES:
            self.close()
        else:
            self._listen()

    def _send(self, reply: bytes) -> None:
        try:
            sent = self._duplex.send(reply)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = reply[sent:]
        if self._unsent:
            self._stop_listening()
            self._loop.add_writer(self._output, self._on_writable)
        else:
            self._go_on()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._output)
        unsent, self._unsent = self._unsent, b""
        self._send(unsent)
