"""100,000 random commands from all transports at once against the installed daemon, and what is left afterwards."""

import itertools
import os
import re
import socket
import threading
from pathlib import Path
from random import Random

import pytest

from tests.bpf.maps import ProgramMaps, attached_program
from tests.hostile.commands import Address, World
from tests.hostile.storm import DatagramClient, LineClient, OneShotClient, RudeClient
from tests.netns import Topology
from tests.running import RunningRelay
from tests.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ROUND = 16_800
"""Commands; there are three rounds in either way to own ports."""
FIRST, LAST = 20000, 20399
PORTS = range(FIRST, LAST + 1, 2)
CONTROL = 22990
SEED = int(os.environ.get("SEED", "1"))
EXPECTED_ERRORS = re.compile(
    r"ERR:GLOBAL:\w+:\d+: "
    r"(\S+(?: media \d+)?: (no free port pair is left|cannot open a port on 10\.9\.9\.9|no notification: )"
    r"|notification target unix:\S+/nobody.sock: cannot connect)"
)
LINE_CLIENTS = 4
"""Each has a connection all the time."""
PROMPT_BYTES = 8000
"""A second of G.711."""
MEMORY_SLACK = 1.06


class Storm:
    """A relay, its clients, and what its process holds."""

    def __init__(self, directory, topology, *options):
        self.host = topology.relay
        cunix = directory / "cunix.sock"
        for payload_type in (0, 8, 101):
            (directory / f"prompt.{payload_type}").write_bytes(bytes(PROMPT_BYTES))
        self.relay = RunningRelay(
            *(directory, "-F", "-d", "WARN", "-s", f"cunix:{cunix}", "-s", f"udp:127.0.0.1:{CONTROL}"),
            *("-s", f"tcp:127.0.0.1:{CONTROL}", "-m", str(FIRST), "-M", str(LAST), "-T", "600", "-W", "600"),
            *("-l", "10.0.1.1", "-l", "two@10.0.2.1", "-n", f"unix:{directory / 'nobody.sock'}"),
            *("--prompt-directory", str(directory), *options),
            host=topology.relay,
        )
        self.cunix = str(cunix)
        self.notify = f"unix:{directory / 'nobody.sock'}"
        self.clients = []
        self.connections = []

    def __enter__(self):
        self.relay.start()
        return self

    def __exit__(self, *_):
        for connection in self.connections:
            connection.close()
        self.relay.__exit__()

    def connect_clients(self, rng):
        """Two of each transport, and a rude one."""
        unix, index = str(self.relay.socket_path), itertools.count()
        for _ in range(2):
            for kind, address in (
                (DatagramClient, self._connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", CONTROL))),
                (LineClient, self._connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", CONTROL))),
                (LineClient, self._connect(socket.AF_UNIX, socket.SOCK_STREAM, self.cunix)),
                (OneShotClient, unix),
            ):
                self.clients.append(kind(f"client{next(index)}", Random(rng.random()), self.world(), PORTS, address))
        self.clients.append(RudeClient("rude", Random(rng.random()), self.world(), PORTS, (unix, self.cunix)))

    def _connect(self, family, kind, address):
        connection = self.host.socket(family, kind)
        self.connections.append(connection)
        connection.connect(address)
        if (family, kind) == (socket.AF_INET, socket.SOCK_STREAM):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def world(self):
        known = [Address("10.0.1.1"), Address("10.0.2.1", "two", space=1)]
        routes = {"10.0.1.2": "10.0.1.1", "10.0.2.2": "10.0.2.1"}
        return World(known, notify=(self.notify,), routes=routes, foreign=("10.9.9.9",))

    def rage(self, count):
        """All clients at once, each with its share."""
        failures = []

        def run(client):
            try:
                client.run(count // (len(self.clients) - 1) if not isinstance(client, RudeClient) else 50)
            except Exception as error:  # raised again below
                failures.append(error)

        threads = [threading.Thread(target=run, args=(client,)) for client in self.clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def held(self):
        """Space and port of every pair that a client's session has; no pair has two owners."""
        pairs = [pair for client in self.clients for pair in client.model.held]
        assert len(pairs) == len(set(pairs)), "a port was given away twice"
        return set(pairs)

    def sessions(self):
        return [session for client in self.clients for session in client.model.sessions]

    def forget_sessions(self):
        for client in self.clients:
            client.model.sessions.clear()

    def active(self):
        return self.relay.totals()["active sessions"]

    def descriptors(self):
        """Without raw sockets: one for each of our addresses and TOS byte that prompts were sent with is kept."""
        raw = Path(f"/proc/{self.relay.process.pid}/net/raw").read_text().splitlines()[1:]
        return len(os.listdir(f"/proc/{self.relay.process.pid}/fd")) - len(raw)

    def bound_ports(self):
        table = Path(f"/proc/{self.relay.process.pid}/net/udp").read_text().splitlines()[1:]
        return sorted(line.split()[1] for line in table)

    def used_rows(self):
        """None without a port table."""
        program = attached_program(self.host, "to-caller")
        if program is None:
            return None
        with ProgramMaps(program) as maps:
            return maps.used_rows()

    def memory_kb(self):
        status = Path(f"/proc/{self.relay.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])


def end_by_delete_all(storm):
    assert storm.relay.ask("X") == "0"


def end_by_delete(storm):
    for session in storm.sessions():
        tag = session.from_tag
        for command in (f"D {session.call} {tag}", f"Dw {session.call} {tag}", f"Dw {session.call} none {tag}"):
            storm.relay.ask(command)


def end_by_time(storm):
    """A prompt that is heard keeps its session alive, so all are ended first."""
    for session in storm.sessions():
        for tags in (session.from_tag, f"other {session.from_tag}"):
            assert storm.relay.ask(f"S {session.call} {tags}") == "0"
        assert not storm.relay.ask(f"Q {session.call} {session.from_tag} && S ttl=1").startswith("E")
    wait_for(lambda: storm.active() == 0, DEADLINE_S, "the sessions to end")


@pytest.mark.seeded
@pytest.mark.parametrize("options", [(), ("--ports", "bound", "--offload", "off")], ids=["steered+kernel", "bound"])
def test_nothing_is_left_of_a_storm(tmp_path, options):
    with Topology() as topology, Storm(tmp_path, topology, *options) as storm:
        rng = Random(SEED)
        assert storm.active() == 0  # it answers, so its start is over, and its pid file is closed
        descriptors = storm.descriptors() + LINE_CLIENTS
        storm.connect_clients(rng)
        before = descriptors, storm.bound_ports(), storm.used_rows()
        assert before[2] in (0, None)
        memory_kb = []
        try:
            for end in (end_by_delete_all, end_by_delete, end_by_time):
                storm.rage(ROUND)
                held, sessions = storm.held(), storm.sessions()
                assert storm.active() == len(sessions) > 50
                if before[2] is not None:
                    assert storm.used_rows() == 2 * len(held)
                else:
                    assert len(storm.bound_ports()) == len(before[1]) + 2 * len(held)
                end(storm)
                storm.forget_sessions()
                assert storm.active() == 0
                wait_for(lambda: storm.descriptors() <= before[0], DEADLINE_S, f"no more than {before[0]} descriptors")
                assert (storm.descriptors(), storm.bound_ports(), storm.used_rows()) == before
                memory_kb.append(storm.memory_kb())
        except AssertionError as error:
            raise AssertionError(f"{error} with SEED={SEED}") from error
        assert memory_kb[2] < MEMORY_SLACK * memory_kb[1], memory_kb
        assert storm.relay.stop() == 0
        log = storm.relay.log
        assert "Traceback" not in log
        assert "unexpected" not in log
        errors = [line for line in log.splitlines() if line.startswith(("ERR", "CRIT"))]
        assert [line for line in errors if not EXPECTED_ERRORS.match(line)] == []
