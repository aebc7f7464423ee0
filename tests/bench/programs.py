"""Programs with the command line of an RTPproxy, ours or another, that are started for a measurement."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.priority import put_first
from tests.waiting import wait_for

RELAY_CPU = 1
REPLY_DEADLINE_S = 60.0
_START_DEADLINE_S = 60.0


@contextlib.contextmanager
def started(
    command: str, options: str, popen: Callable[..., subprocess.Popen] = subprocess.Popen
) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start the program on the relay's core, in the foreground, and wait until it answers; with its control socket."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = str(directory / "sock")
        log = stack.enter_context((directory / "log").open("wb"))
        more = ["-f", "-F", *options.split(), "-s", f"unix:{path}", "-p", str(directory / "pid")]
        process = popen([*shlex.split(command), *more], stdout=log, stderr=log)
        stack.callback(_end, process)
        wait_for(lambda: process.poll() is not None or _is_up(path), _START_DEADLINE_S, f"{command} to start")
        assert process.poll() is None, (directory / "log").read_text()
        pin(process)
        yield process, path


def pin(process: subprocess.Popen) -> None:
    """Keep all threads of a process on the relay's core, and let them go first there."""
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        os.sched_setaffinity(int(thread), {RELAY_CPU})
    put_first(process.pid)


def ask_unix(path: str, command: bytes) -> bytes:
    """Ask one command over a connection of its own."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(REPLY_DEADLINE_S)
        client.connect(path)
        client.send(command)
        reply = b""
        while part := client.recv(4096):
            reply += part
    return reply


def _is_up(path: str) -> bool:
    with contextlib.suppress(OSError):
        return ask_unix(path, b"V\n") == b"20040107\n"
    return False


def _end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(REPLY_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
