"""What each signal asks for, in a process of the test (protocol.md 12.3). test_daemon shows that a relay obeys."""

import signal
import subprocess
import sys

import pytest

from rtpproxy.process import signals

CATCHING = """
import asyncio, sys
from rtpproxy.process import signals

async def main():
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    def stop(number):
        print("stop", number, flush=True)
        over.set()
    signals.catch(loop, stop, lambda: print("slowly", flush=True))
    print("ready", flush=True)
    await over.wait()

asyncio.run(main())
"""


@pytest.fixture
def catching():
    """A process that catches signals and prints what they ask for; SIGQUIT was ignored when it started."""
    command = ["sh", "-c", 'trap "" QUIT; exec "$0" "$@"', sys.executable, "-c", CATCHING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", signals.STOP, ids=lambda number: number.name)
def test_signal_that_stops(catching, number):
    catching.send_signal(number)
    assert catching.stdout.readline() == f"stop {int(number)}\n"
    assert catching.wait(30) == 0


def test_signals_that_do_not_end_it(catching):
    catching.send_signal(signals.STOP_SLOWLY)
    assert catching.stdout.readline() == "slowly\n"
    catching.send_signal(signal.SIGPIPE)
    catching.send_signal(signal.SIGTERM)
    assert catching.stdout.readline() == f"stop {signal.SIGTERM}\n"


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGALRM], ids=lambda number: number.name)
def test_deadly_signal(catching, number):
    catching.send_signal(number)
    assert catching.wait(30) == -number
