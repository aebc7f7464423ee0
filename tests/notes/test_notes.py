"""The notes of all relays that share a directory."""

import os
import resource
import subprocess
import sys

import pytest

from rtpproxy.notes.contents import Claim
from tests.notes.relays import ROOT, killed_relay, living_relay
from tests.running import own_namespace


def processes(notes):
    return [other.process for other in notes.living()]


def test_our_own_is_none_of_the_others(keep):
    notes = keep()
    assert (notes.living(), notes.dead()) == ([], [])


def test_living_relay(path, keep):
    notes = keep()
    with living_relay(path) as relay:
        (other,) = notes.living()
        assert (other.process, other.claims) == (relay.pid, {"*": Claim("*", 35000, 35999, True)})
        assert notes.is_here(other.place)
        assert notes.dead() == []
    assert notes.living() == []
    (note,) = notes.dead()
    note.remove()


def test_stopped_relay_lives(path, keep):
    notes = keep()
    with living_relay(path) as relay:
        relay.send_signal(19)
        assert processes(notes) == [relay.pid]
        assert notes.dead() == []


def test_relays_of_one_process_see_each_other(keep):
    one, other = keep(), keep()
    assert processes(one) == processes(other) == [os.getpid()]
    one.close()
    assert processes(other) == []


@pytest.mark.root
def test_relay_of_another_namespace_lives_but_is_not_here(path, keep):
    with own_namespace():
        there = keep()
    (other,) = keep().living()
    assert there.is_here(other.place)
    assert not keep().is_here(other.place)


@pytest.mark.parametrize("name", ["1-0.note", "x.note"])
def test_strangers_notes_are_passed_over(path, keep, name):
    keep()
    (path / name).symlink_to("/etc/passwd")
    notes = keep()
    assert len(notes.living()) == 1
    assert notes.dead() == []


def test_no_descriptor_stays_open(path, keep):
    before = os.listdir("/proc/self/fd")
    notes = keep()
    killed_relay(path)
    with living_relay(path):
        notes.living()
        for note in notes.dead():
            note.keep()
        for note in notes.dead():
            note.remove()
    notes.close()
    assert os.listdir("/proc/self/fd") == before


def test_files_that_run_out_are_an_error(path, keep):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open("/dev/null", os.O_RDONLY)
    os.close(taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            keep()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


START_AND_END = """
import sys
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
for _ in range(60):
    notes = Notes(sys.argv[1:], here)
    assert notes.ours.why_not == "", notes.ours.why_not
    for note in notes.dead():
        assert note.contents is None, note.contents
        note.remove()
    for other in notes.living():
        pass
    notes.close()
"""


def test_relays_that_start_and_end_at_the_same_time(path):
    """None takes a living one for dead, and nothing is left."""
    relays = [subprocess.Popen([sys.executable, "-c", START_AND_END, str(path)], cwd=ROOT) for _ in range(3)]
    assert [relay.wait() for relay in relays] == [0, 0, 0]
    assert list(path.iterdir()) == []
