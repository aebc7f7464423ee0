"""More calls than a process may open files."""

import contextlib
import itertools
import re
import socket
import struct
from pathlib import Path
from types import SimpleNamespace

from tests.netns_call.call import KERNEL, Call, Limited, Tap, paused, relayed_frame
from tests.running import rtp
from tests.waiting import DEADLINE_S, wait_for

CALLS = 15_000
FILES = 1024
LINES = 50
"""Commands sent before their replies are read."""
MEMORY_KB = 60 * 1024
MEMORY_PER_CALL_KB = 4
NEIGHBOURS = 4200
"""More than the table of next hops once held (4,096). Two of them have a call."""
_IP_PKTINFO = 8
UNDER_WAY = 50
"""Packets sent before they are awaited: a veth's ring has room for them."""


def ask_many(path, commands):
    """Commands over a control socket that stays open; their replies in order."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        replies = client.makefile("r")
        for start in range(0, len(commands), LINES):
            batch = commands[start : start + LINES]
            client.sendall("".join(f"{command}\n" for command in batch).encode())
            for _ in batch:
                yield replies.readline().rstrip("\n")
        replies.close()


def resident_kb(process):
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1])


def test_15000_calls_with_1024_files(start, topology, tmp_path, capsys):
    lines = tmp_path / "lines.sock"
    relay = start("-s", f"cunix:{lines}", "-m", "1026", "-M", "65535", host=Limited(topology.relay, FILES))
    process = relay.process.pid
    empty_kb = resident_kb(process)
    half = CALLS // 2
    others = [f"call{number}" for number in range(CALLS - 1)]
    commands = [f"U {name} 10.0.1.2 4000 f" for name in others]
    commands += [f"L {name} 10.0.2.2 5000 f t" for name in others]
    ports = [*ask_many(lines, commands[:half])]
    # Somewhere among them, a call with phones.
    with Call(relay, topology.caller, topology.callee) as call:
        ports += [*ask_many(lines, commands[half:]), *map(str, call.ports[::2])]
        assert len(set(ports)) == 2 * CALLS
        assert all(int(port) % 2 == 0 and 1026 <= int(port) < 65535 for port in ports)
        assert relay.totals()["active sessions"] == CALLS
        call.establish(KERNEL)
        with paused(relay):
            for number in range(2, 12):
                call.cross(rtp(number))
        full_kb = resident_kb(process)
        files = len(list(Path(f"/proc/{process}/fd").iterdir()))
        with capsys.disabled():
            per_call = (full_kb - empty_kb) / CALLS
            print(
                f"\n{CALLS} calls: {files} files, {empty_kb} kB before, {full_kb} kB with them, {per_call:.2f} kB each"
            )
        assert full_kb <= MEMORY_KB + MEMORY_PER_CALL_KB * CALLS
        assert files < FILES / 10
        assert relay.ask("X") == "0"
        call.caller.rtp.expect_refusal(rtp(12), call.caller.to)
    assert relay.totals()["active sessions"] == 0
    assert relay.ask("Q call0 f t") == "E50"
    assert relay.ask(f"Q {call.tags}") == "E50"
    assert len(set(ask_many(lines, commands[:10]))) == 10


def test_bound_ports_run_out_of_files_in_an_orderly_way(start, topology):
    """A refusal names the reason, and what is set up stays."""
    relay = start("--ports", "bound", "--offload", "off", host=Limited(topology.relay, 64))
    with Call(relay, topology.caller, topology.callee) as call:
        call.cross(rtp(1))
        replies = [relay.ask(f"U c{number} 10.0.1.2 4000 f") for number in range(2, 40)]
        assert replies[-1] == "E72"
        call.cross(rtp(2))
        assert "Too many open files" in relay.log
        assert relay.ask("D c2 f") == "0"
        assert relay.port("U again 10.0.1.2 4000 f")


class Phones:
    """Phones of a flat network, each a neighbour of the relay; one socket of the callee's host stands for all.

    Phone 0 calls phone 1, phone 2 calls phone 3, and so on.
    """

    PORT = 4000

    def __init__(self, topology, count):
        self.callee, self._count = topology.callee, count
        # Resolved already: the host's own limit of neighbours to resolve is lower.
        neighbours = (
            f"neigh add {self.host(n)} lladdr {self.mac(n)} dev to-callee nud permanent" for n in range(count)
        )
        commands = "\n".join(["addr add 10.9.0.1/16 dev to-callee", *neighbours])
        topology.relay.run(["ip", "-batch", "-"], input=commands)
        self.callee.run(["ip", "route", "add", "local", "10.9.0.0/16", "dev", "lo"])
        self._socket = self.callee.socket()
        self._socket.bind(("", self.PORT))
        self._tap = Tap(self.callee)
        self._ports = []

    def close(self):
        self._socket.close()
        self._tap.__exit__()

    @staticmethod
    def host(number):
        return f"10.9.{1 + number // 200}.{1 + number % 200}"

    @staticmethod
    def mac(number):
        return f"02:00:00:09:{number >> 8:02x}:{number & 255:02x}"

    def call(self, lines):
        """Set all calls up, over a control socket `cunix:`."""
        calls = range(0, self._count, 2)
        updates = [f"U call{n} {self.host(n)} {self.PORT} f" for n in calls]
        lookups = [f"L call{n} {self.host(n + 1)} {self.PORT} f t" for n in calls]
        replies = [int(reply.split()[0]) for reply in ask_many(lines, updates + lookups)]
        self._ports = list(zip(replies[: len(calls)], replies[len(calls) :], strict=True))

    def send_all(self, sequence):
        """Send a packet of each caller; each must arrive as one frame at its callee's MAC, and nothing else."""
        calls = iter(range(0, self._count, 2))
        while part := list(itertools.islice(calls, UNDER_WAY)):
            for n in part:
                source = socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4x", 0, socket.inet_aton(self.host(n)))
                to_port = self._ports[n // 2][1]
                self._socket.sendmsg([self._packet(n, sequence)], [source], 0, (self.callee.gateway.ip, to_port))
            expected = {self._expected(n, sequence) for n in part}
            arrived = [self._tap.expect(self._is_relayed) for _ in part]
            assert {frame[:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:] for frame in arrived} == expected

    def _expected(self, n, sequence):
        """The frame for a callee, without its IP identification, and the header checksum over that."""
        phone = SimpleNamespace(mac=self.mac(n + 1), gateway=self.callee.gateway)
        relay, to = (self.callee.gateway.ip, self._ports[n // 2][0]), (self.host(n + 1), self.PORT)
        frame = relayed_frame(phone, relay, to, self._packet(n, sequence), 0)
        return frame[:24] + bytes(2) + frame[26:]

    def _is_relayed(self, frame):
        return frame[6:12] == bytes.fromhex(self.callee.gateway.mac.replace(":", ""))

    @staticmethod
    def _packet(n, sequence):
        return rtp(sequence, ssrc=n + 1)


def test_flat_network_of_phones(start, topology, tmp_path):
    """Each has a row of the next hop table, and the kernel sends every call's media to the right MAC."""
    lines = tmp_path / "lines.sock"
    with contextlib.closing(Phones(topology, NEIGHBOURS)) as phones:
        relay = start("-s", f"cunix:{lines}", "-l", topology.callee.gateway.ip, "-T", "3600")
        phones.call(lines)
        phones.send_all(1)
        wait_for(lambda: f"streams by XDP: {NEIGHBOURS // 2}\n" in relay.ask("It"), DEADLINE_S, "the kernel to forward")
        with paused(relay):
            phones.send_all(2)
    assert "the table of next hops is full" not in relay.ask("It")
