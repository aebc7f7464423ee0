"""Relays of several kinds to measure, each in a topology of its own, with calls set up and callers learned."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.frames import StreamSpec
from tests.bench.generator import Generator
from tests.bench.programs import ask_unix, pin, started
from tests.bench.redirect import BareRedirect, Drop
from tests.bench.runs import MeasuringError, settle
from tests.bench.sink import Sink
from tests.netns import Interface, Phone, Topology
from tests.running import PROGRAM, RunningRelay
from tests.waiting import wait_for

RELAY_PORTS = 34000, 65000
"""They just hold both sides of 7,500 calls."""
_FIRST_CALLER_PORT, _CALLER_PORTS = 10000, 27000
_FIRST_CALLEE_PORT, _CALLEE_PORTS = 20000, 22000
"""First port, and how many calls have one of their own."""
GENERATOR_CPU = 0
_LEARN_INTERVAL_NS = 50_000
_LEARN_ROUNDS = 20
_IDLE_TIMEOUT_S = 3600  # others are measured in between
DEADLINE_S = 60.0


class Subject(NamedTuple):
    """A relay between a generator and a sink, if there is one; topology, streams and the daemon, where it is ours."""

    generator: Generator
    sink: Sink | None
    topology: Topology
    streams: list[StreamSpec]
    relay: RunningRelay | None = None


class Families(NamedTuple):
    """IP versions, 4 or 6, of the two sides of a call."""

    caller: int
    callee: int

    def __str__(self) -> str:
        return f"{self.caller}-{self.callee}"


IPV4 = Families(4, 4)


@contextmanager
def dropped(calls: int) -> Iterator[Subject]:
    """No relay: the interface drops every frame, so that only the generator takes time."""
    with ExitStack() as stack:
        topology = _enter_topology(stack)
        stack.enter_context(Drop(topology, topology.caller, topology.callee))
        ports = [callee_port(number) for number in range(calls)]
        yield _between(stack, topology, IPV4, ports)._replace(sink=None)


@contextmanager
def bare(calls: int, version: int = 4) -> Iterator[Subject]:
    """The least a relay can do: every frame redirected with fixed MACs."""
    with ExitStack() as stack:
        topology = _enter_topology(stack, ipv6=version == 6)
        stack.enter_context(BareRedirect(topology, topology.caller, topology.callee))
        ports = [callee_port(number) for number in range(calls)]
        yield _between(stack, topology, Families(version, version), ports)


@contextmanager
def kernel_nat(calls: int) -> Iterator[Subject]:
    """The kernel's own way: forwarding, connection tracking, and nftables that change both addresses and the port."""
    with ExitStack() as stack:
        topology = _enter_topology(stack)
        topology.relay.call(_prepare_forwarding)
        ports = [RELAY_PORTS[0] + 2 * number for number in range(calls)]
        topology.relay.run(["nft", "-f", "-"], input=_nat_rules(topology, ports))
        subject = _between(stack, topology, IPV4, ports)
        _learn(subject, calls)
        yield subject


@contextmanager
def relayed(
    calls: int,
    *options: str,
    families: Families = IPV4,
    program: str = PROGRAM,
    ports: tuple[int, int] = RELAY_PORTS,
    modifiers: str = "",
    steady: int = 0,
) -> Iterator[Subject]:
    """The running daemon, with all calls set up and every caller learned.

    `modifiers` go with each U; the generator's first `steady` streams have a pace of their own.
    """
    low, high = map(str, ports)
    everywhere = ("-l", "*", "-6", "six@::") if 6 in families else ()
    with ExitStack() as stack:
        topology = _enter_topology(stack, ipv6=6 in families)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        always = ("-d", "ERR", "-m", low, "-M", high, "-T", str(_IDLE_TIMEOUT_S), *everywhere)
        relay = stack.enter_context(
            RunningRelay(directory, *always, *options, host=topology.relay, program=program, drops_old=True)
        )
        pin(relay.process)
        relay_ports = _set_up_calls(relay.port, topology, families, calls, modifiers)
        subject = _between(stack, topology, families, relay_ports, steady)._replace(relay=relay)
        _learn(subject, calls)
        yield subject


@contextmanager
def in_kernel(calls: int, tier: str, families: Families, program: str = PROGRAM) -> Iterator[Subject]:
    """The daemon, once it has given every caller's stream to the kernel: by `xdp` or `tc`."""
    with relayed(calls, "--offload", tier, families=families, program=program) as subject:
        wait_for_kernel(subject, tier, calls)
        yield subject


def wait_for_kernel(subject: Subject, tier: str, streams: int) -> None:
    """Wait until the daemon has given so many streams to the kernel."""
    name = f"streams by {tier.upper()}"
    wait_for(lambda: told(subject).get(name) == streams, DEADLINE_S, f"the kernel to have {streams:,} {name}")


def told(subject: Subject) -> dict[str, int]:
    """Our daemon's answer to `It`, by name."""
    assert subject.relay is not None
    pairs = (line.rpartition(": ") for line in subject.relay.ask("It").splitlines())
    return {name: int(count) for name, _, count in pairs}


@contextmanager
def other_program(calls: int, command: str) -> Iterator[Subject]:
    """Another RTPproxy, with all calls set up; it may lose packets while it learns."""
    low, high = RELAY_PORTS
    with ExitStack() as stack:
        topology = _enter_topology(stack)
        options = f"-l {topology.caller.gateway.ip} -m {low} -M {high}"
        _, path = stack.enter_context(started(command, options, topology.relay.popen))

        def port(command: str) -> int:
            reply = ask_unix(path, f"{command}\n".encode())
            assert not reply.startswith(b"E"), f"{command} -> {reply!r}"
            return int(reply.split()[0])

        ports = _set_up_calls(port, topology, IPV4, calls)
        subject = _between(stack, topology, IPV4, ports)
        _learn(subject, calls, may_lose=True)
        yield subject


def caller_port(number: int) -> int:
    """Of a call; the first 27,000 have one of their own."""
    return _FIRST_CALLER_PORT + 2 * (number % _CALLER_PORTS)


def callee_port(number: int) -> int:
    """Of a call; the first 22,000 have one of their own."""
    return _FIRST_CALLEE_PORT + 2 * (number % _CALLEE_PORTS)


def _enter_topology(stack: ExitStack, *, ipv6: bool = False) -> Topology:
    topology = stack.enter_context(Topology(ipv6=ipv6))
    for host in (topology.caller, topology.relay, topology.callee):
        host.call(_silence)
    return topology


def _silence() -> None:
    """Keep a host's namespace from asking again for neighbours that it has found, and for routers.

    One frame sent from the other core in the middle of a run would have the interface that it reaches served there to
    the end of the run, and the generator, no longer held up by that work, would lose most of what it sends.
    """
    settings = {
        "ipv?/neigh/*/base_reachable_time_ms": _IDLE_TIMEOUT_S * 1000,
        "ipv?/neigh/*/delay_first_probe_time": _IDLE_TIMEOUT_S,
        "ipv6/conf/*/accept_ra": 0,
    }
    for pattern, value in settings.items():
        for path in Path("/proc/sys/net").glob(pattern):
            path.write_text(str(value))


def _between(stack: ExitStack, topology: Topology, families: Families, ports: list[int], steady: int = 0) -> Subject:
    """The two ends: a stream from a port of the caller's to each of the relay's ports, and the callee's ports."""
    last_port = callee_port(min(len(ports), _CALLEE_PORTS) - 1)
    sink = Sink(topology.callee, _FIRST_CALLEE_PORT, last_port, version=families.callee)
    stack.enter_context(sink)
    source, to = (_address(host, families.caller) for host in (topology.caller, topology.caller.gateway))
    streams = [StreamSpec(source, caller_port(number), to, port) for number, port in enumerate(ports)]
    generator = stack.enter_context(Generator(topology.caller, streams, cpu=GENERATOR_CPU, steady=steady))
    return Subject(generator, sink, topology, streams)


def _learn(subject: Subject, calls: int, *, may_lose: bool = False) -> None:
    """Send a packet of each stream to learn from, then more, until a round of them has arrived whole.

    A machine that is busy with other things may need more rounds than two.
    """
    sink = subject.sink
    assert sink is not None
    for attempt in range(_LEARN_ROUNDS):
        before = sink.counts().packets
        subject.generator.send_round(_LEARN_INTERVAL_NS)
        arrived = settle(lambda: sink.counts().packets - before, calls)  # noqa: B023 - called before it changes
        if attempt and (may_lose or arrived == calls):
            return
    raise MeasuringError(f"callers were not learned: {arrived:,} of {calls:,} packets arrived, time after time")


def _set_up_calls(
    ask: Callable[[str], int], topology: Topology, families: Families, calls: int, modifiers: str = ""
) -> list[int]:
    """Set calls up through the control socket; the port of the relay that each caller sends to."""
    caller, callee = _address(topology.caller, families.caller), _address(topology.callee, families.callee)
    to_caller, to_callee = _modifiers(caller, callee), _modifiers(callee, caller)
    ports = []
    for number in range(calls):
        ask(f"U{modifiers}{to_caller} call{number} {caller} {caller_port(number)} f")
        ports.append(ask(f"L{to_callee} call{number} {callee} {callee_port(number)} f t"))
    return ports


def _modifiers(own: str, other: str) -> str:
    """Modifiers that say in which family a party is and, if it differs, where the other is."""
    own_family = "6" if ":" in own else ""
    other_literal = f"[{other}]" if ":" in other else other
    return own_family if (":" in own) == (":" in other) else f"{own_family}r{other_literal}"


def _address(host: Phone | Interface, version: int) -> str:
    return host.ip6 if version == 6 else host.ip


def _prepare_forwarding() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text(str(_IDLE_TIMEOUT_S))


def make_room_for_connections(wanted: int) -> None:
    """Raise the limit of the whole system; only the host's own namespace may."""
    limit = Path("/proc/sys/net/netfilter/nf_conntrack_max")
    if int(limit.read_text()) < wanted:
        limit.write_text(str(wanted))


def _nat_rules(topology: Topology, ports: list[int]) -> str:
    caller, callee = topology.caller, topology.callee
    elements = ", ".join(f"{port} : {callee.ip} . {callee_port(n)}" for n, port in enumerate(ports))
    return f"""
        table ip relay {{
            map callees {{ type inet_service : ipv4_addr . inet_service; elements = {{ {elements} }} }}
            chain before {{
                type nat hook prerouting priority dstnat
                iifname {caller.gateway.ifname} dnat to udp dport map @callees
            }}
            chain after {{
                type nat hook postrouting priority srcnat
                oifname {callee.gateway.ifname} snat to {callee.gateway.ip}
            }}
        }}
    """
