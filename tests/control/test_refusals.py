"""How many lines refused commands get, and how long they are."""

import logging
from collections.abc import Iterator

import pytest

from rtpproxy.control.refusals import LINES_PER_SECOND, MOST_BYTES, MOST_CHARACTERS, Refusals


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="rtpproxy"):
        yield


def refuse(refusals: Refusals, now: float, times: int = 1, command: bytes = b"R c f") -> None:
    for _ in range(times):
        refusals.refused(command, "", b"E50", "no such session", now)


def test_so_many_in_a_second_have_lines_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    refuse(refusals, 7.5, times=LINES_PER_SECOND + 5)
    refuse(refusals, 8.4)
    assert caplog.messages == LINES_PER_SECOND * ['command "R c f" refused with E50: no such session'] + [
        f"refused commands that are not in the log: {count} so far" for count in (1, 2, 4)
    ]
    caplog.clear()
    refuse(refusals, 8.5, times=LINES_PER_SECOND + 3)
    assert len(caplog.messages) == LINES_PER_SECOND + 1
    assert caplog.messages[-1] == "refused commands that are not in the log: 8 so far"


def test_subcommands_share_the_room(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for _ in range(LINES_PER_SECOND):
        refusals.failed("c media 1", "the session has ended", 0.0)
    assert caplog.messages == LINES_PER_SECOND * ["c media 1: sub-command failed: the session has ended"]
    caplog.clear()
    refuse(refusals, 0.5)
    assert caplog.messages == ["refused commands that are not in the log: 1 so far"]


def test_what_is_not_logged_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    with caplog.at_level(logging.WARNING, logger="rtpproxy"):
        refuse(refusals, 0.0, times=100)
    assert caplog.messages == []
    refuse(refusals, 0.0)
    assert caplog.messages == ['command "R c f" refused with E50: no such session']


def test_a_long_command_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    refuse(Refusals(), 0.0, command=b"\r\n" + b"\xff" * MOST_BYTES + b"x" * 60000)
    shown = r"\xff" * MOST_BYTES
    assert caplog.messages == [f'command "{shown} …" refused with E50: no such session']


def test_long_reasons_and_call_ids_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    """Both may quote what was sent, up to 60,000 bytes."""
    refusals = Refusals()
    refusals.refused(b"V x", "", b"E1", MOST_CHARACTERS * "a" + "b", 0.0)
    refusals.failed(MOST_CHARACTERS * "c" + "d", MOST_CHARACTERS * "e", 0.0)
    assert caplog.messages == [
        'command "V x" refused with E1: ' + MOST_CHARACTERS * "a" + " …",
        MOST_CHARACTERS * "c" + " …: sub-command failed: " + MOST_CHARACTERS * "e",
    ]


def test_no_command_looks_like_the_rest_of_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """What reads the log, to bar hosts that try passwords for example, must not take one host for another."""
    refuse(Refusals(), 0.0, command=b'V" of 192.0.2.9 refused with E0: \n\x1b[1A\xe2\x80\xa8')
    shown = r"V\x22 of 192.0.2.9 refused with E0: \n\x1b[1A\xe2\x80\xa8"
    assert caplog.messages == [f'command "{shown}" refused with E50: no such session']
