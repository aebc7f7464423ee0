"""Starts programs as a service manager does: with sockets that it opened and keeps (sd_listen_fds(3))."""

import socket
import sys
from collections.abc import Sequence
from typing import IO

_ACTIVATE = """
import fcntl, os, sys
numbers, count, pid, *command = sys.argv[1:]
kept = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 100) for number in numbers.split()]
for number in numbers.split():
    os.close(int(number))
for place, number in enumerate(kept, 3):
    os.dup2(number, place)
os.environ.update(LISTEN_FDS=count, LISTEN_PID=pid or str(os.getpid()))
os.execv(command[0], command)
"""
"""A program that becomes another one, whose descriptors from 3 on are those that it was given."""


def descriptors(passed: Sequence[socket.socket | IO]) -> tuple[int, ...]:
    """For `pass_fds` of whoever starts the command."""
    return tuple(one.fileno() for one in passed)


def activating(passed: Sequence[socket.socket | IO], count: str = "", pid: str = "") -> list[str]:
    """The beginning of a command line that passes sockets to the program whose path follows.

    LISTEN_FDS is their number and LISTEN_PID the program's, unless told otherwise.
    """
    numbers = " ".join(map(str, descriptors(passed)))
    return [sys.executable, "-I", "-S", "-c", _ACTIVATE, numbers, count or str(len(passed)), pid]
