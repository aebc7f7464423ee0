"""Call set-ups a second over the control sockets, beside another program, and media while they go on."""

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

from tests.bench.programs import REPLY_DEADLINE_S, ask_unix, started
from tests.running import PROGRAM

CALLS = 3000
"""Set up in one run."""
HELD_CALLS = 1000
ROUNDS = 5
CLIENT_CPU = 0
PORT = 22990
Address = tuple[str, int]


@dataclass(frozen=True)
class Run:
    """Calls a second, and what single commands took."""

    rate: float
    p50_us: float
    p99_us: float


class Server:
    """A program with the command line of an RTPproxy, on a core of its own, that holds calls."""

    def __init__(self, name: str, command: str, port: int) -> None:
        self.name = name
        self.udp = "127.0.0.1", port
        self._command = command

    def __enter__(self) -> "Server":
        with contextlib.ExitStack() as stack:
            low = 10000 + (self.udp[1] - PORT) * 25000
            options = f"-l 127.0.0.1 -m {low} -M {low + 24999} -s udp:127.0.0.1:{self.udp[1]}"
            _, self.unix = stack.enter_context(started(self._command, options))
            hold_calls(udp_socket(self.udp), HELD_CALLS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def measure_control(peer: str) -> None:
    """Print the table of call set-ups; `peer` is the command of another program, empty for none."""
    click.echo(
        f"\n{HELD_CALLS:,} calls held; medians of {ROUNDS} rounds, in turn\n"
        "| program | control socket | in flight | set-ups (U, L, D)/s | of peer | p50 us | p99 us |\n"
        "|---|---|---|---|---|---|---|"
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_client_cpu())
        servers = [stack.enter_context(Server("rtpproxy", f"{PROGRAM} -d ERR", PORT))]
        if peer:
            servers.append(stack.enter_context(Server("peer", peer, PORT + 1)))
        for in_flight in (1, 8, 64):
            _compare(servers, "udp", in_flight, lambda server, n=in_flight: udp_calls(udp_socket(server.udp), n, CALLS))
        _compare(servers, "unix", 1, lambda server: unix_calls(server.unix, CALLS))


def _compare(servers: list[Server], transport: str, in_flight: int, measure: Callable[[Server], Run]) -> None:
    rounds = [[measure(server) for server in servers] for _ in range(ROUNDS)]
    ratio = statistics.median(runs[0].rate / runs[-1].rate for runs in rounds)
    for number, server in enumerate(servers):
        runs = [of_round[number] for of_round in rounds]
        rate, p50_us, p99_us = (statistics.median(getattr(run, name) for run in runs) for name in Run.__annotations__)
        share = f"{ratio:.2f}" if len(servers) > 1 and number == 0 else "-"
        click.echo(
            f"| {server.name} | {transport} | {in_flight} | {rate:,.0f} | {share} | {p50_us:.0f} | {p99_us:.0f} |"
        )


def udp_socket(address: Address, make: Callable[[], socket.socket] | None = None) -> socket.socket:
    """A client's socket; `make` makes it elsewhere than here."""
    client = make() if make else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(address)
    client.settimeout(REPLY_DEADLINE_S)
    return client


def _commands(number: int) -> tuple[bytes, bytes, bytes]:
    call = b"call%d@host.example" % number
    return (
        b"U %b 192.0.2.7 49170 fromtag" % call,
        b"L %b 198.51.100.9 30000 fromtag totag" % call,
        b"D %b fromtag totag" % call,
    )


def hold_calls(client: socket.socket, calls: int) -> None:
    """Set calls up, and leave them."""
    with client:
        for number in range(calls):
            for step, command in enumerate(_commands(-1 - number)[:2]):
                client.send(b"h%d_%d " % (number, step) + command)
                assert b" E" not in client.recv(2048)


def udp_calls(client: socket.socket, in_flight: int, calls: int, until: Callable[[], bool] = lambda: False) -> Run:
    """Calls, each U then L then D, so many at once, up to `calls` or until told."""
    prefix = b"%d_%d_" % (time.monotonic_ns(), in_flight)
    sent: dict[bytes, tuple[float, int, int]] = {}
    delays: list[float] = []
    next_call = 0

    def send(call: int, step: int) -> None:
        cookie = b"%b%d_%d" % (prefix, call, step)
        sent[cookie] = time.perf_counter(), call, step
        client.send(cookie + b" " + _commands(call)[step])

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
    """Calls, each U then L then D, one connection a command."""
    delays = []
    start = time.perf_counter()
    for number in range(calls):
        for command in _commands(number):
            at = time.perf_counter()
            assert not ask_unix(path, command).startswith(b"E")
            delays.append(time.perf_counter() - at)
    return _run(delays, time.perf_counter() - start)


def _run(delays: list[float], elapsed_s: float) -> Run:
    cuts = statistics.quantiles(delays, n=100)
    return Run(len(delays) / 3 / elapsed_s, cuts[49] * 1e6, cuts[98] * 1e6)


@contextlib.contextmanager
def on_client_cpu() -> Iterator[None]:
    """This process on the core that clients share."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
