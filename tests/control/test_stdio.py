"""Standard input and output as a control socket, in a process of its own (protocol.md 1.1, 1.3)."""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings

from tests.control.serving import (
    CHUNKS,
    DEADLINE_S,
    LOOP_FACTORIES,
    answers,
    read_lines,
)
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


LOOP_NAMES = pytest.mark.parametrize("loop_name", LOOP_FACTORIES)


@contextlib.contextmanager
def served(loop_name: str, address: str, **streams_of_it) -> Iterator[subprocess.Popen]:
    """Run a process that serves its standard input; afterwards it must have ended by itself."""
    command = [sys.executable, "-m", "tests.control.served", loop_name, address]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, **streams_of_it)
    try:
        assert process.stderr.readline() == b"ready\n"
        yield process
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@LOOP_NAMES
@pytest.mark.parametrize("kind", ["stdio", "stdioc"])
def test_stdio_pipes(loop_name: str, kind: str) -> None:
    with served(loop_name, f"{kind}:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"one\ntwo\r\n\nthr")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(3)] == [b"[one]\n", b"[two\r]\n", b"[]\n"]
        process.stdin.write(b"ee\nlast without LF")
        process.stdin.close()
        assert process.stdout.read() == b"[three]\n"
        assert process.stderr.read() == b"end of %b\n" % kind.encode()


@LOOP_NAMES
def test_stdio_pipes_that_are_slow(loop_name: str) -> None:
    """More commands than the pipes hold, and nobody reads at first: all are answered in the end."""
    count = 40_000
    with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def send() -> None:
            process.stdin.write(b"command\n" * count)
            process.stdin.close()

        sender = threading.Thread(target=send)
        sender.start()
        wait_for(lambda: is_full(process.stdout), DEADLINE_S, "a full pipe")
        assert process.stdout.read() == b"[command]\n" * count
        sender.join(DEADLINE_S)
        assert not sender.is_alive()


def is_full(pipe: IO[bytes]) -> bool:
    waiting = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
    return waiting > 60_000


@LOOP_NAMES
def test_stdio_files(loop_name: str, tmp_path: Path) -> None:
    """A regular file, which cannot be waited for, is read to its end all the same."""
    commands, replies = tmp_path / "commands", tmp_path / "replies"
    commands.write_bytes(b"".join(b"%d\n" % number for number in range(5000)))
    with (
        commands.open("rb") as source,
        replies.open("wb") as target,
        served(loop_name, "stdioc:", stdin=source, stdout=target) as process,
    ):
        assert process.stderr.read() == b"end of stdioc\n"
    assert replies.read_bytes() == b"".join(b"[%d]\n" % number for number in range(5000))


@LOOP_NAMES
def test_stdio_nothing(loop_name: str) -> None:
    with served(loop_name, "stdio:", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        assert process.stderr.read() == b"end of stdio\n"


@LOOP_NAMES
def test_stdio_terminal(loop_name: str) -> None:
    """It is left as it was found: blocking, for the shell that goes on using it."""
    controller, terminal = os.openpty()
    try:
        tty.setraw(terminal)
        with served(loop_name, "stdio:", stdin=terminal, stdout=terminal) as process:
            assert not os.get_blocking(terminal)
            os.write(controller, b"one\n")
            assert os.read(controller, 100) == b"[one]\n"
            process.terminate()
        assert os.get_blocking(terminal)
    finally:
        os.close(controller)
        os.close(terminal)


@LOOP_NAMES
def test_stdio_socket(loop_name: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, served(loop_name, "stdioc:", stdin=theirs, stdout=theirs) as process:
        ours.settimeout(DEADLINE_S)
        ours.sendall(b"one\ntwo\n")
        assert read_lines(ours, 2) == b"[one]\n[two]\n"
        ours.shutdown(socket.SHUT_WR)
        assert process.stderr.read() == b"end of stdioc\n"


@LOOP_NAMES
def test_stdio_reader_that_went_away(loop_name: str) -> None:
    """Serving ends, too, when nobody can read the replies any more."""
    with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stderr.read() == b"end of stdio\n"


@LOOP_NAMES
def test_stdio_line_limit(loop_name: str) -> None:
    with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"x" * 8191 + b"\n" + b"x" * 8192)
        process.stdin.flush()
        assert process.stdout.read() == b"[%b]\n" % (b"x" * 8191)


@LOOP_NAMES
def test_any_bytes_on_stdio(loop_name: str) -> None:
    @settings(max_examples=8, deadline=None)
    @given(CHUNKS)
    def check(chunks: list[bytes]) -> None:
        with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            for chunk in chunks:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(chunk)
                    process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            assert process.stdout.read() == answers(b"".join(chunks))
            assert process.stderr.read() == b"end of stdio\n"

    check()
