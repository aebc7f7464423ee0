"""What a successor does with the note of a relay that was killed."""

import contextlib
import fcntl
import os
import struct

import pytest

from rtpproxy.notes.contents import Claim, Place
from tests.notes.conftest import as_nobody
from tests.notes.relays import killed_relay


@pytest.fixture
def left(path, keep):
    """Somebody's notes, with those of a killed relay beside them."""
    notes = keep()
    killed_relay(path)
    return notes


def others(path):
    return [one for one in path.iterdir() if not one.name.startswith(f"{os.getpid()}-")]


def test_it_says_what_is_left(path, left):
    (note,) = left.dead()
    assert note.contents.programs == frozenset({41, 42})
    assert note.contents.reserved == "35000-35999"
    assert note.contents.claims == {"*": Claim("*", 35000, 35999, True)}
    assert left.is_here(note.contents.place)
    note.remove()
    assert others(path) == []


def test_note_that_is_kept_is_found_again(path, left):
    before = [one.read_text() for one in others(path)]
    for _ in range(2):
        (note,) = left.dead()
        note.keep()
    assert [one.read_text() for one in others(path)] == before


def test_one_successor_takes_it(left, keep):
    (note,) = left.dead()
    other = keep()
    assert other.dead() == []
    note.keep()
    (again,) = other.dead()
    again.remove()
    assert left.dead() == []


@pytest.mark.parametrize("text", ["", "garbage\n", "\0" * 100, "relay 1 boot=0 namespace=1\nprograms 41\n"])
def test_nothing_is_to_be_undone_by_what_makes_no_sense_or_is_of_another_boot(path, keep, text):
    notes = keep()
    (path / "1-00000000.note").write_text(text)
    (note,) = notes.dead()
    assert note.contents is None
    note.remove()
    assert others(path) == []


@pytest.mark.root
def test_locks_of_strangers_hinder_nobody(path, left, keep):
    """Read locks on every byte."""
    whole = struct.pack("@hhqqi0q", fcntl.F_RDLCK, 0, 0, 0, 0)
    with as_nobody(), contextlib.ExitStack() as stack:
        for one in others(path):
            fcntl.fcntl(stack.enter_context(one.open()), fcntl.F_OFD_SETLK, whole)
        stack.callback(os.seteuid, 65534)
        os.seteuid(0)
        (note,) = left.dead()
        assert note.contents.programs == frozenset({41, 42})
        note.remove()
    assert others(path) == []


@pytest.mark.root
def test_who_may_only_read_it_sees_what_is_left(path, left, keep):
    """A relay with the capabilities to detach programs may be an ordinary user's."""
    with as_nobody():
        reader = keep()
        (note,) = reader.dead()
        assert note.contents.programs == frozenset({41, 42})
        note.remove()
    assert len(others(path)) == 1
    assert others(path)[0].read_text() != ""


def test_note_that_another_relay_is_just_making_stays(path, keep):
    """It is empty and not locked yet when it is found, and locked and written when it is removed."""
    from rtpproxy.notes import lock

    notes = keep()
    fd = os.open(path / "1-00000000.note", os.O_RDWR | os.O_CREAT)
    (note,) = notes.dead()
    assert lock.take(fd, lock.ALIVE)
    os.write(fd, b"relay 1 boot=0 namespace=1\n")
    note.remove()
    assert [one.name for one in others(path)] == ["1-00000000.note"]
    assert others(path)[0].read_text() == "relay 1 boot=0 namespace=1\n"
    os.close(fd)


def test_places():
    assert Place("a", "b") == Place("a", "b")
    assert Place("a", "b") != Place("a", "c")
