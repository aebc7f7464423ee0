"""Memory and open files of a relay that holds calls, and the time of its idle check."""

import asyncio
import os
import random
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rtpproxy.config import Config
from rtpproxy.offload.off import NoEntries
from rtpproxy.offload.programs import Programs
from rtpproxy.recording.carrier import Carrier
from rtpproxy.recording.off import NoRecorder
from rtpproxy.recording.tapper import Tapper
from rtpproxy.service.copies import UserspaceCopier
from rtpproxy.service.requests import Lookup, MediaDescription, Update
from rtpproxy.service.sessions import Service
from rtpproxy.session.local import LocalAddresses
from rtpproxy.session.ports import PortAllocator
from tests.bench.plan import Plan
from tests.bench.progress import say
from tests.fakes import FakePlayers
from tests.running import RunningRelay

_CHECKS = 50


def measure_memory(plan: Plan) -> dict[str, Any]:
    """Memory of the process when idle, on the default range of ports and on the widest, and of each call."""
    calls = plan.held_calls
    say(f"memory, {calls:,} calls held")
    with tempfile.TemporaryDirectory() as directory:
        with _relay(directory) as relay:
            default = _resident_kb(relay)
        with _relay(directory, "-m", "2048", "-M", "65000") as relay:
            idle = _resident_kb(relay)
            for number in range(calls):
                relay.port(f"U call{number}@host.example 192.0.2.7 {2 * number % 60000} from{number}")
                relay.port(f"L call{number}@host.example 192.0.2.8 {2 * number % 60000} from{number} to{number}")
            held = _resident_kb(relay)
            files = len(os.listdir(f"/proc/{relay.process.pid}/fd"))
    return {
        "calls": calls,
        "default_mb": round(default / 1024, 1),
        "widest_mb": round(idle / 1024, 1),
        "held_mb": round(held / 1024, 1),
        "call_kb": round((held - idle) / calls, 2),
        "files": files,
    }


def measure_idle_check(plan: Plan) -> dict[str, Any]:
    """The time that it takes to find the idle ones among all streams, by the kernel's counters."""
    calls = plan.held_calls
    say(f"idle check, {4 * calls:,} streams")
    config = Config(lowest_port=2048, highest_port=65001)
    local_addresses = LocalAddresses(config.listen, False, lambda _: None)
    programs = Programs(config)

    def new_ports() -> PortAllocator:
        return PortAllocator(2048, 65000, True, random.Random())

    loop = asyncio.new_event_loop()
    carrier = Carrier(loop, None, time.monotonic)
    try:
        service = Service(
            *(config, local_addresses, media := _NoMedia(), NoEntries("not measured"), programs.tables.counts),
            *(NoRecorder(), UserspaceCopier(media), Tapper(carrier), carrier, FakePlayers(), new_ports),
            observers=(),
            capacity=2 * calls,
            later=lambda *_: None,
        )
        for number in range(calls):
            call_id = b"call%d" % number
            service.update(Update(call_id, b"f", None, MediaDescription()), "", 0.0)
            service.lookup(Lookup(call_id, b"f", b"t", MediaDescription()), 0.0)
        # Userspace has seen no packet for too long, the kernel has: so it is asked about each stream.
        now = 2.0 * config.idle_timeout_s
        programs.tables.counts._last_seen_ns[:] = int(now * 1e9)
        times = []
        for _ in range(_CHECKS):
            start = time.perf_counter()
            service.tick(now)
            times.append(time.perf_counter() - start)
    finally:
        programs.close()
        loop.close()
    return {
        "streams": 4 * calls,
        "checks": _CHECKS,
        "median_ms": round(statistics.median(times) * 1e3, 2),
        "worst_ms": round(max(times) * 1e3, 2),
    }


class _NoMedia:
    def take_waiting(self) -> None: ...
    def open(self, *_: object) -> None: ...
    def close(self, *_: object) -> None: ...
    def expect(self, *_: object) -> None: ...
    def send(self, *_: object) -> bool:
        return True

    def waited_too_long(self) -> int:
        return 0

    def no_room(self) -> int:
        return 0


def _relay(directory: str, *options: str) -> RunningRelay:
    return RunningRelay(Path(directory), "-d", "ERR", "-l", "127.0.0.1", *options)


def _resident_kb(relay: RunningRelay) -> int:
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1])
