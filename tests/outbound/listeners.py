"""An event loop to send from, and listeners to send to."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable

from rtpproxy.addr import Endpoint
from rtpproxy.cli.arguments import parse_notify_target
from rtpproxy.outbound.channel import Address
from tests.waiting import DEADLINE_S

TICK_S = 0.005
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Running:
    """A loop in a thread of its own, with a callback that ticks as long as nothing blocks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.at_end = contextlib.ExitStack()
        """Closed in the loop's thread when the test is over."""
        self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1
        self.loop.call_later(TICK_S, self.tick)

    def call(self, what, *arguments):
        """Call `what` in the loop's thread; its result."""

        async def run():
            return what(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(DEADLINE_S)


class Controller:
    """A listening socket, and the connections that it accepted."""

    def __init__(self, family: int, address: object, backlog: int = 64) -> None:
        self.listening = socket.socket(family, socket.SOCK_STREAM)
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listening.settimeout(DEADLINE_S)
        self.listening.bind(address)
        self.listening.listen(backlog)
        self.clients: list[socket.socket] = []

    @property
    def port(self) -> int:
        return self.listening.getsockname()[1]

    def accept(self) -> "Client":
        client, _ = self.listening.accept()
        client.settimeout(DEADLINE_S)
        self.clients.append(client)
        return Client(client)

    def close(self) -> None:
        self.listening.close()
        for client in self.clients:
            client.close()


class Client:
    """One accepted connection, read by lines."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._file = connection.makefile("rb")

    def lines(self, count: int) -> list[bytes]:
        return [self._file.readline() for _ in range(count)]

    def rest(self) -> bytes:
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self.connection.close()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Side:
    """A target of one kind, and the listener behind it, which may go away and come back."""

    def __init__(self, controllers, family: int, address: object) -> None:
        self._controllers = controllers
        self._family = family
        self._address = address
        self.listen()
        if family == socket.AF_UNIX:
            self.target = parse_notify_target(f"unix:{address}")
            self.address: Address = str(address)
        else:
            self._address = self.controller.listening.getsockname()
            self.target = parse_notify_target(f"tcp:{address[0]}:{self.controller.port}")
            self.address = Endpoint(*self._address[:2])

    def listen(self, backlog: int = 64) -> None:
        self.controller = self._controllers(self._family, self._address, backlog)

    def stop(self) -> None:
        self.controller.close()
        if self._family == socket.AF_UNIX:
            os.unlink(self._address)


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        # The descriptor by which the directory was read is closed by now.
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def tags(count, start=0):
    return [b"call %d" % number for number in range(start, start + count)]


def texts(caplog):
    return [record.getMessage() for record in caplog.records]
