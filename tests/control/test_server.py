"""All control sockets together: started, served and closed (protocol.md 1.1). On both event loops."""

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rtpproxy.addr import parse_network
from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control import connections
from rtpproxy.control.datagrams import TURNS
from rtpproxy.control.server import ControlServer
from tests.control.serving import (
    DEADLINE_S,
    Echo,
    LoopFactory,
    address_of,
    ask_once,
    connect,
    connect_to,
    cunix,
    datagram_client,
    free,
    free_udp,
    read_lines,
    read_to_end,
    serving,
    unix,
)


def test_serves_several_sockets(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    once, lines, datagrams = tmp_path / "1", tmp_path / "2", free_udp()
    with (
        serving(loop_factory, echo, unix(once), cunix(lines), datagrams),
        connect(lines) as client,
        datagram_client(datagrams) as ask,
    ):
        client.sendall(b"a\n")
        assert read_lines(client, 1) == b"[a]\n"
        assert ask(b"c b") == b"c [ b]\n"
        assert ask_once(once, b"c") == b"[c]\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("hosts", "networks", "exposed"),
    [
        (("127.0.0.1", "::1"), (), ()),
        (("", "127.0.0.1", "::"), (), ("", "::")),
        (("", "::"), ("0.0.0.0/0",), ()),
    ],
)
def test_sockets_that_strangers_can_reach(
    loop_factory: LoopFactory, tmp_path: Path, hosts: Sequence[str], networks: Sequence[str], exposed: Sequence[str]
) -> None:
    """Those that are not on loopback, unless it is said whose commands are executed."""
    addresses = [unix(tmp_path / "s")]
    for host in hosts:
        kind = ControlKind.TCP6 if ":" in host else ControlKind.TCP
        addresses.append(replace(free(kind), host=host))

    async def open_and_close() -> tuple[ControlAddress, ...]:
        server = ControlServer(addresses, lambda: 0.0, allowed=tuple(map(parse_network, networks)))
        try:
            await server.open()
            return server.open_to_strangers
        finally:
            server.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert [one.host for one in runner.run(open_and_close())] == list(exposed)


def test_close_drops_clients(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    with contextlib.ExitStack() as clients:
        with serving(loop_factory, echo, unix(tmp_path / "1"), cunix(tmp_path / "2")):
            silent = clients.enter_context(connect(tmp_path / "1"))
            idle = clients.enter_context(connect(tmp_path / "2"))
            assert ask_once(tmp_path / "1", b"V") == b"[V]\n"
        assert (read_to_end(silent), read_to_end(idle)) == (b"", b"")


@pytest.mark.parametrize("kind", [ControlKind.UDP, ControlKind.UNIX, ControlKind.CUNIX, ControlKind.TCP])
def test_what_comes_after_a_stop_waits(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind
) -> None:
    """Nobody is refused, and nothing is read, before the sockets are closed."""
    address = address_of(kind, tmp_path)

    async def main() -> None:
        server = ControlServer([address], lambda: 0.0)
        await server.open()
        server.serve(echo.on_command)
        server.stop()
        with connect_to(address) as client:
            client.setblocking(False)
            client.send(b"cookie V\n")
            for _ in range(10):
                await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                client.recv(100)
            server.close()
            with contextlib.suppress(ConnectionError):
                client.send(b"cookie V\n")  # over UDP, the refusal comes with the next one
            with pytest.raises(ConnectionError):
                client.send(b"cookie V\n")
        assert echo.commands == []

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_client_that_has_just_connected_is_waited_for_at_a_stop(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was accepted before it could send its command."""
    monkeypatch.setattr(connections, "COMMAND_GRACE_S", DEADLINE_S)
    address = unix(tmp_path / "s")

    async def main() -> bytes:
        server = ControlServer([address], lambda: 0.0)
        await server.open()
        server.serve(echo.on_command)
        with contextlib.ExitStack() as stack:
            stack.callback(server.close)
            client = stack.enter_context(connect_to(address))
            # Both are accepted once the second one, which has sent its command, is answered.
            assert await asyncio.to_thread(ask_once, tmp_path / "s", b"V") == b"[V]\n"
            sending = threading.Timer(0.05, client.sendall, [b"late"])
            sending.start()
            server.stop()
            sending.join()
            return read_to_end(client)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == b"[late]\n"


@pytest.mark.parametrize("kind", [ControlKind.CUNIX, ControlKind.TCP])
def test_lines_that_were_read_are_answered_at_a_stop(
    loop_factory: LoopFactory, tmp_path: Path, kind: ControlKind
) -> None:
    address = address_of(kind, tmp_path)

    async def main() -> bytes:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        server = ControlServer([address], lambda: 0.0)

        def stop() -> None:
            server.stop()
            stopped.set()

        def on_command(command: bytes, now: float, host: str) -> bytes:
            if command == b"1":
                loop.call_soon(stop)  # before the next line gets its turn
            return b"[%b]\n" % command

        await server.open()
        with contextlib.ExitStack() as stack:
            stack.callback(server.close)
            client = stack.enter_context(connect_to(address))
            client.sendall(b"1\n2\n3\n4")
            server.serve(on_command)
            await asyncio.wait_for(stopped.wait(), DEADLINE_S)
            return read_to_end(client)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == b"[1]\n[2]\n[3]\n"


def test_command_of_an_accepted_connection_is_answered_at_a_stop(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path
) -> None:
    """Its successor cannot have the connection."""
    address = unix(tmp_path / "s")

    async def main() -> tuple[bytes, bytes]:
        server = ControlServer([address], lambda: 0.0)
        await server.open()
        server.serve(echo.on_command)
        with contextlib.ExitStack() as stack:
            stack.callback(server.close)
            late, silent = (stack.enter_context(connect_to(address)) for _ in range(2))
            # All three are accepted once the last one, which has sent its command, is answered.
            last = stack.enter_context(connect_to(address))
            last.sendall(b"last")
            assert await asyncio.wait_for(asyncio.to_thread(read_to_end, last), DEADLINE_S) == b"[last]\n"
            late.sendall(b"late")
            server.stop()
            return read_to_end(late), read_to_end(silent)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == (b"[late]\n", b"")


@pytest.mark.parametrize(
    ("kind", "most"),
    [(ControlKind.UNIX, 1), (ControlKind.CUNIX, 1), (ControlKind.TCP, 1), (ControlKind.UDP, TURNS)],
)
def test_media_wait_for_few_commands(loop_factory: LoopFactory, tmp_path: Path, kind: ControlKind, most: int) -> None:
    """Other sockets of the event loop get their turn after so many commands, even if more are waiting."""
    address = unix(tmp_path / "s", kind) if kind.is_unix else free(kind)
    count = 60
    happened: list[str] = []

    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        media_in, media_out = socket.socketpair(type=socket.SOCK_DGRAM)

        def on_media() -> None:
            happened.append(media_in.recv(10).decode())
            if happened.count("command") == count:
                done.set()

        def on_command(command: bytes, now: float, host: str) -> bytes:
            happened.append("command")
            media_out.send(b"media")
            return b"0\n"

        loop.add_reader(media_in, on_media)
        server = ControlServer([address], lambda: 0.0)
        await server.open()
        server.serve(on_command)
        with media_in, media_out, contextlib.ExitStack() as stack:
            stack.callback(server.close)
            pile_up(stack, address, count)
            await asyncio.wait_for(done.wait(), DEADLINE_S)
            loop.remove_reader(media_in)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert happened.count("command") == count
    # The socket of the media may come right before or right after that of the commands in a round.
    longest = max(len(list(run)) for what, run in itertools.groupby(happened) if what == "command")
    assert longest <= 2 * most


def pile_up(stack: contextlib.ExitStack, address: ControlAddress, count: int) -> None:
    """Send so many commands before the first is read."""
    is_one_shot = address.kind is ControlKind.UNIX
    clients = [stack.enter_context(connect_to(address)) for _ in range(count if is_one_shot else 2)]
    for number in range(count):
        clients[number % len(clients)].sendall(b"c%d\n" % number)
