"""The note of this relay: where it is, what it says, and how it ends."""

import errno
import os
import stat

import pytest

from rtpproxy.notes.contents import Claim, Contents, parse
from rtpproxy.notes.place import here
from tests.notes.conftest import NOBODY, as_nobody

CLAIM = Claim("*", 35000, 35999, True)


def only_note(path):
    (note,) = path.iterdir()
    return note


def test_what_it_says(path, keep):
    notes = keep()
    expected = Contents(os.getpid(), here())
    assert parse(only_note(path).read_text()) == expected
    notes.ours.claim(CLAIM)
    notes.ours.claim(Claim("fd00::1", 35000, 35999, True))
    notes.ours.unclaim("fd00::1")
    notes.ours.reserve("35000-35999")
    notes.ours.attach((9, 8))
    expected.claims, expected.reserved, expected.programs = {"*": CLAIM}, "35000-35999", frozenset({8, 9})
    assert parse(only_note(path).read_text()) == expected
    assert stat.S_IMODE(only_note(path).stat().st_mode) == 0o644
    notes.close()
    assert list(path.iterdir()) == []


@pytest.mark.root
def test_user_who_may_not_remove_it_leaves_that_nothing_is_to_be_undone(path, keep):
    """As after `-u`; the socket files may have stayed, too."""
    notes = keep()
    with as_nobody():
        notes.ours.claim(CLAIM)
        notes.ours.listen((1, 2, 3))
        notes.ours.attach([41])
        assert parse(only_note(path).read_text()).programs == {41}
        notes.close()
    told = parse(only_note(path).read_text())
    assert (told.claims, told.reserved, told.programs) == ({"*": CLAIM}, "", frozenset())
    successor = keep()
    assert (successor.living(), successor.abandoned_sockets()) == ([], {(1, 2, 3)})
    (note,) = successor.dead()
    note.remove()
    successor.close()
    assert list(path.iterdir()) == []


@pytest.mark.root
def test_first_directory_that_permits_it_has_it(public, keep):
    """Root's for root's relays, that of the session for an ordinary user's."""
    roots, session = public / "roots", public / "session"
    os.chown(public, NOBODY, NOBODY)
    roots.mkdir()
    with as_nobody():
        notes = keep(roots, session)
    assert (notes.ours.why_not, len(list(roots.iterdir())), len(list(session.iterdir()))) == ("", 0, 1)


@pytest.mark.root
def test_why_there_is_none(path, keep):
    path.mkdir()
    path.chmod(0o777)
    refused = keep(path)
    assert refused.ours.why_not == f"{path}: users other than its owner may write to it (mode 0777)"
    path.chmod(0o755)
    with as_nobody():
        forbidden = keep(path)
    assert forbidden.ours.why_not == f"{path}: Permission denied"
    # Nothing that it would say is an error.
    for notes in (refused, forbidden):
        notes.ours.claim(CLAIM)
        notes.ours.attach([1])
        notes.ours.reserve("")
        notes.close()
    assert list(path.iterdir()) == []


def test_host_that_does_not_tell_where_it_runs(path):
    from rtpproxy.notes.notes import Notes

    def fail():
        raise OSError(errno.ENOENT, "No such file or directory")

    notes = Notes([str(path)], fail)
    assert notes.ours.why_not == "this host does not tell where the process runs: No such file or directory"
    assert (notes.living(), notes.dead()) == ([], [])
    notes.close()


def test_note_that_cannot_be_written_is_a_warning(path, keep, caplog):
    notes = keep()
    os.close(notes.ours._fd)
    reader, notes.ours._fd = os.pipe()
    os.close(reader)
    notes.ours.claim(CLAIM)
    (record,) = caplog.records
    assert record.levelname.startswith("WARN")
    assert f"{only_note(path)} cannot be written: Broken pipe; " in record.getMessage()


def test_half_a_line_is_taken_back(path, keep, monkeypatch, caplog):
    """A disk that is full in the middle of a line; the next one is not the rest of it."""
    notes = keep()
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        notes.ours.claim(CLAIM)
    (record,) = caplog.records
    assert "cannot be written: No space left on device; " in record.getMessage()
    notes.ours.attach([41])
    found = parse(only_note(path).read_text())
    assert (found.claims, found.programs) == ({}, frozenset({41}))
