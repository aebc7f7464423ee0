"""Media while the control sockets are busy: no packet of a call is lost to the set-up of others."""

import itertools
import re
import socket
import threading
from collections import deque

import pytest

from tests.netns import Topology
from tests.netns_call.call import DEADLINE_S, KERNEL, STEERED, Call
from tests.netns_call.traffic import Traffic, both_ways
from tests.running import RunningRelay
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

CONTROL = ("127.0.0.1", 22990)
HELD_CALLS = 1000
IN_FLIGHT = 8
PACKETS = 4000
"""Of each stream, at 2,000 a second."""


class Load:
    """Calls set up and ended without a pause, so many of them held; a context manager."""

    def __init__(self, host):
        self._socket = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(CONTROL)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self.failures = []
        self.ended = 0
        self._commands = self._endless()
        self._due = deque()
        for _ in range(2 * HELD_CALLS):
            self._turn()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over = True
        self._thread.join()
        self._socket.close()

    def _endless(self):
        for number in itertools.count():
            yield f"U x{number} 10.0.1.2 4000 f", r"\d+"
            yield f"L x{number} 10.0.2.2 5000 f t", r"\d+"
            if number >= HELD_CALLS:
                yield f"D x{number - HELD_CALLS} f t", "0"

    def _turn(self):
        """One more command, once there are no more than IN_FLIGHT under way."""
        while len(self._due) >= IN_FLIGHT:
            cookie, expected = self._due.popleft()
            reply = self._socket.recv(1000).decode()
            if not re.fullmatch(f"{cookie} {expected}\n", reply):
                self.failures.append((cookie, expected, reply))
            self.ended += expected == "0"
        command, expected = next(self._commands)
        cookie = command.replace(" ", "_")
        self._socket.send(f"{cookie} {command}".encode())
        self._due.append((cookie, expected))

    def _run(self):
        try:
            while not self._is_over:
                self._turn()
        except OSError as error:
            self.failures.append(error)


@pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name)
def test_media_is_undisturbed_by_commands(tmp_path, way):
    options = ("-F", "-s", f"udp:{CONTROL[0]}:{CONTROL[1]}")
    with (
        Topology() as topology,
        RunningRelay(tmp_path, *way.options, *options, host=topology.relay) as relay,
        Call(relay, topology.caller, topology.callee) as call,
    ):
        call.establish(way)
        streams = both_ways(call)
        with Load(topology.relay) as load, Traffic(*streams) as traffic:
            traffic.more(PACKETS)
            wait_for(lambda: load.failures or load.ended > HELD_CALLS, DEADLINE_S, "as many calls to come and go")
            traffic.finish()
        assert load.failures == []
        for stream in streams:
            assert not stream.doubled
        assert relay.totals()["active sessions"] >= HELD_CALLS
