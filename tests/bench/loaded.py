"""Media while calls are set up and deleted all the time."""

import time

import click

from tests.bench.control import on_client_cpu, udp_calls, udp_socket
from tests.bench.relays import Subject, relayed
from tests.bench.runs import Measured, measure

_CONTROL_PORT = 22990
_IN_FLIGHT = 8
_SECONDS = 5.0
_TIERS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("kernel tier", 100_000, ()),
    ("userspace tier", 20_000, ("--offload", "off")),
)
"""Name, packets a second, options."""


def bench_media_under_commands(calls: int) -> None:
    """Media with and without commands in flight all the time."""
    click.echo(
        f"\n| media, {_IN_FLIGHT} commands in flight | calls | packets/s | lost | p50 us | p99 us | set-ups/s |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, rate, options in _TIERS:
        for is_loaded in (False, True):
            with relayed(calls, "-F", "-s", f"udp:127.0.0.1:{_CONTROL_PORT}", *options) as subject:
                measured, set_ups = _run_under_commands(subject, int(1e9 / rate), is_loaded)
            click.echo(
                f"| {name}, {'loaded' if is_loaded else 'not loaded'} | {calls:,} | {measured.rate:,.0f} "
                f"| {measured.loss:.4%} | {measured.p50_us:.1f} | {measured.p99_us:.1f} | {set_ups:,.0f} |"
            )


def _run_under_commands(subject: Subject, interval_ns: int, is_loaded: bool) -> tuple[Measured, float]:
    """As `run_once`, while a client sets calls up and deletes them; and how many a second."""
    generator, sink, relay = subject
    sink.reset()
    set_ups = 0.0
    generator.start(_SECONDS, interval_ns)
    if is_loaded:
        assert relay is not None
        assert relay.host is not None
        client = udp_socket(("127.0.0.1", _CONTROL_PORT), relay.host.socket)
        end = time.monotonic() + _SECONDS
        with on_client_cpu():
            set_ups = udp_calls(client, _IN_FLIGHT, 1 << 30, lambda: time.monotonic() > end).rate
    return measure(generator.finish(), sink), set_ups
