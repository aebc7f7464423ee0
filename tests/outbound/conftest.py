"""Both event loops, and listeners of each kind to send to."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import uvloop

from tests.outbound.listeners import Controller, Running, Side, open_sockets
from tests.waiting import DEADLINE_S


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    failures: list[object] = []
    started = threading.Event()
    handles: list[tuple[Running, asyncio.Event]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        made, stop = Running(loop), asyncio.Event()
        made.tick()
        handles.append((made, stop))
        started.set()
        await stop.wait()
        made.at_end.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(serve())

    before = open_sockets()
    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(DEADLINE_S)
    made, stop = handles[0]
    try:
        yield made
    finally:
        made.loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert failures == []
    assert open_sockets() == before


@pytest.fixture
def controllers() -> Iterator[Callable[..., Controller]]:
    with contextlib.ExitStack() as stack:

        def make(family, address, backlog=64):
            controller = Controller(family, address, backlog)
            stack.callback(controller.close)
            return controller

        yield make


@pytest.fixture(params=["unix", "tcp", "tcp6"])
def side(request, controllers, tmp_path) -> Side:
    if request.param == "unix":
        return Side(controllers, socket.AF_UNIX, str(tmp_path / "to.sock"))
    if request.param == "tcp":
        return Side(controllers, socket.AF_INET, ("127.0.0.1", 0))
    return Side(controllers, socket.AF_INET6, ("::1", 0))


@pytest.fixture
def unix_side(controllers, tmp_path) -> Side:
    return Side(controllers, socket.AF_UNIX, str(tmp_path / "to.sock"))


@pytest.fixture
def tcp_side(controllers) -> Side:
    return Side(controllers, socket.AF_INET, ("127.0.0.1", 0))


@pytest.fixture
def fillers() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for filler in opened:
        filler.close()
