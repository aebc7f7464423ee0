"""Building one relay and stopping it; process/test_daemon and test_mistakes run it as a whole."""

import asyncio
import contextlib
import dataclasses
import errno
import logging

import pytest

from rtpproxy.config import NOTES_DIRECTORY, Config, ControlAddress, ControlKind, ListenAddress, OffloadMode, PortsMode
from rtpproxy.control.server import ControlServer
from rtpproxy.errors import StartError
from rtpproxy.instance import build as module
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
from rtpproxy.offload.off import NoKernelTier

CLOCKS = module.Clocks(lambda: 1.0, lambda: 1.0, lambda: 1)
BOUND = Config(listen=(ListenAddress("127.0.0.1"),), ports=PortsMode.BOUND, offload=OffloadMode.OFF)


class Aborted(Exception):
    """Takes the place of the end of the process."""


def abort(number):
    raise Aborted(number)


def in_a_loop(action):
    """Run a function where an event loop runs."""

    async def run():
        return action()

    return asyncio.run(run())


def notes(stack):
    made = Notes([NOTES_DIRECTORY], here)
    stack.callback(made.close)
    return made


def test_all_parts_are_there_once_they_are_built():
    def build():
        with contextlib.ExitStack() as stack:
            parts = module.build(BOUND, CLOCKS, notes(stack), ControlServer((), lambda: 1.0), stack)
            with pytest.raises(dataclasses.FrozenInstanceError):
                parts.service = None
            return parts

    parts = in_a_loop(build)
    assert None not in [getattr(parts, field.name) for field in dataclasses.fields(parts)]
    assert isinstance(parts.kernel, NoKernelTier)


class RecordingStack(contextlib.ExitStack):
    """Notes what it calls, in order."""

    def __init__(self):
        super().__init__()
        self.called = []

    def callback(self, action, /, *args, **keywords):
        def call():
            action(*args, **keywords)
            self.called.append(action.__qualname__)

        return super().callback(call)


def test_what_was_built_is_taken_down_when_a_later_part_fails(monkeypatch):
    """In reverse order."""

    def refuse(*_):
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(module, "HostNetworksFollower", refuse)

    def build():
        with RecordingStack() as stack:
            its_notes = notes(stack)
            with pytest.raises(StartError, match="cannot ask for this host"):
                module.build(BOUND, CLOCKS, its_notes, ControlServer((), lambda: 1.0), stack)
            assert stack.called == []
        return stack.called

    assert in_a_loop(build) == ["Notifier.close", "BoundMedia.close_all", "Notes.close"]


def test_signals_stop_and_the_second_one_aborts():
    stop = module.Stop(abort)
    assert not stop.is_asked
    stop.on_signal(15)
    assert stop.is_asked
    with pytest.raises(Aborted, match="2"):
        stop.on_signal(2)
    asyncio.run(stop.wait())


def test_slow_stop_reaches_followers_of_before_and_after():
    stop, told = module.Stop(abort), []
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
    stop, told = module.Stop(abort), []
    stop.follow(lambda: told.append("slowly"))
    config = dataclasses.replace(BOUND, control=tuple(ControlAddress(kind) for kind in kinds))
    module.on_input_end(ended, config, stop)
    assert (["now"] * stop.is_asked + told or ["goes on"]) == [expected]


def test_verdicts_are_logged_when_they_changed(caplog):
    counters = {"forwarded": 0, "up_no_row": 0}
    report = module.VerdictReport(lambda: dict(counters))
    with caplog.at_level(logging.WARNING):
        report.log_changes()
    assert caplog.messages == []
    with caplog.at_level(logging.INFO):
        report.log_changes()
        report.log_changes()
        counters["forwarded"] = 7
        report.log_changes()
    assert caplog.messages == ["frames by verdict: none", "frames by verdict: forwarded 7"]


def test_verdicts_of_userspace_are_logged_with_the_kernels(caplog):
    denied = {}
    report = module.VerdictReport(lambda: {"forwarded": 7})
    report.add(lambda: dict(denied))
    with caplog.at_level(logging.INFO):
        report.log_changes()
        denied["dropped_denied"] = 2
        report.log_changes()
    assert caplog.messages[-1] == "frames by verdict: forwarded 7, dropped_denied 2"
