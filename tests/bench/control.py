"""Call set-ups a second over the control sockets, beside another program."""

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.bench.plan import Plan
from tests.bench.programs import REPLY_DEADLINE_S, ask_unix, started
from tests.bench.progress import say
from tests.running import PROGRAM

CLIENT_CPU = 0
PORT = 22990
Address = tuple[str, int]


@dataclass(frozen=True)
class Run:
    """Calls a second, and the microseconds that single commands took."""

    rate: float
    p50_us: float
    p99_us: float


class Server:
    """A program with the command line of an RTPproxy, on a core of its own, that holds calls."""

    def __init__(self, name: str, command: str, port: int, calls: int) -> None:
        self.name = name
        self.udp = "127.0.0.1", port
        self._command = command
        self._calls = calls

    def __enter__(self) -> "Server":
        with contextlib.ExitStack() as stack:
            low = 10000 + (self.udp[1] - PORT) * 25000
            options = f"-l 127.0.0.1 -m {low} -M {low + 24999} -s udp:127.0.0.1:{self.udp[1]}"
            _, self.unix = stack.enter_context(started(self._command, options))
            hold_calls(udp_socket(self.udp), self._calls)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def measure_control(plan: Plan, peer: str) -> list[dict[str, Any]]:
    """Call set-ups over both kinds of control socket; `peer` is the command of another program, empty for none."""
    calls = plan.control_calls
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_client_cpu())
        commands = {"rtpproxy": f"{PROGRAM} -d ERR", **({"peer": peer} if peer else {})}
        servers = [
            stack.enter_context(Server(name, command, PORT + number, plan.controlled_calls))
            for number, (name, command) in enumerate(commands.items())
        ]
        results = []
        for in_flight in (1, 8, 64):

            def measure(server: Server, in_flight: int = in_flight) -> Run:
                return udp_calls(udp_socket(server.udp), in_flight, calls)

            results += _compare(servers, "udp", in_flight, measure, plan.control_rounds)
        results += _compare(servers, "unix", 1, lambda server: unix_calls(server.unix, calls), plan.control_rounds)
    return results


def _compare(
    servers: list[Server], transport: str, in_flight: int, measure: Callable[[Server], Run], rounds: int
) -> list[dict[str, Any]]:
    """The servers in turn; a result for each."""
    say(f"call set-ups over {transport}, {in_flight} in flight")
    in_turn = [[measure(server) for server in servers] for _ in range(rounds)]
    results = []
    for number, server in enumerate(servers):
        runs = [one[number] for one in in_turn]
        result = {
            "program": server.name,
            "transport": transport,
            "in_flight": in_flight,
            "set_ups_per_s": round(statistics.median(run.rate for run in runs)),
            "p50_us": round(statistics.median(run.p50_us for run in runs)),
            "p99_us": round(statistics.median(run.p99_us for run in runs)),
        }
        if server is not servers[-1]:
            result["of_peer"] = round(statistics.median(one[0].rate / one[-1].rate for one in in_turn), 2)
        results.append(result)
    return results


def udp_socket(address: Address, make: Callable[[], socket.socket] | None = None) -> socket.socket:
    """A client's socket; `make` makes it in another namespace."""
    client = make() if make else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(address)
    client.settimeout(REPLY_DEADLINE_S)
    return client


def commands(number: int) -> tuple[bytes, bytes, bytes]:
    call = b"call%d@host.example" % number
    return (
        b"U %b 192.0.2.7 49170 fromtag" % call,
        b"L %b 198.51.100.9 30000 fromtag totag" % call,
        b"D %b fromtag totag" % call,
    )


def hold_calls(client: socket.socket, calls: int) -> None:
    """Set calls up without ending them."""
    with client:
        for number in range(calls):
            for step, command in enumerate(commands(-1 - number)[:2]):
                client.send(b"h%d_%d " % (number, step) + command)
                assert b" E" not in client.recv(2048)


def udp_calls(client: socket.socket, in_flight: int, calls: int, until: Callable[[], bool] = lambda: False) -> Run:
    """Make calls, each U then L then D, `in_flight` at once, up to `calls` of them or until `until` says so."""
    prefix = b"%d_%d_" % (time.monotonic_ns(), in_flight)
    sent: dict[bytes, tuple[float, int, int]] = {}
    delays: list[float] = []
    next_call = 0

    def send(call: int, step: int) -> None:
        cookie = b"%b%d_%d" % (prefix, call, step)
        sent[cookie] = time.perf_counter(), call, step
        client.send(cookie + b" " + commands(call)[step])

    start = time.perf_counter()
    with client:
        while next_call < min(in_flight, calls):
            send(next_call, 0)
            next_call += 1
        while sent:
            cookie, _, reply = client.recv(2048).partition(b" ")
            at, call, step = sent.pop(cookie)
            delays.append(time.perf_counter() - at)
            assert not reply.startswith(b"E"), reply
            if step < 2:
                send(call, step + 1)
            elif next_call < calls and not until():
                send(next_call, 0)
                next_call += 1
    return _run(delays, time.perf_counter() - start)


def unix_calls(path: str, calls: int) -> Run:
    """Make calls, each U then L then D, with a connection for each command."""
    delays = []
    start = time.perf_counter()
    for number in range(calls):
        for command in commands(number):
            at = time.perf_counter()
            assert not ask_unix(path, command).startswith(b"E")
            delays.append(time.perf_counter() - at)
    return _run(delays, time.perf_counter() - start)


def _run(delays: list[float], elapsed_s: float) -> Run:
    cuts = statistics.quantiles(delays, n=100)
    return Run(len(delays) / 3 / elapsed_s, cuts[49] * 1e6, cuts[98] * 1e6)


@contextlib.contextmanager
def on_client_cpu() -> Iterator[None]:
    """Keep this process on the core that clients share."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
