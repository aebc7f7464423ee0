"""Who may stop a relay, and how."""

import asyncio

import pytest

from rtpproxy.config import Config, ControlAddress, ControlKind
from rtpproxy.instance.stop import Stop, on_input_end


class Aborted(Exception):
    """Takes the place of the end of the process."""


def abort(number):
    raise Aborted(number)


def test_signals_stop_and_the_second_one_aborts():
    stop = Stop(abort)
    assert not stop.is_asked
    stop.on_signal(15)
    assert stop.is_asked
    with pytest.raises(Aborted, match="2"):
        stop.on_signal(2)
    asyncio.run(stop.wait())


def test_slow_stop_reaches_followers_of_before_and_after():
    stop, told = Stop(abort), []
    stop.follow(lambda: told.append("before"))
    assert told == []
    stop.slowly()
    stop.follow(lambda: told.append("after"))
    assert told == ["before", "after"]
    assert not stop.is_asked


@pytest.mark.parametrize(
    ("kinds", "ended", "expected"),
    [
        ((ControlKind.STDIOC, ControlKind.TCP), ControlKind.STDIOC, "now"),
        ((ControlKind.STDIO,), ControlKind.STDIO, "slowly"),
        ((ControlKind.STDIO, ControlKind.TCP), ControlKind.STDIO, "goes on"),
    ],
)
def test_end_of_standard_input(kinds, ended, expected):
    stop, told = Stop(abort), []
    stop.follow(lambda: told.append("slowly"))
    config = Config(control=tuple(ControlAddress(kind) for kind in kinds))
    on_input_end(ended, config, stop)
    assert (["now"] * stop.is_asked + told or ["goes on"]) == [expected]
