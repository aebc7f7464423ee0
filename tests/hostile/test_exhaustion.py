"""When descriptors or ports run out: the errors that the protocol names, and calls again as soon as others end."""

import contextlib
import itertools
import os
import select
import socket
import time
from pathlib import Path

import pytest

from tests.netns import Topology
from tests.netns_call.call import BOUND, DEADLINE_S, STEERED, Limited
from tests.running import RunningRelay
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

CONTROL = 20005
FILES = 101
IDLE_S = 0.5
both_ways = pytest.mark.parametrize("way", [STEERED, BOUND], ids=lambda way: way.name)


@pytest.fixture(scope="module")
def topology():
    with Topology() as topology:
        yield topology


@contextlib.contextmanager
def running(directory, topology, *options, files=0):
    host = Limited(topology.relay, files) if files else topology.relay
    with RunningRelay(directory, *options, host=host) as relay:
        yield relay
        assert relay.stop() == 0
        assert "Traceback" not in relay.log
        assert "unexpected" not in relay.log


def test_out_of_descriptors(topology, tmp_path):
    """Media cannot be had, every control socket is served on, and the end of calls makes room for others."""
    cunix = tmp_path / "cunix.sock"
    control = ("-F", "-s", f"udp:127.0.0.1:{CONTROL}", "-s", f"cunix:{cunix}")
    with (
        running(tmp_path, topology, *BOUND.options, *control, files=FILES) as relay,
        topology.relay.socket() as datagrams,
        socket.socket(socket.AF_UNIX) as lines,
    ):
        datagrams.settimeout(DEADLINE_S)
        datagrams.connect(("127.0.0.1", CONTROL))
        lines.settimeout(DEADLINE_S)
        lines.connect(str(cunix))

        def ask(command):
            """Over the connection that stays: a new one would take a descriptor for as long as the command takes."""
            lines.sendall(f"{command}\n".encode())
            return lines.recv(100).decode().strip()

        given = 0
        while ask(f"U c{given} 10.0.1.2 4000 f").isdigit():
            given += 1
            assert given < FILES
        for attempt in range(20):
            assert relay.ask(f"U more{attempt} 10.0.1.2 4000 f") == "E72"
            assert relay.ask("L c0 10.0.2.2 5000 f t") == "E71"
            assert relay.ask("Un c0 10.0.1.2 4000 f") == "E71"
            assert ask("L c1 10.0.2.2 5000 f t") == "E71"
            datagrams.send(b"%d L c2 10.0.2.2 5000 f t" % attempt)
            assert datagrams.recv(100) == b"%d E71\n" % attempt
        assert relay.totals()["active sessions"] == given
        for number in range(3, 9):
            assert relay.ask(f"D c{number} f") == "0"
        for number in range(3):
            assert ask(f"L c{number} 10.0.2.2 5000 f t").isdigit()
        for number in range(3):
            assert ask(f"U again{number} 10.0.1.2 4000 f").isdigit()
        assert ask("U more 10.0.1.2 4000 f") == "E72"
        assert relay.log.count("sessions: over 80 %") == 1


def test_connections_do_not_use_up_the_descriptors(topology, tmp_path):
    """Those beyond their share are closed; media and other control sockets have the rest."""
    cunix = tmp_path / "cunix.sock"
    with (
        running(tmp_path, topology, *BOUND.options, "-s", f"cunix:{cunix}", files=64) as relay,
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(50)]
        for connection in connections:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(cunix))
        assert [connection.recv(100) for connection in connections[8:]] == [b""] * 42
        for connection in connections[:8]:
            connection.sendall(b"V\n")
            assert connection.recv(100) == b"20040107\n"
        for number in range(5):
            assert relay.ask(f"U c{number} 10.0.1.2 4000 f").isdigit()


def test_media_that_have_every_descriptor(topology, tmp_path):
    """Calls can still be ended over a socket that must be accepted; connections that cannot be, wait quietly."""
    cunix = tmp_path / "cunix.sock"
    with (
        running(tmp_path, topology, *BOUND.options, "-s", f"cunix:{cunix}", files=64) as relay,
        contextlib.ExitStack() as stack,
    ):
        given = ask_while_digits(relay, "U c{} 10.0.1.2 4000 f")
        ask_while_digits(relay, "L c{} 10.0.2.2 5000 f t")
        served, waiting = [], None
        while waiting is None:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(cunix))
            connection.sendall(b"V\n")
            if wait_for(lambda one=connection: what_happened(relay, one), DEADLINE_S, "an answer") == "refused":
                waiting = connection
            else:
                served.append(connection)
        assert len(served) < 4
        used_s, start = cpu_s(relay), time.monotonic()
        wait_for(lambda: time.monotonic() > start + IDLE_S, DEADLINE_S, "time to pass")
        assert cpu_s(relay) - used_s < IDLE_S / 2
        assert relay.ask("U more 10.0.1.2 4000 f") == "E72"
        assert relay.ask("D c0 f") == "0"
        waiting.settimeout(DEADLINE_S)
        assert waiting.recv(100) == b"20040107\n"
        assert relay.totals()["active sessions"] == given - 1
        assert relay.log.count("cannot accept a control connection") == 1


def ask_while_digits(relay, command):
    """Ask for calls 0, 1, 2 and so on until one is refused; how many were not."""
    for number in itertools.count():
        if not relay.ask(command.format(number)).isdigit():
            return number
    raise AssertionError


def what_happened(relay, connection):
    """To a command on a new connection."""
    if select.select([connection], [], [], 0)[0]:
        return "answered" if connection.recv(100) else "closed"
    return "refused" if "cannot accept a control connection" in relay.log else ""


def cpu_s(relay):
    """Processor time that the relay used."""
    fields = Path(f"/proc/{relay.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@both_ways
def test_a_range_of_one_pair(topology, tmp_path, way):
    with running(tmp_path, topology, *way.options, "-m", "20000", "-M", "20001") as relay:
        for number in range(5):
            call = f"c{number}"
            assert relay.port(f"U {call} 10.0.1.2 4000 f") == 20000
            assert relay.port(f"U {call} 10.0.1.2 4000 f") == 20000
            assert relay.ask(f"L {call} 10.0.2.2 5000 f t") == "E71"
            assert relay.ask(f"Un {call} 10.0.1.2 4000 f") == "E71"
            assert relay.ask("U other 10.0.1.2 4000 f") == "E72"
            assert relay.port(f"U {call} 10.0.1.2 4000 f") == 20000
            assert relay.ask(f"D {call} f") == "0"
        assert relay.totals()["active sessions"] == 0


@both_ways
@pytest.mark.parametrize("control", ["127.0.0.1:20004", "127.0.0.1:20005", "*:20005"])
def test_no_media_port_is_a_control_port(topology, tmp_path, way, control):
    options = ("-F", "-m", "20000", "-M", "20009", "-s", f"udp:{control}")
    with running(tmp_path, topology, *way.options, *options) as relay:
        replies = [relay.ask(f"U c{number} 10.0.1.2 4000 f") for number in range(5)]
        assert sorted(replies) == ["20000", "20002", "20006", "20008", "E72"]
