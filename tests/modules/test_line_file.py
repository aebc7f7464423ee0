"""Whole lines in a file that others write to, move, remove and fill, on real files."""

import contextlib
import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.modules.line_file import LineFile
from tests.waiting import DEADLINE_S

HEADER = b"one,two\n"
NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lines"


@contextlib.contextmanager
def opened(path, owner=None, header=HEADER):
    file = LineFile(str(path), header, owner)
    file.open()
    try:
        yield file
    finally:
        file.close()


@pytest.fixture
def file(path):
    with opened(path) as file:
        yield file


def test_lines_under_one_header(file, path):
    assert path.read_bytes() == HEADER
    assert file.append([b"1,2\n", b"3,4\n"]) == 2
    with opened(path) as other:
        assert other.append([b"5,6\n"]) == 1
    assert file.append([b"7,8\n"]) == 1
    assert path.read_bytes() == HEADER + b"1,2\n3,4\n5,6\n7,8\n"


def test_a_file_that_was_moved_is_replaced(file, path, tmp_path):
    file.append([b"1,2\n"])
    path.rename(tmp_path / "moved")
    assert file.append([b"3,4\n"]) == 1
    path.rename(tmp_path / "again")
    path.write_bytes(b"")  # as `create` of logrotate makes it
    assert file.append([b"5,6\n"]) == 1
    path.unlink()
    assert file.append([b"7,8\n"]) == 1
    contents = [one.read_bytes() for one in (tmp_path / "moved", tmp_path / "again", path)]
    assert contents == [HEADER + b"1,2\n", HEADER + b"3,4\n", HEADER + b"7,8\n"]


def test_a_file_that_was_emptied_gets_a_header(file, path):
    file.append([b"1,2\n"])
    os.truncate(path, 0)
    file.append([b"3,4\n"])
    assert path.read_bytes() == HEADER + b"3,4\n"


def test_a_line_in_a_file_that_is_being_removed_is_not_lost(path):
    class Overtaken(LineFile):
        """Is told of the removal too late."""

        def _is_in_place(self):
            return self._descriptor >= 0

    file = Overtaken(str(path), HEADER, None)
    file.open()
    path.unlink()
    assert file.append([b"1,2\n"]) == 0
    file.close()
    assert file.append([b"1,2\n"]) == 1
    assert path.read_bytes() == HEADER + b"1,2\n"
    file.close()


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", HEADER),
        (b"o", HEADER),
        (HEADER[:-1], HEADER),
        (HEADER + b"1,2\n3,", HEADER + b"1,2\n"),
        (HEADER + b"3", HEADER),
        (HEADER + b"1,2\n" + b"x" * 60_000, HEADER + b"1,2\n"),
    ],
)
def test_what_a_killed_program_left_is_mended(path, before, kept, caplog):
    path.write_bytes(before)
    with opened(path) as file, caplog.at_level(logging.WARNING):
        file.append([b"5,6\n"])
        assert path.read_bytes() == kept + b"5,6\n"
        # Also what another one leaves later.
        with path.open("ab") as other:
            other.write(b"7,")
        file.append([b"8,9\n"])
        assert path.read_bytes() == kept + b"5,6\n8,9\n"
    assert caplog.messages[-1] == f"{path}: half a line was cut off, 2 bytes"


@pytest.mark.parametrize("before", [b"x", b"one;two\n1;2\n", b"root:x:0:0\n", HEADER + b"x" * 70_000])
def test_a_file_of_something_else_is_left_alone(path, before):
    path.write_bytes(before)
    file = LineFile(str(path), HEADER, None)
    with pytest.raises(OSError, match="move it away"):
        file.open()
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="move it away"):
        file.append([b"1,2\n"])
    path.unlink()
    assert file.append([b"1,2\n"]) == 1
    file.close()


def test_paths_that_hold_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "no" / "where", "No such file or directory"),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the reason is compared whole
            LineFile(str(path), HEADER, None).open()
        assert caught.value.strerror == reason


def test_no_descriptor_is_left(file, path, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        path.rename(tmp_path / f"moved{number}")
        file.append([b"1,2\n"])
        path.write_bytes(b"another")
        with pytest.raises(OSError, match="move it away"):
            LineFile(str(path), HEADER, None).open()
        path.unlink()
        file.append([b"1,2\n"])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.root
def test_the_owner_of_what_root_makes(path, tmp_path):
    with opened(path, owner=(NOBODY, NOBODY)):
        assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
    theirs = tmp_path / "theirs"
    theirs.write_bytes(HEADER)
    with opened(theirs, owner=(NOBODY, NOBODY)):
        assert theirs.stat().st_uid == os.geteuid()


# Room


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 pages."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "lines", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


LINE = b"x" * 99 + b"\n"


def fill(file):
    """Append until there is no room. Returns how many lines were written."""
    written = 0
    while count := append_all(file, 7):
        written += count
    return written


def append_all(file, count):
    try:
        return file.append([LINE] * count)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0


@pytest.mark.root
def test_a_full_disk_gets_no_half_line(small_disk):
    path = small_disk / "lines"
    with opened(path) as file:
        written = fill(file)
        assert 600 < written < 656
        assert path.read_bytes() == HEADER + LINE * written
        assert append_all(file, 1) == 0
        # A full disk has no room for another file's header, either.
        path.rename(small_disk / "moved")
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as full:
            full.write(bytes(1 << 20))
        assert append_all(file, 1) == 0
        assert path.read_bytes() == b""
        (small_disk / "moved").unlink()
        assert append_all(file, 7) == 7
        assert path.read_bytes() == HEADER + LINE * 7


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.integers(0, 2000))
def test_whatever_part_of_a_write_succeeds(tmp_path_factory, sizes, room):
    """The file may grow by so much and no more; lines count as written if, and only if, they are there."""
    path = tmp_path_factory.mktemp("lines") / "lines"
    with opened(path) as file:
        lines = [bytes([97 + number]) * size + b"\n" for number, size in enumerate(sizes)]
        real = os.write
        os.write = lambda descriptor, data: real(descriptor, data[:room])  # type: ignore[assignment]
        try:
            written = file.append(lines)
        finally:
            os.write = real
        assert path.read_bytes() == HEADER + b"".join(lines[:written])
        assert written == len(lines) or len(b"".join(lines[: written + 1])) > room
        file.append(lines[written:])
        assert path.read_bytes() == HEADER + b"".join(lines)


# Others

WRITER = """
import sys
from rtpproxy.modules.line_file import LineFile
path, name = sys.argv[1:]
file = LineFile(path, b"one,two\\n", None)
file.open()
for number in range(1000):
    assert file.append([b"%s,%d" % (name.encode(), number) + b"-" * (number % 300) + b"\\n"] * 2) == 2
"""


def test_several_programs_write_to_one_new_file(path, tmp_path):
    """While it is moved away again and again: no line is lost, cut or mixed, and each file has one header."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "abc"]
    moved = 0
    while any(one.poll() is None for one in writers):
        with contextlib.suppress(FileNotFoundError):
            path.rename(tmp_path / f"moved{moved}")
            moved += 1
    assert [one.wait(DEADLINE_S) for one in writers] == [0, 0, 0]
    assert moved > 3
    lines = []
    for one in tmp_path.iterdir():
        header, *rest = one.read_bytes().splitlines(keepends=True)
        assert header == HEADER
        assert HEADER not in rest
        lines += rest
    expected = [
        b"%s,%d" % (name, number) + b"-" * (number % 300) + b"\n"
        for name in (b"a", b"b", b"c")
        for number in range(1000)
    ]
    assert sorted(lines) == sorted(expected * 2)


def test_the_lock_is_that_of_fcntl(file, path):
    """Another program that holds it is waited for: one that asks gets it only when a write is over."""
    asker = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    asked = []
    real = os.write

    def write(descriptor, data):
        asked.append(subprocess.run([sys.executable, "-c", asker, path], capture_output=True, check=False).returncode)
        return real(descriptor, data)

    os.write = write
    try:
        file.append([b"1,2\n"])
    finally:
        os.write = real
    asked.append(subprocess.run([sys.executable, "-c", asker, path], capture_output=True, check=False).returncode)
    assert asked == [1, 0]
