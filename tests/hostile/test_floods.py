"""Floods, as fast as the machine makes them, in either latching mode, either tier, and either way to own ports.

Against a relay whose kernel tier forwards they cost the relay next to nothing, and calls nothing at all. What they may
cost is counted, not timed: packets that reach userspace, and the share of a processor that the process of the relay
uses. Where userspace relays everything, nothing bounds a flood (docs/limits.md), but calls get through.

A flood takes seconds of a processor. So only those at an established call in the kernel are played in all combinations;
elsewhere each kind of flood meets each way to own ports and to forward, and each latching mode, but not both at once:
the limits know nothing of the latching mode, and userspace judges all packets of strangers alike.
"""

import re
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from rtpproxy.offload.programs import (
    EXPECTED_PER_SECOND,
    FRAGMENTS_PER_SECOND,
    HOST_LEARNING_PER_SECOND,
    LEARNING_PER_SECOND,
    OTHERS_PER_SECOND,
    SOURCE_LEARNING_PER_SECOND,
)
from rtpproxy.session.loops import RTCP_PER_SECOND, UNNUMBERED_PER_SECOND
from tests.hostile.flood import Flood
from tests.hostile.stage import (
    CALLEE,
    CALLER,
    CALLER_MOVED,
    LATCHING,
    STAGES,
    WAYS,
    add_address,
    check_stream,
    drain,
    stage_name,
)
from tests.netns import Topology, udp_counter
from tests.netns_call.call import BOUND, DEADLINE_S, KERNEL, STEERED, TC, Call, PhonePort, ip, rtcp
from tests.netns_call.traffic import Traffic, both_ways
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FLOOD = 400_000
LONG_FLOOD = 10_000_000
"""A second of it, or more."""
MANY_TIMES = 500
"""Least rate of a flood at one port, in multiples of what the port's limit lets through."""
COMPATIBLE, STRICT = LATCHING
STRANGE = rtp(0x6666, ssrc=0xBAD)
STRANGERS_PORT = 6000
PORT_AT = 36
"""Where the destination port is in a frame with IPv4 and no options."""
OPEN_PORTS = 400
SOURCES = 199
CPU_SHARE = 0.05
"""Of a processor, which the relay may use whatever is dropped in the kernel."""
USERSPACE_PACKET_S = 50e-6
"""Most processor time for a packet that a limit lets through to userspace: some three times a slow machine's."""
TICKS_PER_SECOND = 100


class Arena:
    """Caller, callee, attacker and a running relay."""

    def __init__(self, topology, relay, way):
        self.topology, self.relay, self.way = topology, relay, way
        self.attacker = topology.attacker

    def call(self, name, **options):
        options = {"caller_at": (CALLER, 4000), "callee_at": (CALLEE, 5000), **options}
        return Call(self.relay, self.topology.caller, self.topology.callee, name, **options)

    def frame(self, header, port, payload=STRANGE, *, sport=STRANGERS_PORT, **fields):
        kind = 0x86DD if isinstance(header, IPv6) else 0x0800
        udp = UDP(sport=sport, dport=port, **fields)
        return bytes(
            Ether(src=self.attacker.mac, dst=self.attacker.gateway.mac, type=kind) / header / udp / Raw(payload)
        )

    def header(self, **fields):
        return IP(src=self.attacker.ip, dst=self.attacker.gateway.ip, **fields)

    def header6(self):
        return IPv6(src=self.attacker.ip6, dst=self.attacker.gateway.ip6)

    def frames(self):
        """Frames by verdict up to now."""
        return {name: int(count) for name, count in re.findall(r"frames (\w+): (\d+)", self.relay.ask("It"))}

    def cpu_s(self):
        """Processor time of the relay's process up to now."""
        fields = Path(f"/proc/{self.relay.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def lost(self):
        """Datagrams up to now for which the buffer of a socket had no room: the relay came too late for them."""
        return udp_counter("RcvbufErrors", self.relay.process.pid)

    @staticmethod
    def allowed_cpu_s(frames, seconds):
        """Return the most processor time that the relay may use for a flood, of which these frames were counted."""
        up = sum(count for name, count in frames.items() if name.startswith("up_"))
        return CPU_SHARE * seconds + 0.1 + up * USERSPACE_PACKET_S

    def flood(self, frame, packets=FLOOD, **options):
        """Send the flood. Returns the frames by verdict meanwhile, the seconds that it took, and the processor's."""
        with Flood(self.attacker, frame, **options) as flood:
            before, cpu_s, began = self.frames(), self.cpu_s(), time.monotonic()
            flood.start(packets)
            flood.finish()
            seconds, cpu_s, after = time.monotonic() - began, self.cpu_s() - cpu_s, self.frames()
        moved = {name: count - before.get(name, 0) for name, count in after.items()}
        return {name: count for name, count in moved.items() if count}, seconds, cpu_s


@pytest.fixture(scope="module")
def topology():
    with Topology(ipv6=True) as topology:
        topology.attacker = topology.add_host("attacker")
        for phone, host in ((topology.caller, CALLER), (topology.caller, CALLER_MOVED), (topology.callee, CALLEE)):
            add_address(topology, phone, host)
        yield topology


@pytest.fixture(scope="module")
def arena(request, topology, tmp_path_factory):
    latching, way = request.param
    options = (*way.options, "--latching", latching, "-l", "*", "-6", "six@::")
    with RunningRelay(tmp_path_factory.mktemp("floods"), *options, host=topology.relay) as relay:
        yield Arena(topology, relay, way)
        assert "unexpected" not in relay.log


def in_arenas(*stages):
    return pytest.mark.parametrize("arena", stages, ids=stage_name, indirect=True, scope="module")


IN_KERNEL = tuple(stage for stage in STAGES if stage[1].is_kernel)


def plain(arena, port):
    return arena.frame(arena.header(), port, chksum=0)


def options(arena, port):
    return arena.frame(arena.header(options=[IPOption_Router_Alert()]), port, chksum=0)


def first_fragments(arena, port):
    return arena.frame(arena.header(flags="MF"), port, chksum=0)


def later_fragments(arena, port):
    return arena.frame(arena.header(frag=100), port, chksum=0)


def moved_lengths(arena, port):
    """The datagram is shorter than the packet; the stack cuts the packet and delivers it."""
    return arena.frame(arena.header(), port, STRANGE, len=8 + 150, chksum=0)


WHOLE = {
    "plain": (plain, "up_other_source", "dropped_other_source", OTHERS_PER_SECOND),
    "options": (options, "up_ip_options", "dropped_other_source", OTHERS_PER_SECOND),
    "wrong lengths": (moved_lengths, "up_malformed", "dropped_other_source", OTHERS_PER_SECOND),
}
FRAGMENTS = {
    "first fragments": (first_fragments, "up_fragment", "dropped_other_source", OTHERS_PER_SECOND),
    "later fragments": (later_fragments, "up_fragment", "dropped_fragment", FRAGMENTS_PER_SECOND),
}
FLOODS = {**WHOLE, **FRAGMENTS}
"""How to build a frame, and what is counted: packets for userspace, dropped ones, and the limit of the former."""


@in_arenas(*IN_KERNEL)
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_at_a_call_is_dropped_in_the_kernel(arena, name):
    """The call loses nothing, and neither does one beside it; every packet of the flood is counted, by reason."""
    build, up, dropped, most = FLOODS[name]
    beside_at = {"caller_at": (CALLER, 4010), "callee_at": (CALLEE, 5010)}
    with arena.call(name.replace(" ", "-")) as call, arena.call("beside", **beside_at) as beside:
        for one in (call, beside):
            one.establish(arena.way)
        streams = (*both_ways(call), *both_ways(beside))
        with Traffic(*streams) as traffic:
            traffic.more(50)
            frames, seconds, cpu_s = arena.flood(build(arena, call.caller.to[1]))
            traffic.more(50)
            traffic.finish()
        for stream in streams:
            assert not stream.doubled
        assert frames[up] + frames[dropped] == FLOOD, frames
        assert frames[up] <= (2 + seconds) * most, frames
        assert cpu_s <= arena.allowed_cpu_s(frames, seconds)
        for one in (call, beside):
            assert arena.relay.ask(f"D {one.tags}") == "0"


@in_arenas((COMPATIBLE, KERNEL), (STRICT, TC))
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_that_lasts_costs_a_small_share_of_a_processor(arena, name):
    """Nothing but that is allowed: the floods above are over before the clock of processes has ticked often."""
    with arena.call(f"lasts-{name.replace(' ', '-')}") as call:
        call.establish(arena.way)
        _, seconds, cpu_s = arena.flood(FLOODS[name][0](arena, call.caller.to[1]), LONG_FLOOD)
        assert cpu_s <= CPU_SHARE * seconds
        assert arena.relay.ask(f"D {call.tags}") == "0"


def get_through(arena, build):
    """A call's packets get through a flood, and commands are answered. Returns the packets dropped by userspace."""
    with arena.call("through") as call:
        call.establish(arena.way)
        before = int(arena.relay.ask("G npkts_discard"))
        with while_flooded(arena, call, build):
            for sender, receiver in ((call.caller, call.callee), (call.callee, call.caller)):
                check_stream(arena.way, sender, receiver)
            assert arena.relay.ask("V") == "20040107"
        number = drain(call)
        call.cross(rtp(number))
        call.cross(rtcp(number), is_rtcp=True)
        dropped = int(arena.relay.ask("G npkts_discard")) - before
        assert arena.relay.ask(f"D {call.tags}") == "0"
    return dropped


@in_arenas((COMPATIBLE, STEERED), (STRICT, BOUND))
@pytest.mark.parametrize("name", WHOLE)
def test_a_call_in_userspace_gets_through_a_flood(arena, name):
    """Some of its packets may be lost on their way to the relay."""
    assert get_through(arena, WHOLE[name][0]) > 0


@in_arenas((STRICT, STEERED), (COMPATIBLE, BOUND))
@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_call_in_userspace_gets_through_a_flood_of_fragments(arena, name):
    """The stack never has a whole packet of it to deliver."""
    assert get_through(arena, FRAGMENTS[name][0]) == 0


@in_arenas((COMPATIBLE, KERNEL), (COMPATIBLE, TC), (STRICT, KERNEL))
def test_a_flood_behind_extension_headers(arena):
    with arena.call("six", caller_at=(arena.topology.caller.ip6, 4000)) as call:
        header = arena.header6() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(m=1)
        frames, seconds, cpu_s = arena.flood(arena.frame(header, call.caller.to[1]))
        assert frames["up_extension_header"] + frames["dropped_learning"] == FLOOD, frames
        assert frames["up_extension_header"] <= (2 + seconds) * LEARNING_PER_SECOND
        assert cpu_s <= arena.allowed_cpu_s(frames, seconds)
        assert arena.relay.ask(f"D {call.tags}") == "0"


@in_arenas((COMPATIBLE, KERNEL), (COMPATIBLE, TC), (STRICT, TC))
def test_a_flood_at_many_ports_that_are_still_learning(arena):
    """Calls that are not answered yet. A limit by source and one for the host bound them all."""
    ports = [arena.relay.port(f"U many{number} {CALLER} 4000 f") for number in range(OPEN_PORTS // 2)]
    frames, seconds, cpu_s = arena.flood(
        arena.frame(arena.header(), min(ports), chksum=0), ports=max(ports) - min(ports), port_at=PORT_AT
    )
    assert frames["up_no_entry"] <= (2 + seconds) * SOURCE_LEARNING_PER_SECOND, frames
    assert frames["dropped_learning"] > frames["up_no_entry"]
    assert cpu_s <= arena.allowed_cpu_s(frames, seconds)
    for number in range(OPEN_PORTS // 2):
        assert arena.relay.ask(f"D many{number} f") == "0"


@in_arenas((COMPATIBLE, KERNEL), (COMPATIBLE, TC), (STRICT, KERNEL))
def test_a_flood_by_many_sources_at_many_ports_that_are_still_learning(arena):
    """What is left of it by the limit of the host costs userspace little."""
    ports = [arena.relay.port(f"U many{number} {CALLER} 4000 f") for number in range(OPEN_PORTS // 2)]
    frames, seconds, cpu_s = arena.flood(
        *(arena.frame(arena.header(), min(ports), chksum=0), 4 * FLOOD),
        **{"ports": max(ports) - min(ports), "port_at": PORT_AT, "sources": SOURCES},
    )
    assert frames["dropped_host_limit"] > 0, frames
    assert frames["up_no_entry"] <= (2 + seconds) * HOST_LEARNING_PER_SECOND, frames
    assert cpu_s <= arena.allowed_cpu_s(frames, seconds)
    for number in range(OPEN_PORTS // 2):
        assert arena.relay.ask(f"D many{number} f") == "0"


# Who is heard all the same


def while_flooded(arena, call, build=plain):
    """A flood at the caller's port that goes on until the context ends; at least a second of it is over."""
    flood = Flood(arena.attacker, build(arena, call.caller.to[1]))
    flood.start(1 << 40)
    wait_for(lambda: flood.sent > FLOOD, DEADLINE_S, "a flood to be under way")
    return flood


@in_arenas(*IN_KERNEL)
def test_a_phone_that_moved_is_heard_during_a_flood(arena):
    """Its first packet from there is enough, while strangers have used up their limit many times over.

    What happens within a second is shown in tests/bpf/test_budgets.py: there, time does not depend on the machine.
    """
    with arena.call("moved") as call, PhonePort(arena.topology.caller, CALLER_MOVED, 4000) as moved:
        call.establish(arena.way)
        before = arena.frames()
        with while_flooded(arena, call) as flood:
            moved.send(rtp(2), call.caller.to)
            assert call.callee.rtp.expect() == [(rtp(2), call.callee.to)]
            assert arena.relay.ask("V") == "20040107"
            call.callee.send(rtp(2))
            assert moved.expect() == [(rtp(2), call.caller.to)]
            sent, after = flood.sent, arena.frames()
            up, dropped = (after[name] - before.get(name, 0) for name in ("up_other_source", "dropped_other_source"))
            assert dropped > MANY_TIMES * up
            wait_for(lambda: flood.sent > sent, DEADLINE_S, "the flood to go on")
        assert arena.relay.ask(f"D {call.tags}") == "0"


@in_arenas((STRICT, KERNEL), (STRICT, TC))
def test_an_announced_phone_is_heard_during_a_flood(arena):
    """A command named its public address; a NAT chose another port."""
    with arena.call("announced") as call, PhonePort(arena.topology.caller, CALLER_MOVED, 4444) as moved:
        call.establish(arena.way)
        call.update(CALLER_MOVED, 4000)
        with while_flooded(arena, call):
            moved.send(rtp(900, ssrc=0x999), call.caller.to)
            assert call.callee.rtp.expect() == [(rtp(900, ssrc=0x999), call.callee.to)]
        assert arena.relay.ask(f"D {call.tags}") == "0"


@in_arenas((COMPATIBLE, KERNEL), (COMPATIBLE, TC), (STRICT, TC))
def test_what_userspace_relays_gets_through_a_flood(arena):
    """Packets over the MTU of the callee's link."""
    ip(arena.topology.relay, f"link set {arena.topology.callee.gateway.ifname} mtu 1000")
    try:
        with arena.call("long") as call:
            call.establish(arena.way)
            before = arena.frames().get("up_too_long", 0)
            with while_flooded(arena, call):
                for number in range(2, 302):
                    long = rtp(number, payload=bytes(1100))
                    call.caller.send(long)
                    assert call.callee.rtp.expect() == [(long, call.callee.to)]
            assert arena.frames()["up_too_long"] - before == 300
            assert arena.relay.ask(f"D {call.tags}") == "0"
    finally:
        ip(arena.topology.relay, f"link set {arena.topology.callee.gateway.ifname} mtu 1500")


WINDOW_PER_SECOND = UNNUMBERED_PER_SECOND + 2 * EXPECTED_PER_SECOND + SOURCE_LEARNING_PER_SECOND + OTHERS_PER_SECOND
"""Limit of what a flood leaves to userspace where it may take the stream. In the order of the sum, its source has it;
has it while the entry is being written, or had it before; may take it from those who contest it; is a stranger."""
WINDOW_PACKETS = 100


@in_arenas((COMPATIBLE, KERNEL), (COMPATIBLE, TC))
@pytest.mark.parametrize("sources", [1, SOURCES])
def test_the_named_phone_is_heard_during_a_flood_in_the_window_after_a_command(arena, sources):
    """Whoever sends then takes the stream. Every packet of the phone arrives, and the log has no line for each.

    So little of the flood comes up that it fills no socket. Commands keep the window open, however long it takes.
    """
    with arena.call(f"window-{sources}") as call:
        call.establish(arena.way)
        to_callee, _ = both_ways(call)
        before, lost, began = arena.frames(), arena.lost(), time.monotonic()
        with (
            Flood(arena.attacker, plain(arena, call.caller.to[1]), sources=sources) as flood,
            Traffic(to_callee, interval_s=0.02) as traffic,
        ):
            flood.start(1 << 40)

            def is_long_enough():
                call.update(CALLER, 4000)
                traffic.more(5)
                return flood.sent > FLOOD and to_callee.sent > WINDOW_PACKETS

            wait_for(is_long_enough, DEADLINE_S, "the flood and the phone")
            flood.stop()
            assert arena.lost() == lost
            traffic.finish()
        seconds, after = time.monotonic() - began, arena.frames()
        names = "up_no_entry", "up_other_source", "up_entry_changing"
        up = sum(after.get(name, 0) - before.get(name, 0) for name in names)
        assert up <= (2 + seconds) * WINDOW_PER_SECOND + to_callee.sent, after
        lines = [line for line in arena.relay.log.splitlines() if f" {call.name}: " in line]
        assert len([line for line in lines if "changes between" in line]) >= 1
        assert len(lines) < to_callee.sent, lines
        assert arena.relay.ask(f"D {call.tags}") == "0"


# RTCP


IN_EACH_TIER = (*((COMPATIBLE, way) for way in WAYS), (STRICT, TC), (STRICT, BOUND))


@pytest.mark.parametrize(("latching", "way"), IN_EACH_TIER, ids=map(stage_name, IN_EACH_TIER))
def test_a_stolen_rtcp_stream_has_the_rate_of_rtcp(topology, tmp_path, latching, way):
    """The attacker is first at the RTCP port, as the rules of the C RTPproxy allow, and NAT demands in strict mode."""
    flood, report = 6 * RTCP_PER_SECOND, rtcp(0xBAD) + bytes(80)
    options = (*way.options, "--latching", latching, "-m", "20000", "-M", "29998")
    with RunningRelay(tmp_path, *options, host=topology.relay) as relay:
        arena = Arena(topology, relay, way)
        with arena.call("rtcp") as call, PhonePort(topology.attacker, topology.attacker.ip, STRANGERS_PORT) as thief:
            thief.send(report, (arena.attacker.gateway.ip, call.caller.to_rtcp[1]))
            assert call.callee.rtcp.expect() == [(report, call.callee.to_rtcp)]
            if way.is_kernel:
                call.wait_offloaded(call.caller.to_rtcp[1])
            frame = arena.frame(arena.header(), call.caller.to_rtcp[1], report, chksum=0)
            before, lost_before = int(relay.ask("G npkts_discard")), arena.lost()
            began = time.monotonic()
            with Flood(arena.attacker, frame) as stolen:
                stolen.start(flood, 3000)
                stolen.finish()
            arrived = lost = 0

            def is_over():
                nonlocal arrived, lost
                arrived += len(call.callee.rtcp.take())
                lost = arena.lost() - lost_before
                return arrived + lost + int(relay.ask("G npkts_discard")) - before >= flood

            wait_for(is_over, DEADLINE_S, "the flood to be over")
            assert min(RTCP_PER_SECOND, flood - lost) <= arrived <= (2 + time.monotonic() - began) * RTCP_PER_SECOND
            if way.is_kernel:
                assert arena.frames()["dropped_rtcp_rate"] == flood - arrived
