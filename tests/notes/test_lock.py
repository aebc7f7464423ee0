"""A lock that others can see, that only who may write can hold, and that goes with its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtpproxy.notes import lock
from tests.notes.conftest import NOBODY


@pytest.fixture
def opened(public):
    """Opens the same file again and again."""
    fds = []
    path = public / "file"
    path.touch()

    def open_it(flags=os.O_RDWR):
        fds.append(os.open(path, flags))
        return fds[-1]

    yield open_it
    for fd in fds:
        os.close(fd)


def test_one_open_file_has_it(opened):
    one, other, reader = opened(), opened(), opened(os.O_RDONLY)
    assert not lock.is_taken(reader, 0)
    assert lock.take(one, 0)
    assert lock.is_taken(reader, 0)
    assert not lock.take(other, 0)
    lock.release(one, 0)
    assert not lock.is_taken(reader, 0)
    assert lock.take(other, 0)


def test_bytes_are_apart(opened):
    one, other = opened(), opened()
    assert lock.take(one, lock.ALIVE)
    assert lock.take(other, lock.CLEARING)
    assert lock.is_taken(other, lock.ALIVE)
    assert not lock.is_taken(other, lock.CLEARING)


def test_who_may_only_read_cannot_hold_it(opened):
    reader = opened(os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock.take(reader, 0)
    assert not lock.is_taken(opened(), 0)


HOLD_ALL_THAT_CAN_BE_HELD = """
import fcntl, struct, sys
file = open(sys.argv[1])
for command, kind in ((fcntl.F_OFD_SETLK, fcntl.F_RDLCK), (fcntl.F_SETLK, fcntl.F_RDLCK)):
    fcntl.fcntl(file, command, struct.pack("@hhqqi0q", kind, 0, 0, 0, 0))
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.root
def test_locks_that_a_reader_can_hold_do_not_count(public, opened):
    """`nobody` may read the file, and holds every lock that the kernel grants for that."""
    command = [sys.executable, "-c", HOLD_ALL_THAT_CAN_BE_HELD, str(public / "file")]
    fd = opened()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=NOBODY) as process:
        try:
            assert process.stdout.readline() == "held\n"
            assert not lock.is_taken(fd, 0)
            assert not lock.take(fd, 0)
            assert lock.take_from_readers(fd, 0)
        finally:
            process.kill()


def test_taking_from_readers(opened):
    one, other, reader = opened(), opened(), opened(os.O_RDONLY)
    assert lock.take_from_readers(reader, 0)
    assert lock.take_from_readers(one, 0)
    assert lock.is_taken(other, 0)
    assert not lock.take_from_readers(other, 0)
    assert not lock.take_from_readers(reader, 0)


HOLD = """
import os, sys
from rtpproxy.notes import lock
print(lock.take(os.open(sys.argv[1], os.O_RDWR), 0), flush=True)
sys.stdin.read()
"""


def test_it_goes_with_a_killed_process(public, opened):
    fd = opened()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(public / "file")],
        *(-1, None, subprocess.PIPE, subprocess.PIPE),
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout.readline() == "True\n"
            assert lock.is_taken(fd, 0)
        finally:
            process.kill()
    assert not lock.is_taken(fd, 0)
