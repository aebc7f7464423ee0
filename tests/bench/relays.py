"""What is measured: relays of several kinds, each in a topology of its own, with calls set up and callers learned."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.frames import StreamSpec
from tests.bench.generator import Generator
from tests.bench.programs import ask_unix, pin, started
from tests.bench.redirect import BareRedirect
from tests.bench.runs import settle
from tests.bench.sink import Sink
from tests.netns import Interface, Phone, Topology
from tests.running import RunningRelay
from tests.waiting import wait_for

FIRST_CALLER_PORT = 10000
FIRST_CALLEE_PORT = 20000
RELAY_PORTS = 34000, 65000
"""They just hold both sides of 7,500 calls."""
GENERATOR_CPU = 0
_LEARN_INTERVAL_NS = 50_000
_IDLE_TIMEOUT_S = 3600  # others are measured in between


class Subject(NamedTuple):
    """A relay between a generator and a sink; the daemon, where it is ours."""

    generator: Generator
    sink: Sink
    relay: RunningRelay | None = None


class Families(NamedTuple):
    """IP versions, 4 or 6, of the two sides of a call."""

    caller: int
    callee: int

    def __str__(self) -> str:
        return f"{self.caller}-{self.callee}"


IPV4 = Families(4, 4)


@contextmanager
def bare(calls: int) -> Iterator[Subject]:
    """The limit: every frame redirected with fixed MACs."""
    with ExitStack() as stack:
        topology = _enter_topology(stack)
        stack.enter_context(BareRedirect(topology, topology.caller, topology.callee))
        yield _between(stack, topology, IPV4, [FIRST_CALLEE_PORT + 2 * number for number in range(calls)])


@contextmanager
def kernel_nat(calls: int) -> Iterator[Subject]:
    """The kernel's own way: forwarding, connection tracking, and nftables that change both addresses and the port."""
    with ExitStack() as stack:
        topology = _enter_topology(stack)
        topology.relay.call(_prepare_forwarding)
        _make_room_for_connections(2 * calls)
        ports = [RELAY_PORTS[0] + 2 * number for number in range(calls)]
        topology.relay.run(["nft", "-f", "-"], input=_nat_rules(topology, ports))
        subject = _between(stack, topology, IPV4, ports)
        _learn(subject, calls)
        yield subject


@contextmanager
def relayed(calls: int, *options: str, families: Families = IPV4) -> Iterator[Subject]:
    """The running daemon, with all calls set up and every caller learned."""
    low, high = map(str, RELAY_PORTS)
    everywhere = ("-l", "*", "-6", "six@::") if 6 in families else ()
    with ExitStack() as stack:
        topology = _enter_topology(stack, ipv6=6 in families)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        always = ("-d", "ERR", "-m", low, "-M", high, "-T", str(_IDLE_TIMEOUT_S), *everywhere)
        relay = stack.enter_context(RunningRelay(directory, *always, *options, host=topology.relay))
        pin(relay.process)
        ports = _set_up_calls(relay.port, topology, families, calls)
        subject = _between(stack, topology, families, ports)._replace(relay=relay)
        _learn(subject, calls)
        yield subject


@contextmanager
def in_kernel(calls: int, tier: str, families: Families) -> Iterator[Subject]:
    """The daemon, once it has given every caller's stream to the kernel: by `xdp` or `tc`."""
    with relayed(calls, "--offload", tier, families=families) as subject:
        name = f"streams by {tier.upper()}"
        wait_for(lambda: told(subject).get(name) == calls, 10.0, "the kernel to have all streams")
        yield subject


def told(subject: Subject) -> dict[str, int]:
    """What our daemon tells of its tiers."""
    assert subject.relay is not None
    pairs = (line.rpartition(": ") for line in subject.relay.ask("It").splitlines())
    return {name: int(count) for name, _, count in pairs}


@contextmanager
def other_program(calls: int, command: str) -> Iterator[Subject]:
    """Another RTPproxy, with all calls set up; what it loses in learning is its own affair."""
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


def _enter_topology(stack: ExitStack, *, ipv6: bool = False) -> Topology:
    topology = stack.enter_context(Topology(ipv6=ipv6))
    for host in (topology.caller, topology.relay, topology.callee):
        host.call(_silence)
    return topology


def _silence() -> None:
    """In a host's namespace: a neighbour once found is not asked for again, nor is a router.

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


def _between(stack: ExitStack, topology: Topology, families: Families, ports: list[int]) -> Subject:
    """The two ends: a stream from a port of the caller's to each of the relay's ports, and the callee's ports."""
    last_port = FIRST_CALLEE_PORT + 2 * len(ports)
    sink = Sink(topology.callee, FIRST_CALLEE_PORT, last_port, version=families.callee)
    stack.enter_context(sink)
    source, to = (_address(host, families.caller) for host in (topology.caller, topology.caller.gateway))
    streams = [StreamSpec(source, FIRST_CALLER_PORT + 2 * number, to, port) for number, port in enumerate(ports)]
    return Subject(stack.enter_context(Generator(topology.caller, streams, cpu=GENERATOR_CPU)), sink)


def _learn(subject: Subject, calls: int, *, may_lose: bool = False) -> None:
    """Send two packets a stream: one to learn from, one that finds the neighbour resolved."""
    sent = subject.generator.send(2 * calls, _LEARN_INTERVAL_NS)
    if may_lose:
        settle(lambda: subject.sink.counts().packets, sent.packets)
    else:
        wait_for(lambda: subject.sink.counts().packets >= sent.packets, 5.0, "all callers to be learned")


def _set_up_calls(ask: Callable[[str], int], topology: Topology, families: Families, calls: int) -> list[int]:
    """Set calls up through the control socket; the port of the relay that each caller sends to."""
    caller, callee = _address(topology.caller, families.caller), _address(topology.callee, families.callee)
    to_caller, to_callee = _modifiers(caller, callee), _modifiers(callee, caller)
    ports = []
    for number in range(calls):
        caller_port, callee_port = FIRST_CALLER_PORT + 2 * number, FIRST_CALLEE_PORT + 2 * number
        ask(f"U{to_caller} call{number} {caller} {caller_port} f")
        ports.append(ask(f"L{to_callee} call{number} {callee} {callee_port} f t"))
    return ports


def _modifiers(own: str, other: str) -> str:
    """What says in which family a party is, and, if it differs, where the other is."""
    own_family = "6" if ":" in own else ""
    other_literal = f"[{other}]" if ":" in other else other
    return own_family if (":" in own) == (":" in other) else f"{own_family}r{other_literal}"


def _address(host: Phone | Interface, version: int) -> str:
    return host.ip6 if version == 6 else host.ip


def _prepare_forwarding() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text(str(_IDLE_TIMEOUT_S))


def _make_room_for_connections(wanted: int) -> None:
    """The limit is that of the whole system."""
    limit = Path("/proc/sys/net/netfilter/nf_conntrack_max")
    if int(limit.read_text()) < wanted:
        limit.write_text(str(wanted))


def _nat_rules(topology: Topology, ports: list[int]) -> str:
    caller, callee = topology.caller, topology.callee
    elements = ", ".join(f"{port} : {callee.ip} . {FIRST_CALLEE_PORT + 2 * n}" for n, port in enumerate(ports))
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
