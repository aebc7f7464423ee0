"""What goes to userspace has a bound: by port, by the source that is expected there, and for the whole host.

Each test uses a host address of its own port space; frames for addresses that are not this host's are left alone.
"""

import itertools

import pytest
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Raw

from rtpproxy.addr import Endpoint
from rtpproxy.offload.host_maps import HostMaps
from rtpproxy.offload.programs import (
    EXPECTED_PER_SECOND,
    FRAGMENTS_PER_SECOND,
    HOST_EXPECTED_PER_SECOND,
    HOST_KNOWN_PER_SECOND,
    HOST_LEARNING_PER_SECOND,
    HOST_OTHERS_PER_SECOND,
    LEARNING_PER_SECOND,
    ODD_PER_SECOND,
    OTHERS_PER_SECOND,
    SOURCE_LEARNING_PER_SECOND,
)
from rtpproxy.session.latch import SEQUENCE_DISTANCE, KnownSource
from tests.bpf.data_plane import DataPlane, Outcome
from tests.bpf.frames import CALLER, CALLER6, RELAY_IN, RELAY_IN6, ethernet, ipv4, ipv6, received, rtp
from tests.bpf.prog_run import XDP_DROP, XDP_PASS

pytestmark = [pytest.mark.root, pytest.mark.kernel]

KNOWN, ODD, MOVED, OTHER, LEARNING, UNKNOWN, NAMED, RIVAL, CHANGING = range(9)
"""In the order of enum budget_kind (bpf/budget.h)."""
MOST = 5000
FLOOD_PER_SECOND = 500_000
STRANGER = 9
"""A source port of nobody's."""
ELSEWHERE = "192.0.2.1"
"""No address of this host."""

_sources = itertools.count(1)


@pytest.fixture(params=["xdp", "tc"])
def plane(request, loaded, tables):
    host_maps = HostMaps(loaded)
    with DataPlane(loaded, tables, request.param) as plane:
        for host in (RELAY_IN, RELAY_IN6):
            host_maps.mark_host(host, True)
        for kind in range(9):
            plane.use_up(kind, 0)
        yield plane
        for host in (RELAY_IN, RELAY_IN6):
            host_maps.mark_host(host, False)


def passed(frame, reason):
    return Outcome(XDP_PASS, frame, {reason: 1})


def dropped(frame, reason):
    return Outcome(XDP_DROP, frame, {reason: 1})


def expect(plane, port, source=CALLER, *, is_locked=True, ssrc=None, is_any_port=False):
    known = KnownSource(source.host, 0 if is_any_port else source.port, is_locked, ssrc)
    plane.tables.sources.expect(port, known, MOST)


def open_port(plane, **expected):
    port = plane.open_port()
    plane.tables.sources.expect(port, None, 0)
    if expected:
        expect(plane, port, **expected)
    return port


# At one port


@pytest.mark.vm
def test_a_port_that_learns_has_a_limit(plane):
    port = open_port(plane)
    frame = received(port, rtp())
    assert plane.run_this_second(port, frame) == passed(frame, "up_no_entry")
    plane.use_up(LEARNING, LEARNING_PER_SECOND - 1, port)
    assert plane.run_this_second(port, frame) == passed(frame, "up_no_entry")
    assert plane.run_this_second(port, frame) == dropped(frame, "dropped_learning")
    plane.end_second(port)
    assert plane.run(frame) == passed(frame, "up_no_entry")


def test_a_source_has_a_limit_at_all_ports(plane):
    """A port that it did not send to before does not help it; somebody else is heard there."""
    first, second = open_port(plane), open_port(plane)

    def sent(host, port):
        return bytes(ethernet() / ipv4(src=host) / UDP(sport=777, dport=port) / Raw(rtp()))

    plane.use_up_source(sent("10.0.1.77", first), SOURCE_LEARNING_PER_SECOND)
    flood, other = sent("10.0.1.77", second), sent("10.0.1.3", second)
    assert plane.run_this_second(second, flood) == dropped(flood, "dropped_learning")
    assert plane.run_this_second(second, other) == passed(other, "up_no_entry")


@pytest.mark.parametrize("is_locked", [True, False])
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_strangers_do_not_displace_the_known_source(plane, is_ipv6, is_locked):
    """A stream that userspace relays: its packets have room of their own, up to a limit."""
    port = open_port(plane, source=CALLER6 if is_ipv6 else CALLER, is_locked=is_locked)
    kind, most, reason = (
        (OTHER, OTHERS_PER_SECOND, "dropped_other_source")
        if is_locked
        else (LEARNING, LEARNING_PER_SECOND, "dropped_learning")
    )
    flood, own = (received(port, rtp(), is_ipv6=is_ipv6, sport=sport) for sport in (STRANGER, CALLER.port))
    plane.use_up(kind, most, port)
    assert plane.run_this_second(port, flood) == dropped(flood, reason)
    assert plane.run_this_second(port, own) == passed(own, "up_no_entry")
    plane.use_up(KNOWN, MOST, port)
    assert plane.run_this_second(port, own) == dropped(own, "dropped_known_source")


@pytest.mark.parametrize("host", ["10.0.1.3", CALLER.host])
def test_an_awaited_host_may_use_any_port(plane, host):
    """In strict mode, after a command: a flood does not keep the phone from being heard."""
    port = open_port(plane, source=Endpoint(CALLER.host, 1), is_any_port=True)
    plane.use_up(OTHER, OTHERS_PER_SECOND, port)
    frame = bytes(ethernet() / ipv4(src=host) / UDP(sport=777, dport=port) / Raw(rtp()))
    outcome = passed(frame, "up_no_entry") if host == CALLER.host else dropped(frame, "dropped_other_source")
    assert plane.run_this_second(port, frame) == outcome


OTHERS = Endpoint("10.0.1.3", 777), Endpoint("2001:db8:1::3", 778)
"""Two more who may take a stream, the first of IPv4, the second of IPv6."""


def from_others(port):
    """A frame of each."""
    first, second = OTHERS
    yield bytes(ethernet() / ipv4(src=first.host) / UDP(sport=first.port, dport=port) / Raw(rtp()))
    header = ethernet(type=0x86DD) / ipv6(src=second.host)
    yield bytes(header / UDP(sport=second.port, dport=port) / Raw(rtp()))


@pytest.mark.parametrize("is_contested", [False, True])
def test_those_who_may_take_a_stream_are_no_strangers(plane, is_contested):
    """The source that the newest command names, and one that had the stream before; each has room of its own."""
    port = open_port(plane)
    known = KnownSource(*CALLER, True, 7, OTHERS, is_contested)
    plane.tables.sources.expect(port, known, MOST)
    own, stranger = received(port, rtp()), received(port, rtp(), sport=STRANGER)
    # Where several take the stream in turn, the first is the one that a command names.
    kinds = (NAMED, RIVAL, RIVAL) if is_contested else (KNOWN, NAMED, RIVAL)
    for kind, frame in zip(kinds, (own, *from_others(port)), strict=True):
        reason = "dropped_learning" if is_contested else "dropped_other_source"
        limit = LEARNING, SOURCE_LEARNING_PER_SECOND
        plane.use_up(*(limit if is_contested else (OTHER, OTHERS_PER_SECOND)), port)
        assert plane.run_this_second(port, stranger) == dropped(stranger, reason)
        assert plane.run_this_second(port, frame) == passed(frame, "up_no_entry")
        plane.use_up(kind, MOST if kind == KNOWN else EXPECTED_PER_SECOND, port)
        assert plane.run_this_second(port, frame) == dropped(frame, "dropped_known_source")
        if kind != KNOWN:
            plane.use_up(kind, 0, port)
            plane.use_up(kind, HOST_EXPECTED_PER_SECOND)
            assert plane.run_this_second(port, frame) == dropped(frame, "dropped_host_limit")
            plane.use_up(kind, 0)


def test_those_who_may_take_a_stream_of_the_kernel_reach_userspace(plane):
    entry = plane.install()
    first, _ = from_others(entry.port)
    plane.tables.sources.expect(entry.port, KnownSource(*CALLER, True, None, OTHERS[:1]), MOST)
    plane.use_up(OTHER, OTHERS_PER_SECOND, entry.port)
    assert plane.run_this_second(entry.port, first) == passed(first, "up_other_source")
    same_host = received(entry.port, rtp(), sport=OTHERS[0].port)
    assert plane.run_this_second(entry.port, same_host) == dropped(same_host, "dropped_other_source")


@pytest.mark.parametrize("is_held", [True, False])
def test_while_an_entry_changes_few_packets_of_its_source_come_up(plane, is_held):
    """It is held, or still that of the source before. A flood that takes a stream gets no more to userspace then."""
    entry = plane.install()
    source = CALLER if is_held else OTHERS[0]
    if is_held:
        plane.tables.ports.hold(entry.port)
    expect(plane, entry.port, source=source)
    frame = received(entry.port, rtp()) if is_held else next(from_others(entry.port))
    reason = "up_entry_changing" if is_held else "up_other_source"
    plane.use_up(CHANGING, EXPECTED_PER_SECOND - 1, entry.port)
    assert plane.run_this_second(entry.port, frame) == passed(frame, reason)
    assert plane.run_this_second(entry.port, frame) == dropped(frame, "dropped_known_source")
    plane.tables.ports.withdraw(entry.port)
    assert plane.run_this_second(entry.port, frame) == passed(frame, "up_no_entry")


def test_strangers_at_a_contested_port_may_take_it_too(plane):
    """As many of their packets come up as of one source at all ports that learn."""
    port = open_port(plane)
    plane.tables.sources.expect(port, KnownSource("", 0, True, 7, (), is_contested=True), MOST)
    frame = received(port, rtp(ssrc=0xBAD))
    plane.use_up(LEARNING, SOURCE_LEARNING_PER_SECOND - 1, port)
    assert plane.run_this_second(port, frame) == passed(frame, "up_no_entry")
    assert plane.run_this_second(port, frame) == dropped(frame, "dropped_learning")


def test_a_port_that_is_closed_is_none_of_our_business(plane):
    port = open_port(plane)
    plane.use_up(LEARNING, LEARNING_PER_SECOND, port)
    plane.tables.ports.close_port(port)
    for frame in (received(port, rtp()), bytes(ethernet() / ipv4(options=[IPOption_Router_Alert()]) / UDP(dport=port))):
        assert plane.run(frame).action == XDP_PASS


def test_packets_that_pass_through_this_host_are_none_of_our_business(plane):
    port = open_port(plane)
    plane.use_up(LEARNING, LEARNING_PER_SECOND, port)
    for header in (ipv4(dst=ELSEWHERE), ipv4(dst=ELSEWHERE, options=[IPOption_Router_Alert()])):
        frame = bytes(ethernet() / header / UDP(sport=STRANGER, dport=port) / Raw(rtp()))
        assert plane.run_this_second(port, frame).action == XDP_PASS


# A phone that moved


@pytest.mark.parametrize("ahead", [-SEQUENCE_DISTANCE, 1, SEQUENCE_DISTANCE])
def test_a_phone_that_moved_is_heard_beside_a_flood(plane, ahead):
    """The kernel forwards the stream: SSRC and sequence number are compared with what it counted."""
    entry = plane.install()
    plane.run(received(entry.port, rtp(sequence=7000)))
    plane.use_up(OTHER, OTHERS_PER_SECOND, entry.port)
    moved, flood = (
        received(entry.port, rtp(sequence=7000 + ahead, ssrc=ssrc), sport=STRANGER) for ssrc in (0xCAFEF00D, 0xBAD)
    )
    assert plane.run_this_second(entry.port, flood) == dropped(flood, "dropped_other_source")
    for _ in range(OTHERS_PER_SECOND):
        assert plane.run_this_second(entry.port, moved) == passed(moved, "up_other_source")
    assert plane.run_this_second(entry.port, moved) == dropped(moved, "dropped_other_source")


@pytest.mark.parametrize(
    ("sequence", "ssrc"), [(7001 + SEQUENCE_DISTANCE, 0xCAFEF00D), (6999 - SEQUENCE_DISTANCE, 0xCAFEF00D), (7001, 0)]
)
def test_who_does_not_go_on_is_a_stranger(plane, sequence, ssrc):
    entry = plane.install()
    plane.run(received(entry.port, rtp(sequence=7000)))
    plane.use_up(OTHER, OTHERS_PER_SECOND, entry.port)
    frame = received(entry.port, rtp(sequence=sequence, ssrc=ssrc), sport=STRANGER)
    assert plane.run_this_second(entry.port, frame) == dropped(frame, "dropped_other_source")


def test_a_phone_that_moved_is_heard_where_userspace_relays(plane):
    """There the controller names the SSRC, and the sequence number is left to it."""
    port = open_port(plane, ssrc=0xCAFEF00D)
    plane.use_up(OTHER, OTHERS_PER_SECOND, port)
    moved, flood = (received(port, rtp(ssrc=ssrc), sport=STRANGER) for ssrc in (0xCAFEF00D, 0xBAD))
    assert plane.run_this_second(port, flood) == dropped(flood, "dropped_other_source")
    assert plane.run_this_second(port, moved) == passed(moved, "up_no_entry")


@pytest.mark.parametrize("is_forwarding", [True, False])
def test_a_phone_that_moved_is_heard_in_the_first_second_of_a_flood(plane, is_forwarding):
    """Its first packet is, after all of the flood's in that second, and though other ports are flooded as well."""
    port = plane.install().port if is_forwarding else open_port(plane, ssrc=0xCAFEF00D)
    plane.run(received(port, rtp(sequence=7000)))
    moved, flood = (received(port, rtp(sequence=7001, ssrc=ssrc), sport=STRANGER) for ssrc in (0xCAFEF00D, 0xBAD))
    reason = "up_other_source" if is_forwarding else "up_no_entry"
    for _ in range(3):
        plane.end_second(port)
        assert plane.run_often(flood, FLOOD_PER_SECOND)["dropped_other_source"] > FLOOD_PER_SECOND / 2
        plane.use_up(OTHER, HOST_OTHERS_PER_SECOND)
        for _ in range(OTHERS_PER_SECOND):
            assert plane.run_this_second(port, moved) == passed(moved, reason)


def test_a_phone_that_moved_waits_for_the_next_second_at_most(plane):
    """Somebody who knows its SSRC and sequence numbers was faster, at its port and at those of others."""
    entry = plane.install()
    plane.run(received(entry.port, rtp(sequence=7000)))
    moved, flood = (received(entry.port, rtp(sequence=7001, ssrc=ssrc), sport=STRANGER) for ssrc in (0xCAFEF00D, 0xBAD))
    plane.use_up(MOVED, OTHERS_PER_SECOND, entry.port)
    assert plane.run_this_second(entry.port, moved) == dropped(moved, "dropped_other_source")
    plane.use_up(MOVED, 0, entry.port)
    plane.use_up(MOVED, HOST_OTHERS_PER_SECOND)
    assert plane.run_this_second(entry.port, moved) == dropped(moved, "dropped_host_limit")
    plane.end_second(entry.port)
    plane.run_often(flood, FLOOD_PER_SECOND)
    assert plane.run_this_second(entry.port, moved) == passed(moved, "up_other_source")


# The whole host


@pytest.mark.parametrize(
    ("kind", "most", "is_locked"),
    [
        (LEARNING, HOST_LEARNING_PER_SECOND, False),
        (OTHER, HOST_OTHERS_PER_SECOND, True),
        (MOVED, HOST_OTHERS_PER_SECOND, True),
    ],
)
def test_all_ports_together_have_a_limit(plane, kind, most, is_locked):
    """However many ports a flood goes to; a stream's own packets do not share it."""
    ssrc = 0xCAFEF00D if kind == MOVED else 0xBAD
    ports = [open_port(plane, is_locked=is_locked, ssrc=ssrc if kind == MOVED else None) for _ in range(2)]
    for port, outcome in zip(ports, (passed, dropped), strict=True):
        frame = received(port, rtp(ssrc=ssrc), sport=STRANGER)
        if outcome is passed:
            plane.use_up(kind, most - 1)
        reason = "up_no_entry" if outcome is passed else "dropped_host_limit"
        assert plane.run_this_second(port, frame) == outcome(frame, reason)
    own = received(ports[1], rtp())
    assert plane.run_this_second(ports[1], own) == passed(own, "up_no_entry")


def own_plain(port):
    return received(port, rtp())


def own_odd(port):
    return bytes(ethernet() / option(port, CALLER.port))


OWN = {
    "plain": (own_plain, "up_no_entry", KNOWN, HOST_KNOWN_PER_SECOND),
    "odd": (own_odd, "up_ip_options", ODD, HOST_LEARNING_PER_SECOND),
}


@pytest.mark.parametrize(("name", "other_name"), [("plain", "odd"), ("odd", "plain")])
def test_known_sources_together_have_a_limit(plane, name, other_name):
    """Their packets with IP options have one of their own, and so have strangers."""
    build, reason, kind, most = OWN[name]
    build_other, other_reason, *_ = OWN[other_name]
    first, second = (open_port(plane, is_locked=True) for _ in range(2))
    frame, over, other = build(first), build(second), build_other(second)
    stranger = received(second, rtp(), sport=STRANGER)
    plane.use_up(kind, most - 1)
    assert plane.run_this_second(first, frame) == passed(frame, reason)
    assert plane.run_this_second(second, over) == dropped(over, "dropped_host_limit")
    assert plane.run_this_second(second, other) == passed(other, other_reason)
    assert plane.run_this_second(second, stranger) == passed(stranger, "up_no_entry")
    plane.end_second(second)
    assert plane.run(over) == passed(over, reason)


# What hides its ports


def option(port, sport):
    return ipv4(options=[IPOption_Router_Alert()]) / UDP(sport=sport, dport=port) / Raw(rtp())


def many_options(port, sport):
    return ipv4(options=[IPOption_Router_Alert()] * 10) / UDP(sport=sport, dport=port) / Raw(rtp())


def first_fragment(port, sport):
    return ipv4(flags="MF") / UDP(sport=sport, dport=port, len=1000) / Raw(rtp(size=484))


def short_length(port, sport):
    """The datagram ends before the packet: the stack cuts it off and delivers it."""
    return ipv4() / UDP(sport=sport, dport=port, len=8 + 172) / Raw(rtp() + b"more")


HIDDEN = {
    "option": ("up_ip_options", False, option),
    "40 bytes of options": ("up_ip_options", False, many_options),
    "first fragment": ("up_fragment", False, first_fragment),
    "wrong length": ("up_malformed", False, short_length),
}
HEADERS6 = {
    "destination options": (IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]), "up_extension_header"),
    "hop-by-hop options": (IPv6ExtHdrHopByHop(), "up_extension_header"),
    "routing": (IPv6ExtHdrRouting(addresses=["2001:db8::9"]), "up_extension_header"),
    "two": (IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 20)]), "up_extension_header"),
    "first fragment": (IPv6ExtHdrFragment(m=1), "up_fragment"),
    "options before a fragment": (IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(m=1), "up_extension_header"),
    "options in a fragment": (IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(), "up_fragment"),
}


def hidden_frames(port):
    """Frames of a stranger and of the caller whose ports lie further behind, and why they are not forwarded."""
    for reason, _, build in HIDDEN.values():
        yield reason, *(bytes(ethernet() / build(port, sport)) for sport in (STRANGER, CALLER.port))
    for header, reason in HEADERS6.values():
        yield (
            reason,
            *(
                bytes(ethernet(type=0x86DD) / ipv6() / header.copy() / UDP(sport=sport, dport=port) / Raw(rtp()))
                for sport in (STRANGER, CALLER6.port)
            ),
        )


@pytest.mark.parametrize("is_locked", [True, False])
def test_what_hides_its_ports_has_the_same_limits(plane, is_locked):
    port = open_port(plane, is_locked=is_locked)
    port6 = open_port(plane, source=CALLER6, is_locked=is_locked)
    kind, reason_dropped = (OTHER, "dropped_other_source") if is_locked else (LEARNING, "dropped_learning")
    for reason, flood, _ in itertools.chain(hidden_frames(port)):
        for at in (port, port6):
            plane.use_up(kind, 0, at)
        assert plane.run_this_second(port, flood) == passed(flood, reason)
        plane.use_up(kind, 1000, port)
        assert plane.run_this_second(port, flood) == dropped(flood, reason_dropped)
    for reason, _, own in hidden_frames(port):
        at = port
        if own[12:14] == b"\x86\xdd":
            at, own = port6, next(frame for _, _, frame in hidden_frames(port6) if len(frame) == len(own))
        plane.use_up(kind, 1000, at)
        outcome = plane.run_this_second(at, own)
        assert outcome.action == XDP_PASS, reason
        plane.use_up(ODD, ODD_PER_SECOND, at)
        assert plane.run_this_second(at, own) == dropped(own, "dropped_known_source")


def later_fragments():
    source = f"198.18.{next(_sources)}.1"
    yield bytes(ethernet() / IP(src=source, dst=RELAY_IN, frag=100, proto=17) / Raw(b"x" * 64))
    header = IPv6(src=f"2001:db8:5::{next(_sources)}", dst=RELAY_IN6) / IPv6ExtHdrFragment(nh=17, offset=100)
    yield bytes(ethernet(type=0x86DD) / header / Raw(b"x" * 64))


@pytest.mark.vm
def test_later_fragments_have_a_limit_by_source(plane):
    """Seconds may end meanwhile, and another CPU may go on."""
    times = 40 * FRAGMENTS_PER_SECOND
    for frame in later_fragments():
        counted = plane.run_often(frame, times)
        assert FRAGMENTS_PER_SECOND <= counted["up_fragment"] <= times // 2
        assert counted == {"up_fragment": counted["up_fragment"], "dropped_fragment": times - counted["up_fragment"]}
    for frame in later_fragments():
        assert plane.run(frame) == passed(frame, "up_fragment")


def test_fragments_for_others_have_none(plane):
    frame = bytes(ethernet() / IP(src="198.18.99.1", dst=ELSEWHERE, frag=100, proto=17) / Raw(b"x" * 64))
    assert plane.run_often(frame, 40 * FRAGMENTS_PER_SECOND) == {"up_fragment": 40 * FRAGMENTS_PER_SECOND}


def test_a_port_that_cannot_be_found_counts_for_the_host(plane):
    header = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    chain = header
    for _ in range(7):
        chain = chain / header.copy()
    frame = bytes(ethernet(type=0x86DD) / ipv6() / chain / UDP(sport=STRANGER, dport=40000) / Raw(rtp()))
    plane.use_up(UNKNOWN, HOST_OTHERS_PER_SECOND - 1)
    assert plane.run_this_second(40000, frame) == passed(frame, "up_extension_header")
    assert plane.run_this_second(40000, frame) == dropped(frame, "dropped_host_limit")


# What a flood costs the calls


OF_CALLS = ("port_rows", "port_hosts6", "port_counters", "port_events", "port_sources", "next_hops")
"""Maps that packets of calls in the kernel read and write, beside those that each processor has for itself."""
_LOAD_64, _ATOMIC = 0x18, (0xC3, 0xDB)
"""Operations (RFC 9669): the one that takes the space of two instructions, and those that lock memory."""


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_a_flood_writes_nothing_that_packets_of_calls_use(plane, is_ipv6):
    """By strangers, at a port that the kernel forwards, one that userspace relays, and one that learns."""
    source = CALLER6 if is_ipv6 else CALLER
    forwarding = plane.install_between(is_ipv6, is_ipv6).port
    expect(plane, forwarding, source)
    ports = (forwarding, open_port(plane, source=source), open_port(plane))
    for port in ports:
        plane.run(received(port, rtp(sequence=7000), is_ipv6=is_ipv6))
    before = {name: plane.contents(name) for name in OF_CALLS}
    for port in ports:
        hidden = [flood for _, flood, _ in hidden_frames(port) if (flood[12:14] == b"\x86\xdd") == is_ipv6]
        plain = (rtp(ssrc=0xBAD), rtp(sequence=7001), b"no RTP")
        for frame in (*(received(port, data, is_ipv6=is_ipv6, sport=STRANGER) for data in plain), *hidden):
            counted = plane.run_often(frame, 3000)
            assert sum(counted.values()) == 3000
            assert sum(count for name, count in counted.items() if name.startswith("dropped_")) > 1000
    assert [name for name in OF_CALLS if plane.contents(name) != before[name]] == []


@pytest.mark.vm
def test_a_packet_that_is_over_the_limit_writes_no_limit(plane):
    """So a flood takes no line of the limits from another processor, either."""
    port = open_port(plane, is_locked=True)
    plane.use_up(OTHER, OTHERS_PER_SECOND, port)

    def used():
        return plane.peek("port_budgets", port, "used"), plane.peek("host_budgets", 0, "used")

    before = used()
    frame = received(port, rtp(ssrc=0xBAD), sport=STRANGER)
    assert plane.run_this_second(port, frame) == dropped(frame, "dropped_other_source")
    assert used() == before


@pytest.mark.parametrize("function", ["on_xdp", "on_tc", "on_tc_behind_xdp"])
def test_only_forwarded_packets_cost_an_atomic_instruction(loaded, function):
    """The one that counts them (account_forwarded in bpf/account.h), and that for those the tee missed (end_tee)."""
    code = bytes.fromhex(loaded.programs._compiled.programs[function])
    at, found = 0, 0
    while at < len(code):
        found += code[at] in _ATOMIC
        at += 16 if code[at] == _LOAD_64 else 8
    assert found == 2
