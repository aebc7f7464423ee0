"""Asks this machine about its interfaces and addresses, and keeps its UDP silent where phones have its addresses."""

import contextlib
import ctypes
import errno
import resource
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_SO_ATTACH_FILTER = 26
_TAKE_NOTHING = (0x06, 0, 0, 0)
"""Classic BPF: `ret #0`."""
_FILES_FOR_THE_REST = 256


def is_own_address(address: str) -> bool:
    """Tell whether this host has an address."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


@contextlib.contextmanager
def silenced(places: Iterable[tuple[str, int]]) -> Iterator[None]:
    """Keep these ports of this host bound, by sockets that take nothing, so that nobody answers "port unreachable".

    Raises OSError where a port is in use.
    """
    places = list(places)
    instruction = ctypes.create_string_buffer(struct.pack("@HBBI", *_TAKE_NOTHING))
    program = struct.pack("@HxxxxxxP", 1, ctypes.addressof(instruction))
    with _files(len(places) + _FILES_FOR_THE_REST), contextlib.ExitStack() as stack:
        for address, port in places:
            silent = stack.enter_context(socket.socket(_family(address), socket.SOCK_DGRAM))
            silent.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            silent.bind((address, port))
        yield


@contextlib.contextmanager
def _files(count: int) -> Iterator[None]:
    """Let this process have so many open files, if it may; as before afterwards, and never fewer than before."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != before < count:
        allowed = count if most == resource.RLIM_INFINITY else min(count, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def drops_of(interface: str) -> int:
    """Frames that an interface dropped on their way out, since it was made."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip() == interface:
            return int(counters.split()[11])
    return 0


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
