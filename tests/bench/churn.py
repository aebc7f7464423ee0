"""Commands and userspace packets while routes come and go by the thousand, and what looking at many peers costs."""

import asyncio
import contextlib
import statistics
import subprocess
import threading
import time
from typing import Any

from rtpproxy.config import Config
from rtpproxy.offload.programs import Programs
from tests.bench.control import Address, on_client_cpu, udp_socket
from tests.bench.plan import Plan
from tests.bench.priority import put_first
from tests.bench.progress import say
from tests.bench.relays import Subject, relayed
from tests.bench.runs import MeasuringError, measure
from tests.offload.crowd import crowd_of
from tests.running import own_namespace

_CONTROL: Address = ("127.0.0.1", 22990)
_RATE = 10_000
"""Packets a second, all relayed by userspace."""
_COMMAND_PAUSE_S = 0.002
_TICKS = 10
_TICK_S = 1.0


def measure_churn(plan: Plan) -> dict[str, Any]:
    """Commands and packets with and without routes that change; then the rechecks of many peers."""
    runs = []
    # No interface forwards, and yet the routes of all streams are followed.
    with relayed(plan.churn_calls, "-F", "-s", f"udp:{_CONTROL[0]}:{_CONTROL[1]}", "--interface", "lo") as subject:
        for routes in (0, plan.churn_routes):
            say(f"userspace packets and commands while {routes:,} routes are added and removed")
            runs.append(_run(plan, subject, routes))
    return {"calls": plan.churn_calls, "runs": runs, **_measure_rechecks(plan)}


def _run(plan: Plan, subject: Subject, routes: int) -> dict[str, Any]:
    generator, sink, relay = subject.generator, subject.sink, subject.relay
    assert sink is not None
    assert relay is not None
    assert relay.host is not None
    sink.reset()
    client = udp_socket(_CONTROL, relay.host.socket)
    with on_client_cpu(), client:
        generator.start(plan.churn_s, round(1e9 / _RATE))
        churn = _Churn(subject, routes)
        delays = _ask(client.send, client.recv, time.monotonic() + plan.churn_s)
        seconds = churn.finish()
    if seconds > plan.churn_s:
        raise MeasuringError(f"adding and removing {routes:,} routes took {seconds:.1f} s, longer than it was measured")
    measured = measure(generator.finish(), sink)
    cuts = statistics.quantiles(delays, n=100)
    return {
        "routes": routes,
        "seconds": round(seconds, 1),
        "packets_per_s": round(measured.rate),
        "lost": measured.loss,
        "p50_us": measured.p50_us,
        "p99_us": measured.p99_us,
        "command_p50_ms": round(cuts[49] * 1e3, 2),
        "command_p99_ms": round(cuts[98] * 1e3, 2),
        "command_worst_ms": round(max(delays) * 1e3, 2),
    }


class _Churn:
    """Adds routes in the relay's namespace, and removes them again; in a process of its own."""

    def __init__(self, subject: Subject, routes: int) -> None:
        assert subject.relay is not None
        assert subject.relay.host is not None
        via = subject.topology.callee.ip
        lines = [f"20.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 via {via}" for n in range(routes)]
        self._batch = "\n".join(f"route {what} {line}" for what in ("add", "del") for line in lines)
        self._process = subject.relay.host.popen(["ip", "-batch", "-"], stdin=subprocess.PIPE, text=True)
        put_first(self._process.pid)
        self._thread = threading.Thread(target=self._feed)
        self._began_at = self._ended_at = time.monotonic()
        self._thread.start()

    def _feed(self) -> None:
        self._process.communicate(self._batch)
        self._ended_at = time.monotonic()

    def finish(self) -> float:
        """Wait for the end. Returns the seconds that it took."""
        self._thread.join()
        if self._process.returncode:
            raise MeasuringError("a route could not be added, or removed")
        return self._ended_at - self._began_at


def _ask(send: Any, receive: Any, until: float) -> list[float]:
    """Ask one command after the other. Returns the seconds that each took."""
    delays = []
    number = 0
    while time.monotonic() < until:
        number += 1
        at = time.perf_counter()
        send(b"churn%d V" % number)
        receive(2048)
        delays.append(time.perf_counter() - at)
        time.sleep(_COMMAND_PAUSE_S)
    return delays


def _measure_rechecks(plan: Plan) -> dict[str, Any]:
    """The processor time that looking at what has no event takes each second, and the longest turn of the loop."""
    say(f"rechecks of {plan.churn_peers:,} peers")
    config = Config(lowest_port=2048, highest_port=65001)
    with own_namespace(), contextlib.closing(Programs(config)) as programs:
        return asyncio.run(_recheck(programs, config, plan.churn_peers))


async def _recheck(programs: Programs, config: Config, peers: int) -> dict[str, Any]:
    # Permanent neighbours would not be confirmed; others beyond some thousand would be forgotten.
    async with crowd_of(programs, config, peers, "nud reachable extern_learn") as crowd:
        await crowd.longest_turn(lambda: crowd.is_rechecked)
        times, turns = [], []
        for _ in range(_TICKS):
            before = time.process_time()
            crowd.tier.tick()
            await asyncio.sleep(_TICK_S)
            await crowd.longest_turn(lambda: crowd.is_rechecked)
            times.append(time.process_time() - before)
            crowd.tier.tick()
            turns.append(await crowd.longest_turn(lambda: crowd.is_rechecked))
    return {
        "peers": peers,
        "recheck_ms": round(statistics.median(times) * 1e3, 2),
        "turn_ms": round(max(turns) * 1e3, 2),
    }
