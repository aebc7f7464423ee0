"""A timer that the kernel cancels when somebody steps the clock, which no test does: the kernel tells if it would."""

import errno
import fcntl
import os
import select
import struct
from pathlib import Path

import pytest

from rtpproxy.recording import clock_steps as module
from rtpproxy.recording.clock_steps import ClockSteps

TFD_IOC_SET_TICKS = 0x40085400
"""Makes a timer tell of so many expirations (linux/timerfd.h); only where the kernel can restore processes (CRIU)."""


@pytest.fixture
def steps():
    made = ClockSteps()
    yield made
    made.close()


def is_readable(steps):
    return bool(select.select([steps], [], [], 0)[0])


def test_the_kernel_cancels_the_timer_when_the_clock_is_set(steps):
    lines = Path(f"/proc/self/fdinfo/{steps.fileno()}").read_text().splitlines()
    about = dict(line.split(":", 1) for line in lines)
    assert about["clockid"].strip() == "0"
    absolute, cancel_on_set = 1, 2
    assert int(about["settime flags"], 8) == absolute | cancel_on_set
    assert not is_readable(steps)


def test_an_event_is_told_until_it_is_taken(steps):
    try:
        fcntl.ioctl(steps, TFD_IOC_SET_TICKS, struct.pack("@Q", 1))
    except OSError as error:
        pytest.skip(f"this kernel cannot restore processes: {error.strerror}")
    assert is_readable(steps)
    steps.take()
    assert not is_readable(steps)


def test_taking_where_nothing_is_told(steps):
    steps.take()


@pytest.mark.parametrize(("number", "is_expected"), [(errno.ECANCELED, True), (errno.EBADF, False)])
def test_a_step_is_told_by_an_error(steps, monkeypatch, number, is_expected):
    def fail(descriptor, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "read", fail)
    if is_expected:
        steps.take()
    else:
        with pytest.raises(OSError, match="Bad file descriptor"):
            steps.take()


def test_no_descriptor_is_left(monkeypatch):
    def no_descriptor(*_):
        module.ctypes.set_errno(errno.EMFILE)
        return -1

    monkeypatch.setattr(module._libc, "timerfd_create", no_descriptor)
    with pytest.raises(OSError, match="Too many open files"):
        ClockSteps()
