"""Building one relay; process/test_daemon and test_mistakes run it as a whole."""

import asyncio
import contextlib
import dataclasses
import errno

import pytest

from rtpproxy.config import NOTES_DIRECTORY, Config, ListenAddress, OffloadMode, PortsMode
from rtpproxy.control.server import ControlServer
from rtpproxy.errors import StartError
from rtpproxy.instance import build as module
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
from rtpproxy.offload.off import NoKernelTier

CLOCKS = module.Clocks(lambda: 1.0, lambda: 1.0, lambda: 1, lambda: 1.0)
BOUND = Config(listen=(ListenAddress("127.0.0.1"),), ports=PortsMode.BOUND, offload=OffloadMode.OFF)


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

    assert in_a_loop(build) == [
        *("Players.close", "Later.close", "_build_recorder.<locals>.<lambda>", "Tapper.log_end", "Notifier.close"),
        *("BoundMedia.close_all", "Notes.close"),
    ]
