"""Work on a disk in a thread, which is waited for, but not for long."""

import threading

import pytest

from rtpproxy.errors import RecordingError
from rtpproxy.recording import disk
from rtpproxy.recording.disk import Disk
from tests.waiting import DEADLINE_S, wait_for


class Hanging:
    """A disk that hangs until it is told to answer."""

    def __init__(self, monkeypatch):
        self.disk = Disk()
        self._answers = threading.Event()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(disk, "WAIT_S", 0.01)

    def wait(self):
        """To be called in its thread."""
        return self._answers.wait(DEADLINE_S)

    def answer(self):
        self._monkeypatch.setattr(disk, "WAIT_S", DEADLINE_S)
        self._answers.set()
        wait_for(lambda: not self.disk.is_busy, DEADLINE_S, "the work to end")


@pytest.fixture
def hanging(monkeypatch):
    made = Hanging(monkeypatch)
    yield made
    made.answer()


def nothing(_):
    pytest.fail("there was nothing to undo")


def test_the_result_of_the_work():
    found = Disk().do(lambda: threading.current_thread(), nothing)
    assert found is not threading.current_thread()


def test_an_error_of_the_work():
    ours = Disk()

    def fail():
        raise RecordingError("the disk is full")

    for _ in range(2):
        with pytest.raises(RecordingError, match="the disk is full"):
            ours.do(fail, nothing)
    assert ours.do(lambda: 7, nothing) == 7


def test_an_unexpected_error_of_the_work(monkeypatch):
    """It is told as it is, not as a disk that does not answer, and ends the thread, with a trace."""
    ours, ended = Disk(), threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda about: ended.set())
    with pytest.raises(RecordingError, match="unexpected error: ZeroDivisionError"):
        ours.do(lambda: 1 // 0, nothing)
    assert ended.wait(DEADLINE_S)
    assert ours.do(lambda: 7, nothing) == 7


def test_what_is_given_up_is_undone_once_it_is_done(hanging):
    ours, undone = hanging.disk, []
    with pytest.raises(RecordingError, match=r"the disk has not answered for 0\.01 s"):
        ours.do(hanging.wait, undone.append)
    for _ in range(2):
        with pytest.raises(RecordingError, match="the disk still does not answer"):
            ours.do(lambda: pytest.fail("this was not to be begun"), nothing)
    assert ours.is_busy
    hanging.answer()
    assert undone == [True]
    assert ours.do(lambda: 7, nothing) == 7


def test_an_error_that_comes_late_is_nobodys(hanging):
    def fail():
        hanging.wait()
        raise RecordingError("the disk is full")

    with pytest.raises(RecordingError, match="has not answered"):
        hanging.disk.do(fail, nothing)
    hanging.answer()
    assert hanging.disk.do(lambda: 7, nothing) == 7


def test_no_thread_can_be_started(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    ours = Disk()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RecordingError, match="no thread can be started: can't start new thread"):
            ours.do(lambda: 7, nothing)
    assert ours.do(lambda: 7, nothing) == 7
