"""`make bench`: what the relay forwards and relays, beside the limit of the same machine, in one run.

Bare redirect (the limit), the kernel tier and the userspace tier run in turn, on the same kind of veth topology, with
the same generator and sink; each round gives one ratio, and the medians are printed. Then call set-ups over both kinds
of control socket, media while they go on, the idle check, and memory.
"""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from tests.bench.control import measure_control, on_client_cpu, udp_calls, udp_socket
from tests.bench.resources import measure_idle_check, measure_memory
from tests.bench.traffic import BareRedirect, Generator, Sent, Sink, StreamSpec
from tests.netns import Topology
from tests.running import RunningRelay
from tests.waiting import wait_for

FIRST_CALLER_PORT = 10000
FIRST_CALLEE_PORT = 20000
RELAY_CPU = 1
GENERATOR_CPU = 0
LEARN_INTERVAL_NS = 50_000
PACED_INTERVAL_NS = 10_000
PACED_RATE = 100_000
CONTROL_PORT = 22990


@dataclass(frozen=True)
class Measured:
    """One run of one relay: packets a second that arrived, share lost, delay at 100,000 packets/s in microseconds."""

    rate: float
    loss: float
    p50_us: float = 0.0
    p99_us: float = 0.0


def streams_of(topology: Topology, ports: list[int]) -> list[StreamSpec]:
    """A stream from a port of the caller's to each of the relay's ports."""
    caller = topology.caller
    return [
        StreamSpec(caller.ip, FIRST_CALLER_PORT + 2 * number, caller.gateway.ip, port)
        for number, port in enumerate(ports)
    ]


def set_up_calls(relay: RunningRelay, topology: Topology, calls: int) -> list[int]:
    """Set calls up through the control socket; the port of the relay that each caller sends to."""
    ports = []
    for number in range(calls):
        caller_port, callee_port = FIRST_CALLER_PORT + 2 * number, FIRST_CALLEE_PORT + 2 * number
        relay.port(f"U call{number} {topology.caller.ip} {caller_port} f")
        ports.append(relay.port(f"L call{number} {topology.callee.ip} {callee_port} f t"))
    return ports


@contextmanager
def bare(calls: int) -> Iterator[tuple[Generator, Sink, None]]:
    """The limit: every frame redirected with fixed MACs."""
    with ExitStack() as stack:
        topology = stack.enter_context(Topology())
        ports = [FIRST_CALLEE_PORT + 2 * number for number in range(calls)]
        sink = stack.enter_context(Sink(topology.callee, FIRST_CALLEE_PORT, FIRST_CALLEE_PORT + 2 * calls))
        stack.enter_context(BareRedirect(topology, topology.caller, topology.callee))
        yield (
            stack.enter_context(Generator(topology.caller, streams_of(topology, ports), cpu=GENERATOR_CPU)),
            sink,
            None,
        )


@contextmanager
def relayed(calls: int, *options: str) -> Iterator[tuple[Generator, Sink, RunningRelay]]:
    """The running daemon, with all calls set up and every caller learned; its range just holds 7,500 calls."""
    with ExitStack() as stack:
        topology = stack.enter_context(Topology())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        relay = stack.enter_context(
            RunningRelay(directory, "-d", "ERR", "-m", "34000", "-M", "65000", *options, host=topology.relay)
        )
        os.sched_setaffinity(relay.process.pid, {RELAY_CPU})
        sink = stack.enter_context(Sink(topology.callee, FIRST_CALLEE_PORT, FIRST_CALLEE_PORT + 2 * calls))
        ports = set_up_calls(relay, topology, calls)
        generator = stack.enter_context(Generator(topology.caller, streams_of(topology, ports), cpu=GENERATOR_CPU))
        # Two packets a stream: one to learn from, one that finds the neighbour resolved.
        sent = generator.run(2 * calls * LEARN_INTERVAL_NS / 1e9 + 0.05, LEARN_INTERVAL_NS)
        wait_for(lambda: sink.counts().packets >= sent.packets, 5.0, "all callers to be learned")
        yield generator, sink, relay


def run_once(generator: Generator, sink: Sink, seconds: float, interval_ns: int) -> Measured:
    """Send, wait until what is under way has arrived, and compare."""
    sink.reset()
    return measure(generator.run(seconds, interval_ns), sink)


def measure(sent: Sent, sink: Sink) -> Measured:
    """Wait until what is under way has arrived, and compare."""
    arrived = settle(lambda: sink.counts().packets, sent.packets)
    counts = sink.counts()
    assert counts.bad_ip_checksum + counts.bad_udp_checksum + counts.wrong_length == 0, counts
    delays = sink.delays()
    share = arrived / sent.packets
    return Measured(sent.rate * share, 1 - share, delays.p50_us, delays.p99_us)


def settle(count: Callable[[], int], wanted: int) -> int:
    """The count once it has reached what is wanted, or has stopped growing."""
    seen = [-1]

    def is_settled() -> bool:
        before, seen[0] = seen[0], count()
        return seen[0] >= wanted or before == seen[0]

    wait_for(is_settled, 10.0, "packets under way to arrive")
    return seen[0]


def compare(calls: int, rounds: int, seconds: float) -> tuple[Measured, Measured, float]:
    """Bare redirect and kernel tier in turn: medians of each, and of the ratio."""
    bares, kernels, ratios = [], [], []
    with bare(calls) as (bare_generator, bare_sink, _), relayed(calls) as (generator, sink, relay):
        for _ in range(rounds):
            bares.append(run_once(bare_generator, bare_sink, seconds, 0))
            kernels.append(run_once(generator, sink, seconds, 0))
            ratios.append(kernels[-1].rate / bares[-1].rate)
        bares.append(run_once(bare_generator, bare_sink, seconds, PACED_INTERVAL_NS))
        kernels.append(run_once(generator, sink, seconds, PACED_INTERVAL_NS))
        relay.stop()
    return median(bares), median(kernels), statistics.median(ratios)


def median(runs: list[Measured]) -> Measured:
    """Median rate and worst loss of the full speed runs; delays of the last, paced one."""
    fast, paced = runs[:-1], runs[-1]
    loss = max(run.loss for run in runs)
    return Measured(statistics.median(run.rate for run in fast), loss, paced.p50_us, paced.p99_us)


def show(name: str, calls: int, measured: Measured, ratio: float | None) -> None:
    """One line of the table."""
    share = f"{ratio:.2f}" if ratio is not None else "-"
    click.echo(
        f"| {name} | {calls:,} | {measured.rate:,.0f} | {share} | {measured.loss:.4%} "
        f"| {measured.p50_us:.1f} | {measured.p99_us:.1f} |"
    )


def bench_forwarding(sizes: list[int], rounds: int, seconds: float) -> None:
    """The table of relays."""
    click.echo("| relay | calls | packets/s | of bare | lost | p50 us | p99 us |\n|---|---|---|---|---|---|---|")
    for calls in sizes:
        bare_run, kernel_run, ratio = compare(calls, rounds, seconds)
        show("bare redirect", calls, bare_run, 1.0)
        show("kernel tier", calls, kernel_run, ratio)
        for rate in (40_000, 80_000, 100_000):
            with relayed(calls, "--offload", "off") as (generator, sink, _):
                show(f"userspace tier, at {rate:,}/s", calls, run_once(generator, sink, 2.0, int(1e9 / rate)), None)


def bench_media_under_commands(calls: int, seconds: float) -> None:
    """Media with and without eight commands in flight all the time."""
    click.echo(
        "\n| media, 8 commands in flight | calls | packets/s | lost | p50 us | p99 us | set-ups/s |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, rate, options in (
        ("kernel tier", PACED_RATE, ()),
        ("userspace tier", 20_000, ("--offload", "off")),
    ):
        for is_loaded in (False, True):
            with relayed(calls, "-F", "-s", f"udp:127.0.0.1:{CONTROL_PORT}", *options) as (generator, sink, relay):
                measured, set_ups = run_under_commands(generator, sink, relay, seconds, int(1e9 / rate), is_loaded)
            click.echo(
                f"| {name}, {'loaded' if is_loaded else 'not loaded'} | {calls:,} | {measured.rate:,.0f} "
                f"| {measured.loss:.4%} | {measured.p50_us:.1f} | {measured.p99_us:.1f} | {set_ups:,.0f} |"
            )


def run_under_commands(
    generator: Generator, sink: Sink, relay: RunningRelay, seconds: float, interval_ns: int, is_loaded: bool
) -> tuple[Measured, float]:
    """As `run_once`, while a client sets calls up and deletes them; and how many a second."""
    sink.reset()
    set_ups = 0.0
    generator.start(seconds, interval_ns)
    if is_loaded:
        assert relay.host is not None
        client = udp_socket(("127.0.0.1", CONTROL_PORT), relay.host.socket)
        end = time.monotonic() + seconds
        with on_client_cpu():
            set_ups = udp_calls(client, 8, 1 << 30, lambda: time.monotonic() > end).rate
    return measure(generator.finish(), sink), set_ups


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Pairs of runs for a ratio.")
@click.option("--seconds", default=0.3, show_default=True, help="Length of a run.")
@click.option("--calls", "sizes", multiple=True, type=int, default=(500, 7500), show_default=True)
@click.option("--only", type=click.Choice(["forwarding", "control", "idle"]), help="Leave the other parts out.")
@click.option("--peer", default="", metavar="COMMAND", help="Another RTPproxy, for call set-ups beside ours.")
def main(rounds: int, seconds: float, sizes: tuple[int, ...], only: str | None, peer: str) -> None:
    """Measure and print."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if only in (None, "forwarding"):
        bench_forwarding(list(sizes), rounds, seconds)
    if only in (None, "control"):
        measure_control(peer)
        bench_media_under_commands(sizes[0], 5.0)
    if only in (None, "idle"):
        measure_idle_check()
        measure_memory()


if __name__ == "__main__":
    main()
