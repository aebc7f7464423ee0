"""More calls than a process may open files."""

import re
import socket
from pathlib import Path

from tests.netns_call.call import KERNEL, Call, Limited, paused
from tests.running import rtp
from tests.waiting import DEADLINE_S

CALLS = 15_000
FILES = 1024
LINES = 50
"""Commands sent before their replies are read."""
MEMORY_KB = 60 * 1024
MEMORY_PER_CALL_KB = 4


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
