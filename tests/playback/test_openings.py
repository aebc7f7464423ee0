"""Who waits for which file to be opened. With time and a disk that a test moves."""

import errno
import os
from types import SimpleNamespace

import pytest

from rtpproxy.errors import PlaybackError
from rtpproxy.playback.budget import MOST_S
from rtpproxy.playback.openings import Openings
from tests.playback.work import FakeDisk


class Stage:
    """Files are names: what is in `files` is there."""

    def __init__(self):
        self.now = 5000.0
        self.files = {(b"/moh", (0,)): "moh.0", (b"/moh", (8,)): "moh.8", (b"/other", (0,)): "other.0"}
        self.disk = FakeDisk(self._pass)
        self.tried = []
        self.told = []
        self.openings = Openings(SimpleNamespace(open=self._open), self.disk, lambda: self.now, self._begin, self._fail)

    def _pass(self, seconds):
        self.now += seconds

    def _open(self, prompt, wanted):
        self.tried.append((prompt, wanted))
        if (prompt, wanted) not in self.files:
            raise PlaybackError(os.strerror(errno.ENOENT))
        return self.files[prompt, wanted]

    def _begin(self, askers, found):
        self.told.append((list(askers), found))
        if found == "refused":
            raise PlaybackError("it cannot be played")

    def _fail(self, askers, error):
        self.told.append((list(askers), str(error)))

    def open(self, asker, prompt=b"/moh", wanted=(0,)):
        return self.openings.open(prompt, wanted, asker)


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.disk.answer()
    assert made.openings._queues == {}


def test_a_disk_that_answers(stage):
    assert stage.open("one")
    assert stage.open("two", wanted=[8])
    with pytest.raises(PlaybackError, match="No such file"):
        stage.open("three", b"/none")
    stage.files[b"/moh", (0,)] = "refused"
    with pytest.raises(PlaybackError, match="it cannot be played"):
        stage.open("four")
    assert stage.told == [(["one"], "moh.0"), (["two"], "moh.8"), (["four"], "refused")]
    assert stage.now == 5000


def test_a_disk_that_is_slow(stage):
    stage.disk.hangs = True
    assert not stage.open("one")
    assert not stage.open("none", b"/none")
    stage.files[b"/odd", (0,)] = "refused"
    assert not stage.open("odd", b"/odd")
    assert stage.told == []
    stage.disk.answer()
    assert stage.told == [
        (["one"], "moh.0"),
        (["none"], "No such file or directory"),
        (["odd"], "refused"),
        (["odd"], "it cannot be played"),
    ]


def test_a_hundred_commands_wait_no_longer_than_one(stage):
    stage.disk.takes = 0.6 * MOST_S
    stage.files |= {(b"/%d" % number, (0,)): number for number in range(1, 100)}
    answers = [stage.open(number, b"/%d" % number) for number in range(1, 100)]
    assert answers == [True] + [False] * 98
    assert 0.9 * MOST_S < stage.now - 5000 < 1.1 * MOST_S
    stage.disk.answer()
    assert stage.told == [([number], number) for number in range(1, 100)]


def test_what_hangs_takes_the_wait_from_nobody_for_long(stage):
    stage.disk.hangs = True
    assert not stage.open("one")
    stage.disk.hangs = False
    stage.now += 0.1
    with pytest.raises(PlaybackError, match="No such file"):
        stage.open("none", b"/none")
    assert stage.open("other", b"/other")
    assert not stage.open("two"), "it is being opened"


def test_a_prompt_that_hangs_is_asked_for_once(stage):
    """Whatever codecs there are: each in turn, when it answers."""
    stage.disk.hangs = True
    for number in range(5):
        for wanted in ((0,), (8,), (3,)):
            assert not stage.open((number, *wanted), wanted=wanted)
    assert len(stage.disk.jobs) == 1
    stage.disk.hangs = False
    for count in (1, 2, 3):
        assert len(stage.disk.jobs) == 1
        stage.disk.answer_one()
        assert len(stage.tried) == count
    assert stage.told == [
        ([(number, 0) for number in range(5)], "moh.0"),
        ([(number, 8) for number in range(5)], "moh.8"),
        ([(number, 3) for number in range(5)], "No such file or directory"),
    ]
    assert stage.disk.jobs == []


def test_those_who_left_are_forgotten(stage):
    stage.disk.hangs = True
    for asker, wanted in (("one", (0,)), ("two", (0,)), ("three", (8,)), ("four", (3,)), ("five", (3,))):
        stage.open(asker, wanted=wanted)
    stage.openings.forget(lambda asker: asker != "five")
    stage.openings.forget(lambda asker: False)
    stage.disk.answer()
    assert stage.told == [([], "moh.0"), (["five"], "No such file or directory")]


def test_a_disk_that_is_too_busy(stage):
    stage.disk.refuses = True
    with pytest.raises(PlaybackError, match="has not answered for long"):
        stage.open("one")
    stage.disk.refuses = False
    assert stage.open("one")
    stage.disk.hangs = True
    for wanted in ((0,), (8,), (3,)):
        assert not stage.open(wanted, wanted=wanted)
    stage.disk.refuses = True
    stage.disk.answer()
    assert stage.told[1:] == [
        ([(0,)], "moh.0"),
        ([(8,)], "the disk has not answered for long"),
        ([(3,)], "the disk has not answered for long"),
    ]
