"""A flood of set-ups: with `--overload_prot` new sessions are refused while it lasts, and calls that exist are not."""

import itertools
import socket
import threading

import pytest

from tests.running import RunningRelay, own_namespace
from tests.waiting import DEADLINE_S, wait_for

AT_ONCE = 200
"""Calls that are set up and ended in one part of the flood; the relay always has some of them to do."""


class Setups:
    """Sends commands for new calls as fast as the relay takes them, and notes what is answered; a context manager."""

    def __init__(self, path):
        self.answers = set()
        """Without ports."""
        self._is_over = threading.Event()
        self._client = socket.socket(socket.AF_UNIX)
        self._client.connect(str(path))
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _send(self):
        for part in itertools.count():
            names = [f"flood{part}-{number}" for number in range(AT_ONCE)]
            lines = [f"U {name} 127.0.0.1 4000 f\nD {name} f\n" for name in names]
            self._client.sendall("".join(lines).encode())
            if self._is_over.is_set():
                self._client.shutdown(socket.SHUT_WR)
                return

    def _receive(self):
        rest = b""
        while data := self._client.recv(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            self.answers |= {line for line in lines if line[:1] == b"E" or line == b"0"}


@pytest.mark.root
def test_a_flood_of_setups_is_refused_while_it_lasts(tmp_path):
    options = ("-l", "127.0.0.1", "--ports", "bound", "--overload_prot")
    path = tmp_path / "lines.sock"
    with own_namespace(), RunningRelay(tmp_path, *options, "-s", f"cunix:{path}") as relay:
        callee = relay.port("U call 127.0.0.1 4000 f")
        caller = relay.port("L call 127.0.0.1 5000 f t")
        with Setups(path) as setups:
            wait_for(lambda: b"E98" in setups.answers, DEADLINE_S, "a new session to be refused")
            assert relay.port("L call 127.0.0.1 5000 f t") == caller
            assert relay.port("U call 127.0.0.1 4000 f t") == callee
            assert relay.ask("Q call f t").startswith("60 0 0 0 0")
        assert setups.answers == {b"0", b"E50", b"E98"}
        numbers = itertools.count()
        ask = lambda: relay.ask(f"U next{next(numbers)} 127.0.0.1 4000 f")  # noqa: E731
        wait_for(lambda: ask() != "E98", DEADLINE_S, "new sessions to be accepted again")
        assert relay.ask("D call f") == "0"
