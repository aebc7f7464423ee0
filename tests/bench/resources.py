"""What a relay holds: the time of an idle check, memory, open files."""

import os
import random
import re
import statistics
import tempfile
import time
from pathlib import Path

import click

from rtpproxy.config import Config
from rtpproxy.offload.off import NoEntries
from rtpproxy.offload.tier import Programs
from rtpproxy.service.requests import Lookup, MediaDescription, Update
from rtpproxy.service.sessions import Service
from rtpproxy.session.local import LocalAddresses
from rtpproxy.session.ports import PortAllocator
from tests.running import RunningRelay

HELD_CALLS = 15_000


def measure_memory() -> None:
    """Print what the process holds when idle, on the default range and on the widest, and for each call."""
    with tempfile.TemporaryDirectory() as directory:
        with _relay(directory) as relay:
            default = _resident_kb(relay)
        with _relay(directory, "-m", "2048", "-M", "65000") as relay:
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
    config = Config(lowest_port=2048, highest_port=65001)
    local_addresses = LocalAddresses(config.listen, False, lambda _: None)
    programs = Programs(config)

    def new_ports() -> PortAllocator:
        return PortAllocator(2048, 65000, True, random.Random())

    try:
        service = Service(
            *(config, local_addresses, _NoMedia(), NoEntries("not measured"), programs.tables, new_ports),
            observers=(),
            capacity=2 * HELD_CALLS,
        )
        for number in range(HELD_CALLS):
            call_id = b"call%d" % number
            service.update(Update(call_id, b"f", None, MediaDescription()), "", 0.0)
            service.lookup(Lookup(call_id, b"f", b"t", MediaDescription()), 0.0)
        # All sessions are idle but for what the kernel saw, so that it is asked about each.
        now = 2.0 * config.idle_timeout_s
        programs.tables._last_seen_ns[:] = int(now * 1e9)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            service.tick(now)
            times.append(time.perf_counter() - start)
    finally:
        programs.close()
    median, worst = statistics.median(times) * 1e3, max(times) * 1e3
    click.echo(f"\nidle check of {4 * HELD_CALLS:,} streams: {median:.2f} ms (worst of {len(times)}: {worst:.2f} ms)")


class _NoMedia:
    def open(self, *_: object) -> None: ...
    def close(self, *_: object) -> None: ...
    def send(self, *_: object) -> bool:
        return True


def _relay(directory: str, *options: str) -> RunningRelay:
    return RunningRelay(Path(directory), "-d", "ERR", "-l", "127.0.0.1", *options)


def _resident_kb(relay: RunningRelay) -> int:
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1])
