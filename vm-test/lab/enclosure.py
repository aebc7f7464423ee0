"""Runs a command in namespaces of its own, which end with it: nothing that it starts or sets up can be left behind.

Processes end with the first one (`first.py`), interfaces and mounts with the last process. Whoever is not root becomes
root inside (user_namespaces(7)); `newuidmap` gives it the further ids of a system's files.
"""

import contextlib
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

GRACE_S = 20.0
"""After Ctrl-C, which the terminal tells the command as well: it has so long to say what it knows."""
_FIRST = Path(__file__).with_name("first.py")


class DeadlineError(Exception):
    """An enclosed command took too long."""


@contextlib.contextmanager
def started(
    args: Sequence[str | Path],
    *,
    net: bool = False,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as root in namespaces of its own, with `net` of the network, too. All of it ends with the block."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", *(["--net"] if net else [])]
    if os.geteuid() != 0:
        unshare += ["--map-root-user", "--map-auto"]
    reading, writing = os.pipe()
    command = [*unshare, "--", sys.executable, str(_FIRST), str(reading), *map(str, args)]
    stdin = subprocess.DEVNULL if output else None
    try:
        try:
            process = subprocess.Popen(command, env=env, pass_fds=[reading], stdin=stdin, stdout=output, stderr=output)
        finally:
            os.close(reading)
        try:
            yield process
        finally:
            os.close(writing)
            writing = -1
            process.wait()
    finally:
        if writing >= 0:
            os.close(writing)


def run(
    args: Sequence[str | Path], *, net: bool = False, deadline_s: float | None, env: Mapping[str, str] | None = None
) -> int:
    """Run a command so, and wait for it; its exit status. DeadlineError after `deadline_s`, when all of it was ended.

    None: it has all the time that it wants.
    """
    with _terminal_kept(), _ended_by_signals(), started(args, net=net, env=env) as process:
        try:
            return process.wait(deadline_s)
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(GRACE_S)
            raise
        except subprocess.TimeoutExpired:
            raise DeadlineError(f"not at its end after {deadline_s} s") from None


def remove(directory: Path) -> None:
    """Remove a directory with all in it, of which a user who is not root may own only what is seen from inside."""
    with started(["rm", "-rf", "--one-file-system", directory]) as process:
        status = process.wait()
    if status:
        raise OSError(f"{directory} cannot be removed")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave the block, with the exit status that a shell expects."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Put the terminal back as it was: a command that is killed leaves it raw."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
