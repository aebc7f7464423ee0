"""Clients of every transport that ask random things at once, each checking that what it is told was meant for it.

Every client has call-ids of its own and a model of them, so a reply to another command or client is a wrong one.
"""

import re
import socket
from abc import ABC, abstractmethod
from collections import deque
from random import Random

from tests.hostile.commands import Address, Command, Generator, World
from tests.hostile.model import Model
from tests.waiting import DEADLINE_S

IN_FLIGHT = 8
CALLS = 12
_INFO_LINES = {"Ib": 5, "Il": 6}


class SharedModel(Model):
    """The sessions of one client among others: they have ports, too, so any free one may be had, or none."""

    def _take(self, local: Address, line: str, refusal: str) -> tuple[Address, int] | None:
        joined = self.world.join(local)
        if line == refusal:
            return None
        assert joined is not None, "a port was given on an address that is not ours"
        shape = re.fullmatch(rf"(\d+){re.escape(joined.suffix)}", line)
        assert shape, line
        port = int(shape[1])
        assert port in self._ports
        assert (joined.space, port) not in self.held
        return joined, port


class Client(ABC):
    """One sender of random commands. Nothing is sent before `run`."""

    def __init__(self, name: str, rng: Random, world: World, ports: range) -> None:
        self.name = name
        self.rng = rng
        self.model = SharedModel(world, ports, setup_s=1e6, idle_s=1e6)
        calls = [f"{name}-{number}" for number in range(CALLS)]
        self._generator = Generator(rng, world, calls=calls, timeouts=(300, 400))

    @abstractmethod
    def run(self, count: int) -> None:
        """Send so many commands and check what comes back."""

    def _next(self) -> Command:
        command = self._generator.next()
        while command.kind == "X":  # others' sessions would end, too
            command = self._generator.next()
        command.has_default_counters = False  # time passes as it likes
        return command

    def _check(self, command: Command, reply: bytes) -> None:
        text = reply.decode()
        assert text.endswith("\n"), reply
        try:
            self.model.check(command, text[:-1], 0.0)
        except AssertionError as error:
            raise AssertionError(f"{self.name}: {command.text!r} -> {reply!r}: {error}") from error


class OneShotClient(Client):
    """A connection a command (`unix:`)."""

    def __init__(self, name: str, rng: Random, world: World, ports: range, path: str) -> None:
        super().__init__(name, rng, world, ports)
        self._path = path

    def run(self, count: int) -> None:
        for _ in range(count):
            command = self._next()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(DEADLINE_S)
                client.connect(self._path)
                client.sendall(_encoded(command) or b"\n")
                reply = b""
                while part := client.recv(8192):
                    reply += part
            self._check(command, reply)


class LineClient(Client):
    """A connection for all commands, several of which are under way (`cunix:`, `tcp:`)."""

    def __init__(self, name: str, rng: Random, world: World, ports: range, connection: socket.socket) -> None:
        super().__init__(name, rng, world, ports)
        connection.settimeout(DEADLINE_S)
        self._connection = connection
        self._lines: deque[bytes] = deque()
        self._rest = b""

    def run(self, count: int) -> None:
        while count:
            batch = [self._next() for _ in range(min(count, self.rng.randint(1, IN_FLIGHT)))]
            data = b"".join(_encoded(command) + b"\n" for command in batch)
            cut = self.rng.randrange(len(data))
            self._connection.sendall(data[:cut])
            self._connection.sendall(data[cut:])
            for command in batch:
                self._check(command, self._read(_INFO_LINES.get(command.text, 1)))
            count -= len(batch)
        assert not self._lines
        assert not self._rest

    def _read(self, lines: int) -> bytes:
        while len(self._lines) < lines:
            data = self._connection.recv(65536)
            assert data, "hung up"
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(whole)
        return b"\n".join(self._lines.popleft() for _ in range(lines)) + b"\n"


class DatagramClient(Client):
    """Datagrams with cookies, several under way, some sent twice (`udp:`)."""

    def __init__(self, name: str, rng: Random, world: World, ports: range, connection: socket.socket) -> None:
        super().__init__(name, rng, world, ports)
        connection.settimeout(DEADLINE_S)
        self._connection = connection
        self._number = 0

    def run(self, count: int) -> None:
        while count:
            batch = [self._next() for _ in range(min(count, IN_FLIGHT))]
            expected: deque[tuple[bytes, Command, int]] = deque()
            for command in batch:
                self._number += 1
                cookie = f"{self.name}_{self._number}".encode()
                times = 1 if self.rng.randrange(20) else 2
                for _ in range(times):
                    self._connection.send(cookie + b" " + _encoded(command))
                expected.append((cookie, command, times))
            for cookie, command, times in expected:
                replies = {self._connection.recv(8192) for _ in range(times)}
                assert len(replies) == 1, f"a repeated command was answered otherwise: {replies}"
                got, _, reply = replies.pop().partition(b" ")
                assert got == cookie, f"{got!r} came where {cookie!r} was due"
                self._check(command, reply)
            count -= len(batch)


class RudeClient(Client):
    """Connects, says half a line, or all of it and does not wait for the answer; changes no session."""

    def __init__(self, name: str, rng: Random, world: World, ports: range, paths: tuple[str, ...]) -> None:
        super().__init__(name, rng, world, ports)
        self._paths = paths

    def run(self, count: int) -> None:
        for _ in range(count):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(DEADLINE_S)
                client.connect(self.rng.choice(self._paths))
                client.sendall(self.rng.choice((b"V", b"Q ", b"V\nV\nV\n", b"Z" * 9000, b"", b"\0\n", b"Ib\n" * 500)))


def _encoded(command: Command) -> bytes:
    return command.text.encode("latin-1")
