"""Looks up the address of a host in a thread, because a name server that does not answer must hold nobody up."""

import socket
import threading
from typing import NamedTuple


class Found(NamedTuple):
    """One address to connect to, with the family of its socket."""

    family: socket.AddressFamily
    address: tuple[object, ...]


class Lookup:
    """One look-up, under way or done."""

    def __init__(self, host: str, port: int, kind: socket.SocketKind) -> None:
        """Begin it. A numeric host is done at once."""
        self._query = host, port, kind
        self._found: list[Found] = []
        self._why = ""
        self._is_done = threading.Event()
        try:
            self._ask(socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):  # the latter for a name that is none
            self._start()
        else:
            self._is_done.set()

    @property
    def is_done(self) -> bool:
        """True once there is a result."""
        return self._is_done.is_set()

    def result(self) -> tuple[list[Found], str]:
        """Return the addresses, the best first; where there are none, why not."""
        return self._found, self._why

    def _start(self) -> None:
        try:
            # A daemon: whoever waits for a name server must not keep the process from ending.
            threading.Thread(target=self._run, name="rtpproxy-resolve", daemon=True).start()
        except RuntimeError as error:
            self._why = f"no thread can be started: {error}"
            self._is_done.set()

    def _run(self) -> None:
        try:
            self._ask(0)
        except (OSError, UnicodeError) as error:
            self._why = getattr(error, "strerror", None) or str(error)
        finally:
            self._is_done.set()

    def _ask(self, flags: int) -> None:
        host, port, kind = self._query
        found = socket.getaddrinfo(host, port, type=kind, flags=flags)
        self._found = [Found(family, address) for family, _, _, _, address in found]
