"""Lines on their way to a file that may hang, fill up and refuse, played by one that does as it is told."""

import errno
import logging
import threading

import pytest

from rtpproxy.errors import StartError
from rtpproxy.modules import appender as module
from rtpproxy.modules.appender import Appender
from tests.waiting import DEADLINE_S, wait_for


class ToldFile:
    """Takes lines only while it is told to."""

    path = "/lines"

    def __init__(self):
        self.lines = []
        self.error = None
        self.open_error = None
        self.room = 1 << 30
        """Lines that it takes before it refuses."""
        self.attempts = 0
        self.opens = threading.Event()
        self.opens.set()
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()
        self.is_closed = False

    def open(self):
        self.opens.wait(DEADLINE_S)
        if self.open_error is not None:
            raise self.open_error

    def append(self, lines):
        self.attempts += 1
        self.is_asked.set()
        assert self.answers.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        taken = list(lines[: self.room])
        self.room -= len(taken)
        self.lines += taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(taken)

    def close(self):
        self.is_closed = True


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def file():
    return ToldFile()


@pytest.fixture
def quick(monkeypatch):
    """Times of which a test would wait for the end."""
    monkeypatch.setattr(module, "_RETRY_S", 0.001)
    monkeypatch.setattr(module, "_STOP_S", 0.05)
    monkeypatch.setattr(module, "_OPEN_S", 0.05)


@pytest.fixture
def start(file):
    """Starts one; at the end of the test the file does all that it is asked to, so that no thread is left."""
    made = []

    def start(**options):
        made.append(Appender(file, **options))
        made[-1].open()
        made[-1].start()
        return made[-1]

    yield start
    file.error, file.room = None, 1 << 30
    file.opens.set()
    file.answers.set()
    for one in made:
        one.close()
        if one._thread is not None:
            one._thread.join(DEADLINE_S)
            assert not one._thread.is_alive()


def lines(count):
    return [b"%d\n" % number for number in range(count)]


def test_all_lines_in_their_order(start, file):
    appender = start()
    for line in lines(1000):
        appender.append(line)
    appender.close()
    assert file.lines == lines(1000)
    assert file.is_closed


def test_nothing_to_write(start, file):
    start().close()
    assert (file.lines, file.attempts, file.is_closed) == ([], 0, True)


def test_nobody_waits_for_a_disk_that_hangs(start, file, caplog):
    """What finds no room is lost, and told with the 1st, 2nd, 4th, … of them; the rest is written once it can be."""
    appender = start(most_bytes=len(b"".join(lines(10))))
    file.answers.clear()
    with caplog.at_level(logging.ERROR):
        for line in lines(15):
            appender.append(line)
    assert caplog.messages == [
        f"/lines: no room for more lines that wait for the disk: {lost} lost so far" for lost in (1, 2, 4)
    ]
    file.answers.set()
    wait_for(lambda: file.lines == lines(10), DEADLINE_S, "the lines")
    wait_for(lambda: not appender._waiting, DEADLINE_S, "the room")
    appender.append(b"more\n")
    wait_for(lambda: file.lines[10:] == [b"more\n"], DEADLINE_S, "the next line")


def test_a_full_disk_is_tried_again(start, file, quick, caplog):
    appender = start()
    file.room = 3
    with caplog.at_level(logging.ERROR):
        for line in lines(5):
            appender.append(line)
        wait_for(lambda: file.attempts > 9, DEADLINE_S, "attempts")
        assert file.lines == lines(3)
        file.room = 1 << 30
        wait_for(lambda: file.lines == lines(5), DEADLINE_S, "all lines")
    assert "/lines: No space left on device; 2 lines wait" in caplog.messages
    assert len(caplog.messages) < file.attempts


def test_what_waits_is_tried_once_more_at_the_end(start, file):
    """And not only when the next attempt is due."""
    appender = start()
    file.error = FULL
    appender.append(b"1\n")
    assert file.is_asked.wait(DEADLINE_S)
    file.error = None
    appender.close()
    assert file.lines == [b"1\n"]


def test_a_disk_that_stays_full_does_not_keep_the_relay(start, file, caplog):
    appender = start()
    file.error = FULL
    for line in lines(3):
        appender.append(line)
    appender.close()
    assert caplog.messages[-1] == "/lines: the relay stops, and 3 lines are not written"
    assert file.is_closed


def test_a_disk_that_hangs_does_not_keep_the_relay(start, file, quick, caplog):
    appender = start()
    file.answers.clear()
    for line in lines(3):
        appender.append(line)
    assert file.is_asked.wait(DEADLINE_S)
    appender.close()
    assert caplog.messages[-1] == "/lines: the relay stops, and 3 lines are not written"
    assert appender._thread.daemon


def test_a_file_that_cannot_be_opened(start, file):
    file.open_error = OSError(errno.EACCES, "Permission denied")
    with pytest.raises(StartError, match=r"^/lines: Permission denied$"):
        start()


def test_a_disk_that_hangs_at_the_start(start, file, quick):
    file.opens.clear()
    with pytest.raises(StartError, match="the disk does not answer, or another program keeps the file locked"):
        start()


def test_no_thread(file, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    appender = Appender(file)
    for begin in (appender.open, appender.start):
        with pytest.raises(StartError, match="/lines: no thread can be started: can't start new thread"):
            begin()
    appender.close()
    assert file.is_closed
