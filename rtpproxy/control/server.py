"""All control sockets together: commands come in as bytes, replies go out as bytes (protocol.md 1.1 to 1.4)."""

import asyncio
import contextlib
import functools
import os
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from typing import Protocol

from rtpproxy.addr import Endpoint
from rtpproxy.config import ControlAddress, ControlKind, Network
from rtpproxy.control.admission import Admission
from rtpproxy.control.connections import ConnectionListener, serve_lines, serve_one_shot
from rtpproxy.control.cookies import ReplyCache
from rtpproxy.control.datagrams import DatagramListener
from rtpproxy.control.execute import Execute
from rtpproxy.control.sockets import (
    IsAbandoned,
    Mark,
    Owner,
    SocketFile,
    bind_internet,
    bind_unix,
    is_on_loopback,
    take_passed,
)
from rtpproxy.control.stdio import StdioListener
from rtpproxy.errors import StartError

OnCommand = Callable[[bytes, float, str], bytes]
"""Takes a command, the time in seconds, and the controller's numeric host, which is empty on Unix sockets and standard
input. Returns the reply with its LF. A datagram without a usable cookie is an empty command."""
Clock = Callable[[], float]
"""Monotonic time in seconds."""


class _Listener(Protocol):
    def stop(self) -> None: ...
    def close(self) -> None: ...


def _ignore_duplicate() -> None: ...


def _ignore_end(_: ControlKind) -> None: ...


def _know_of_none(_: Mark) -> bool:
    return False


class ControlServer:
    """All control sockets of the relay. Commands are executed one at a time, in order of arrival."""

    def __init__(
        self,
        addresses: Sequence[ControlAddress],
        clock: Clock,
        *,
        owner: Owner | None = None,
        mode: int | None = None,
        allowed: Sequence[Network] = (),
        is_abandoned: IsAbandoned = _know_of_none,
    ) -> None:
        """Unix socket files get `owner` and `mode` (permission bits) where given. Abandoned ones are replaced.

        Only hosts in the networks `allowed` may send commands over UDP and TCP; everybody if there are none.
        """
        self._addresses = addresses
        self._clock = clock
        self._owner = owner
        self._mode = mode
        self._is_abandoned = is_abandoned
        self._is_for_everybody = not allowed
        self._admission = Admission(allowed)
        self._cache = ReplyCache()
        self._opened: list[tuple[ControlAddress, socket.socket | None]] = []
        """Sockets that are not served yet; None is standard input and output."""
        self._listeners: list[_Listener] = []
        self._files: list[SocketFile] = []
        self.open_to_strangers: tuple[ControlAddress, ...] = ()
        """Those of the open sockets that hosts other than this one can reach, if any host may send commands."""

    async def open(self, bound: Sequence[int] = ()) -> None:
        """Open every socket; commands wait in them until `serve`.

        `bound` are descriptors of UDP sockets, which stay open: an address that one is bound to is served by it.
        Raises StartError, with all sockets closed again, if one cannot be opened.
        """
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._check_single()
            unused = list(bound)  # an address that is given twice must not be served twice
            for address in self._addresses:
                self._opened += await self._open(address, unused)
            if self._is_for_everybody:
                self.open_to_strangers = tuple(
                    address for address, opened in self._opened if opened is not None and not is_on_loopback(opened)
                )
            on_failure.pop_all()

    @property
    def opened(self) -> list[ControlAddress]:
        """The addresses of the sockets that are open and not served yet, also of those that were passed."""
        return [address for address, _ in self._opened]

    @property
    def endpoints(self) -> list[Endpoint]:
        """The addresses of the UDP and TCP sockets that are open and not served yet; the host may be 0.0.0.0 or ::."""
        names = [
            opened.getsockname()
            for _, opened in self._opened
            if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6)
        ]
        return [Endpoint(host, port) for host, port, *_ in names]

    @property
    def marks(self) -> list[Mark]:
        """What tells the socket files that `open` made from all others."""
        return [file.mark for file in self._files]

    def serve(
        self,
        on_command: OnCommand,
        *,
        on_duplicate: Callable[[], None] = _ignore_duplicate,
        on_end: Callable[[ControlKind], None] = _ignore_end,
    ) -> None:
        """Answer commands from now on, also those that came since `open`.

        `on_duplicate` is called for each command that is answered from the cache, `on_end` when standard input ends.
        """

        def execute(command: bytes, host: str) -> bytes:
            return on_command(command, self._clock(), host)

        loop = asyncio.get_running_loop()
        for address, opened in self._opened:
            if opened is None:
                listener: _Listener = StdioListener(loop, execute, functools.partial(on_end, address.kind))
            elif address.kind.is_datagram:
                listener = self._datagrams(loop, opened, execute, on_duplicate)
            else:
                listener = self._connections(loop, address.kind, opened, execute)
            self._listeners.append(listener)
        self._opened.clear()

    def stop(self) -> None:
        """Read no more commands, and answer those that were read; the sockets stay open. May be called again.

        What comes waits there, for a successor where a service manager keeps them. Nobody is refused before `close`.
        """
        for listener in self._listeners:
            listener.stop()

    def close(self) -> None:
        """Close sockets and connections; remove the socket files that `open` made. May be called again."""
        for _, opened in self._opened:
            if opened is not None:
                opened.close()
        for listener in self._listeners:
            listener.close()
        for file in self._files:
            file.remove()
        self._opened.clear()
        self._listeners.clear()
        self._files.clear()

    def _check_single(self) -> None:
        kinds = [address.kind for address in self._addresses]
        if kinds.count(ControlKind.SYSTEMD) > 1 or sum(kind.is_stdio for kind in kinds) > 1:
            raise StartError("control socket: standard input, and a service manager's sockets, can be given once only")

    async def _open(
        self, address: ControlAddress, bound: list[int]
    ) -> Sequence[tuple[ControlAddress, socket.socket | None]]:
        """Open one socket, or take over those that were passed."""
        if address.kind.is_stdio:
            return [(address, None)]
        if address.kind is ControlKind.SYSTEMD:
            return take_passed(os.environ)
        if address.kind.is_unix:
            listening, file = bind_unix(address, self._owner, self._mode, self._is_abandoned)
            self._files.append(file)
            return [(address, listening)]
        return [(address, await bind_internet(asyncio.get_running_loop(), address, bound))]

    def _datagrams(
        self, loop: AbstractEventLoop, opened: socket.socket, execute: Execute, on_duplicate: Callable[[], None]
    ) -> DatagramListener:
        return DatagramListener(
            *(loop, opened, execute, self._cache, self._clock, on_duplicate), admits=self._admission.admits
        )

    def _connections(
        self, loop: AbstractEventLoop, kind: ControlKind, opened: socket.socket, execute: Execute
    ) -> ConnectionListener:
        serve = serve_one_shot if kind in (ControlKind.UNIX, ControlKind.SYSTEMD) else serve_lines
        return ConnectionListener(loop, opened, serve, execute, admits=self._admission.admits)
