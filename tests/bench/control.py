"""Call set-ups a second over the control sockets, the time of an idle check, and memory."""

import contextlib
import os
import random
import re
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from rtpproxy.config import Config
from rtpproxy.control.messages import Lookup, MediaDescription, Update
from rtpproxy.kernel import Programs
from rtpproxy.offload.forwarder import Forwarder
from rtpproxy.service import Service
from rtpproxy.session.ports import PortAllocator
from tests.running import RunningRelay

CALLS = 3000
HELD_CALLS = 15_000
RELAY_CPU, CLIENT_CPU = 1, 0
REPLY_DEADLINE_S = 10.0


def measure_control() -> None:
    """Print the table of call set-ups, and the delay of single commands."""
    click.echo("\n| control socket | in flight | set-ups (U, L, D)/s | p50 us | p99 us |\n|---|---|---|---|---|")
    with _relay("-s", "udp:127.0.0.1:22990") as relay:
        for in_flight in (1, 8, 64):
            delays, elapsed_s = _udp_calls(("127.0.0.1", 22990), in_flight)
            _show("udp", in_flight, delays, elapsed_s)
        delays, elapsed_s = _unix_calls(relay)
        _show("unix", 1, delays, elapsed_s)


def measure_memory() -> None:
    """Print what the process holds when idle, on the default range and on the widest, and for each call."""
    with _relay() as relay:
        default = _resident_kb(relay)
    with _relay("-m", "2048", "-M", "65000") as relay:
        idle = _resident_kb(relay)
        for number in range(HELD_CALLS):
            relay.port(f"U call{number}@host.example 192.0.2.7 {2 * number % 60000} from{number}")
            relay.port(f"L call{number}@host.example 192.0.2.8 {2 * number % 60000} from{number} to{number}")
        held = _resident_kb(relay)
        descriptors = len(os.listdir(f"/proc/{relay.process.pid}/fd"))
    click.echo(
        f"\nmemory: {default / 1024:.1f} MB idle on 30,000 ports, {idle / 1024:.1f} MB on 63,000; "
        f"{HELD_CALLS:,} calls held: {held / 1024:.1f} MB, "
        f"{(held - idle) / HELD_CALLS:.2f} KB a call, {descriptors} descriptors"
    )


def measure_idle_check() -> None:
    """Print how long it takes to find the idle ones among 60,000 streams that the kernel's counters belong to."""
    config = Config(port_min=2048, port_max=65000)
    programs = Programs(config)
    try:
        service = Service(
            config, _NoMedia(), _CountersOnly(programs), PortAllocator(2048, 65000, True, random.Random())
        )
        for number in range(HELD_CALLS):
            call_id = b"call%d" % number
            service.update(Update(call_id, b"f", None, MediaDescription()), 0.0)
            service.lookup(Lookup(call_id, b"f", b"t", MediaDescription()), 0.0)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            service.tick(1.0)
            times.append(time.perf_counter() - start)
    finally:
        programs.close()
    median, worst = statistics.median(times) * 1e3, max(times) * 1e3
    click.echo(f"\nidle check of {4 * HELD_CALLS:,} streams: {median:.2f} ms (worst of {len(times)}: {worst:.2f} ms)")


class _NoMedia:
    def open(self, rtp_port: int) -> None: ...
    def close(self, rtp_port: int) -> None: ...
    def send(self, *_: object) -> bool:
        return True


class _CountersOnly(Forwarder):
    """The kernel's counters, with nothing to install."""

    def __init__(self, programs: Programs) -> None:
        super().__init__(programs.tables, None)

    def apply(self, *_: object) -> None: ...


@contextlib.contextmanager
def _relay(*options: str) -> Iterator[RunningRelay]:
    directory = tempfile.TemporaryDirectory()
    with directory, RunningRelay(Path(directory.name), "-F", "-d", "ERR", "-l", "127.0.0.1", *options) as relay:
        os.sched_setaffinity(relay.process.pid, {RELAY_CPU})
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {CLIENT_CPU})
        try:
            yield relay
        finally:
            os.sched_setaffinity(0, before)


def _commands(number: int) -> tuple[bytes, bytes, bytes]:
    call = b"call%d@host.example" % number
    return (
        b"U %b 192.0.2.7 49170 fromtag" % call,
        b"L %b 198.51.100.9 30000 fromtag totag" % call,
        b"D %b fromtag totag" % call,
    )


def _udp_calls(address: tuple[str, int], in_flight: int) -> tuple[list[float], float]:
    """Calls, each U then L then D, so many at once; delay of each command, and the time of all, in seconds."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(address)
    client.settimeout(REPLY_DEADLINE_S)
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
        while next_call < min(in_flight, CALLS):
            send(next_call, 0)
            next_call += 1
        while sent:
            cookie, _, reply = client.recv(2048).partition(b" ")
            at, call, step = sent.pop(cookie)
            delays.append(time.perf_counter() - at)
            assert not reply.startswith(b"E"), reply
            if step < 2:
                send(call, step + 1)
            elif next_call < CALLS:
                send(next_call, 0)
                next_call += 1
    return delays, time.perf_counter() - start


def _unix_calls(relay: RunningRelay) -> tuple[list[float], float]:
    delays = []
    start = time.perf_counter()
    for number in range(CALLS):
        for command in _commands(number):
            at = time.perf_counter()
            assert not relay.ask(command.decode()).startswith("E")
            delays.append(time.perf_counter() - at)
    return delays, time.perf_counter() - start


def _show(transport: str, in_flight: int, delays: list[float], elapsed_s: float) -> None:
    cuts = statistics.quantiles(delays, n=100)
    p50_us, p99_us = cuts[49] * 1e6, cuts[98] * 1e6
    click.echo(f"| {transport} | {in_flight} | {len(delays) / 3 / elapsed_s:,.0f} | {p50_us:.0f} | {p99_us:.0f} |")


def _resident_kb(relay: RunningRelay) -> int:
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1])
