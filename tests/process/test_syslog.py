"""Lines reach a log socket of the test whole and with their priority, and nobody waits for it."""

import logging
import os
import socket

import pytest

from rtpproxy.process.syslog import SyslogHandler

LOCAL0 = 16
MISSING = "lines that syslog did not take: "


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def syslog(path):
    with listening(path) as opened:
        yield opened


@pytest.fixture
def handler(path, syslog):
    handler = SyslogHandler(path, LOCAL0)
    yield handler
    handler.close()


def listening(path, kind=socket.SOCK_DGRAM):
    opened = socket.socket(socket.AF_UNIX, kind)
    opened.bind(path)
    opened.setblocking(False)
    return opened


def record(text, level=logging.INFO):
    return logging.LogRecord("test", level, __file__, 1, text, (), None)


def read_all(syslog):
    """Read the waiting lines, without their priorities."""
    texts = []
    while True:
        try:
            texts.append(syslog.recv(1 << 16).decode().removesuffix("\0").partition(">")[2])
        except BlockingIOError:
            return texts


def fill(handler):
    """Log until syslog takes no more and one line is dropped; return how many it took."""
    for number in range(100_000):
        handler.emit(record(f"line {number}"))
        if handler._dropped:
            return number
    raise AssertionError("it takes everything")


@pytest.mark.parametrize(
    ("level", "severity"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_priority(handler, syslog, level, severity):
    """The names of the levels make no difference."""
    handler.emit(record("text", level))
    assert syslog.recv(100) == b"<%d>text\0" % (LOCAL0 * 8 + severity)


def test_any_text_is_logged(handler, syslog):
    handler.emit(record("caf\u00e9 \udc80"))
    assert read_all(syslog) == ["caf\u00e9 \\udc80"]


def test_what_syslog_does_not_take_is_dropped_and_counted(handler, syslog):
    taken = fill(handler)
    for _ in range(4):
        handler.emit(record("dropped"))
    assert read_all(syslog) == [f"line {number}" for number in range(taken)]
    handler.emit(record("next"))
    handler.emit(record("last"))
    assert read_all(syslog) == [MISSING + "5", "next", "last"]


def test_syslog_that_starts_again(handler, syslog, path):
    handler.emit(record("one"))
    os.unlink(path)
    syslog.close()
    handler.emit(record("two"))
    handler.emit(record("three"))
    with listening(path) as again:
        handler.emit(record("four"))
        assert read_all(again) == [MISSING + "2", "four"]
        os.unlink(path)
    with listening(path) as again:
        handler.emit(record("five"))
        assert read_all(again) == ["five"]


def test_syslog_that_starts_later(path):
    before = len(os.listdir("/proc/self/fd"))
    handler = SyslogHandler(path, LOCAL0)
    handler.emit(record("lost"))
    with listening(path) as syslog:
        handler.emit(record("text"))
        assert read_all(syslog) == [MISSING + "1", "text"]
    handler.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_stream(path):
    """Lines end with a NUL, and a line that fitted only in part is not continued by another."""
    with listening(path, socket.SOCK_STREAM) as syslog:
        syslog.listen()
        handler = SyslogHandler(path, LOCAL0)
        handler.emit(record("x" * (10 << 20)))
        handler.emit(record("next"))
        handler.close()
        first, _ = syslog.accept()
        second, _ = syslog.accept()
        with first, second:
            assert first.recv(100).startswith(b"<134>xxx")
            assert second.recv(1000).split(b"\0") == [b"<132>" + MISSING.encode() + b"1", b"<134>next", b""]
