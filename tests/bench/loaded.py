"""Media while calls are set up and deleted all the time."""

import time
from typing import Any

from tests.bench.control import on_client_cpu, udp_calls, udp_socket
from tests.bench.plan import Plan
from tests.bench.progress import say
from tests.bench.relays import Subject, relayed
from tests.bench.runs import Measured, measure

_CONTROL_PORT = 22990
_TIERS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("kernel tier", 100_000, ()),
    ("userspace tier", 20_000, ("--offload", "off")),
)
"""Name, packets a second, options."""


def measure_media_under_commands(plan: Plan) -> list[dict[str, Any]]:
    """Media with and without commands in flight all the time."""
    calls = plan.sizes[0]
    results = []
    for name, rate, options in _TIERS:
        for is_loaded in (False, True):
            say(f"media by the {name}, {plan.loaded_in_flight if is_loaded else 'no'} commands in flight")
            with relayed(calls, "-F", "-s", f"udp:127.0.0.1:{_CONTROL_PORT}", *options) as subject:
                measured, set_ups = _run_under_commands(plan, subject, rate, is_loaded)
            results.append(
                {
                    "relay": name,
                    "calls": calls,
                    "is_loaded": is_loaded,
                    "packets_per_s": round(measured.rate),
                    "lost": measured.loss,
                    "p50_us": measured.p50_us,
                    "p99_us": measured.p99_us,
                    "set_ups_per_s": round(set_ups),
                }
            )
    return results


def _run_under_commands(plan: Plan, subject: Subject, rate: int, is_loaded: bool) -> tuple[Measured, float]:
    """A run at a pace, while a client sets calls up and ends them if asked to; and the calls it set up a second."""
    generator, sink, relay = subject.generator, subject.sink, subject.relay
    assert sink is not None
    assert relay is not None
    assert relay.host is not None
    sink.reset()
    set_ups = 0.0
    generator.start(plan.loaded_s, round(1e9 / rate))
    if is_loaded:
        client = udp_socket(("127.0.0.1", _CONTROL_PORT), relay.host.socket)
        end = time.monotonic() + plan.loaded_s
        with on_client_cpu():
            set_ups = udp_calls(client, plan.loaded_in_flight, 1 << 30, lambda: time.monotonic() > end).rate
    return measure(generator.finish(), sink), set_ups
