"""Port numbers for tests of an ordinary user, whose worker processes share the host's network.

Tests that need numbers of their own choice have these: 20000 to 20400 the transcripts, 24000 to 25999 those of
tests/clients, 26000 to 27999 others. The mark `xdist_group` keeps those that use the same in one worker.
"""

import errno
import itertools
import os
import socket

_FIRST, _SHARE, _SHARES = 11000, 1000, 8
"""Below the numbers that the kernel gives away itself, which are free one moment and taken the next."""
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
_numbers = itertools.cycle(range(_FIRST + _worker * _SHARE, _FIRST + (_worker + 1) * _SHARE))


def free_port(host: str, kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port of `host`, an IP address, that no socket has, no other worker will take, and this one not soon again."""
    while True:
        port = next(_numbers)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        return port
