"""All control sockets together: started, served and closed (protocol.md 1.1). On both event loops."""

import contextlib
from pathlib import Path

from tests.control.serving import (
    Echo,
    LoopFactory,
    ask_once,
    connect,
    cunix,
    datagram_client,
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


def test_close_drops_clients(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    with contextlib.ExitStack() as clients:
        with serving(loop_factory, echo, unix(tmp_path / "1"), cunix(tmp_path / "2")):
            silent = clients.enter_context(connect(tmp_path / "1"))
            idle = clients.enter_context(connect(tmp_path / "2"))
            assert ask_once(tmp_path / "1", b"V") == b"[V]\n"
        assert (read_to_end(silent), read_to_end(idle)) == (b"", b"")
