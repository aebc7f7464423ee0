"""Every path through the kernel tier, from frame to whole frame: families, hooks, tags, RTP and RTCP, all lengths."""

import errno
from dataclasses import replace

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from rtpproxy.offload.entry import XdpWay
from rtpproxy.session.loops import REPEATS_PER_SECOND, RTCP_PER_SECOND, UNNUMBERED_PER_SECOND
from tests.bpf.data_plane import DataPlane, Outcome
from tests.bpf.frames import CALLER, HOP, ethernet, forwarded, ipv6, received, rtp, tagged
from tests.bpf.prog_run import XDP_DROP, XDP_PASS, XDP_REDIRECT
from tests.conftest import QINQ, VLAN

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FEW_SIZES = (11, 172, 1472)
SIZES = (*range(40), 159, 160, 161, 171, 172, 173, 511, 512, 513, 1023, 1279, 1280, 1431, 1432, *range(1440, 1473))
FAMILIES = {"4-4": (False, False), "6-6": (True, True), "4-6": (False, True), "6-4": (True, False)}
TAGS = {"untagged": (), "vlan": VLAN, "qinq": QINQ}
JUMBO_HOP = replace(HOP, mtu=9000)
MAX_SUMMED = 1472

families = pytest.mark.parametrize("families", FAMILIES.values(), ids=FAMILIES)
tags_in = pytest.mark.parametrize("tags_in", TAGS.values(), ids=[f"{name} in" for name in TAGS])
tags_out = pytest.mark.parametrize("tags_out", TAGS.values(), ids=[f"{name} out" for name in TAGS])


@pytest.fixture(params=["xdp", "tc"])
def hook(request):
    return request.param


@pytest.fixture
def plane(loaded, tables, hook):
    with DataPlane(loaded, tables, hook) as plane:
        yield plane


def hop_with(tags, hop=JUMBO_HOP):
    """A next hop behind VLAN interfaces."""
    return replace(hop, xdp_way=XdpWay(22, tuple(tags)))


def expected(plane, entry, payload, tags, **changes):
    """The next hop as the hook uses it: XDP writes the tags, TC leaves them to the egress interface."""
    frame = forwarded(entry, payload, hop=JUMBO_HOP, tags=tags if plane.hook == "xdp" else (), **changes)
    return Outcome(XDP_REDIRECT, frame, {"forwarded": 1})


def passed_up(frame, reason):
    return Outcome(XDP_PASS, frame, {reason: 1})


@families
@pytest.mark.parametrize("is_rtp", [True, False], ids=["rtp", "rtcp"])
@tags_in
@tags_out
@pytest.mark.parametrize(
    "sizes",
    [pytest.param(FEW_SIZES, marks=pytest.mark.vm), [size for size in SIZES if size not in FEW_SIZES]],
    ids=["few sizes", "all other sizes"],
)
def test_matrix(plane, families, is_rtp, tags_in, tags_out, sizes):
    entry = plane.install_between(*families, hop_with(tags_out), is_rtp=is_rtp)
    for number, size in enumerate(sizes):
        payload = rtp(sequence=number, size=size)[:size]
        frame = received(entry.port, payload, is_ipv6=families[0], tags=tags_in)
        assert plane.run(frame) == expected(plane, entry, payload, tags_out), size
    counters = plane.tables.counts.counters(entry.port)
    assert counters.packets == len(sizes)
    if is_rtp:
        assert counters.totals.parse_errors == sum(size < 12 for size in sizes)


@pytest.mark.vm
@families
def test_priority_tag_is_no_vlan(plane, families):
    entry = plane.install_between(*families, hop_with(()))
    frame = received(entry.port, b"12345", is_ipv6=families[0], tags=[(0x8100, 0)])
    assert plane.run(frame) == expected(plane, entry, b"12345", ())


# Checksums


@families
@pytest.mark.parametrize("start", range(0, 65536, 16384))
def test_checksums_over_many_payloads(plane, families, start):
    entry = plane.install_between(*families, hop_with(()), from_port=start + 1, is_any_source_port=True)
    for word in range(start, start + 16384, 127):
        payload, sport = word.to_bytes(2), 65535 - word
        frame = received(entry.port, payload, sport=sport, is_ipv6=families[0])
        assert plane.run(frame) == expected(plane, entry, payload, ()), word


def checksum_at(entry):
    """Its offset in an untagged frame that leaves."""
    return 14 + (40 if ":" in entry.to.host else 20) + 6


@pytest.mark.vm
@families
def test_computed_zero_leaves_as_all_ones(plane, families):
    entry = plane.install_between(*families, hop_with(()))
    at = checksum_at(entry)
    payload = forwarded(entry, b"\0\0")[at : at + 2]  # adds what was missing to a sum of all ones
    outcome = plane.run(received(entry.port, payload, is_ipv6=families[0]))
    assert outcome == expected(plane, entry, payload, ())
    assert outcome.frame[at : at + 2] == b"\xff\xff"


@pytest.mark.vm
@families
def test_wrong_checksum_stays_wrong(plane, families):
    entry = plane.install_between(*families, hop_with(()))
    right = Ether(received(entry.port, b"abc", is_ipv6=families[0]))[UDP].chksum
    outcome = plane.run(received(entry.port, b"abc", chksum=(right + 3 - 1) % 65535 + 1, is_ipv6=families[0]))
    left = Ether(forwarded(entry, b"abc"))[UDP].chksum
    assert outcome == expected(plane, entry, b"abc", (), chksum=(left + 3 - 1) % 65535 + 1)


@tags_in
def test_absent_checksum_is_computed_for_ipv6(plane, tags_in):
    entry = plane.install_between(False, True, hop_with(()))
    for size in (*SIZES, *range(60, 200)):
        payload = bytes((7 * index + size) % 256 for index in range(size))
        frame = received(entry.port, payload, chksum=0, tags=tags_in)
        assert plane.run(frame) == expected(plane, entry, payload, ()), size


@pytest.mark.vm
def test_absent_checksum_of_a_computed_zero(plane):
    entry = plane.install_between(False, True, hop_with(()))
    at = checksum_at(entry)
    payload = forwarded(entry, b"\0\0")[at : at + 2]
    outcome = plane.run(received(entry.port, payload, chksum=0))
    assert outcome == expected(plane, entry, payload, ())
    assert outcome.frame[at : at + 2] == b"\xff\xff"


def test_absent_checksum_of_a_long_payload_goes_up(plane):
    entry = plane.install_between(False, True, hop_with(()))
    frame = received(entry.port, bytes(MAX_SUMMED + 1), chksum=0)
    assert plane.run(frame) == passed_up(frame, "up_no_checksum")
    assert plane.tables.counts.counters(entry.port).packets == 0


def test_absent_checksum_stays_absent_in_ipv4(plane):
    entry = plane.install_between(False, False, hop_with(()))
    for size in (0, 1, 172, 3000):
        frame = received(entry.port, bytes(size), chksum=0)
        assert plane.run(frame) == expected(plane, entry, bytes(size), (), chksum=0)


@pytest.mark.parametrize("is_to_ipv6", [True, False])
def test_absent_checksum_of_ipv6_goes_up(plane, is_to_ipv6):
    """To the stack, which drops it (RFC 8200, section 8.1)."""
    entry = plane.install_between(True, is_to_ipv6, hop_with(()))
    frame = received(entry.port, b"abc", chksum=0, is_ipv6=True)
    assert plane.run(frame) == passed_up(frame, "up_no_checksum")


def unfinished(frame, is_ipv6):
    """The checksum field as a sender leaves it for its interface to finish: the sum of the pseudo-header."""
    ether = Ether(frame)
    ip = ether.payload
    addresses = (14 + 8, 32) if is_ipv6 else (14 + 12, 8)
    covered = frame[addresses[0] : sum(addresses)] + (17).to_bytes(2) + ip[UDP].len.to_bytes(2)
    total = sum(int.from_bytes(covered[index : index + 2]) for index in range(0, len(covered), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.vm
@families
@pytest.mark.parametrize("hook", ["xdp"], indirect=True)
def test_unfinished_checksum_is_finished(plane, families):
    """As veth hands it to XDP, which cannot be told; TC is, by the kernel, which no test run can show."""
    entry = plane.install_between(*families, hop_with(()))
    for size in (0, 1, 2, 63, 64, 65, 172, 1472):
        payload = bytes((5 * index + 1) % 256 for index in range(size))
        field = unfinished(received(entry.port, payload, is_ipv6=families[0]), families[0])
        frame = received(entry.port, payload, chksum=field, is_ipv6=families[0])
        assert plane.run(frame) == expected(plane, entry, payload, ()), size
    long = bytes(MAX_SUMMED + 1)
    field = unfinished(received(entry.port, long, is_ipv6=families[0]), families[0])
    frame = received(entry.port, long, chksum=field, is_ipv6=families[0])
    assert plane.run(frame) == passed_up(frame, "up_no_checksum")


# Lengths


@pytest.mark.vm
@families
@tags_out
def test_what_exceeds_the_mtu_after_growth_goes_up(plane, families, tags_out):
    header = 48 if families[1] else 28
    entry = plane.install_between(*families, replace(hop_with(tags_out), mtu=header + 100))
    fits, over = bytes(100), bytes(101)
    frame = received(entry.port, fits, is_ipv6=families[0])
    assert plane.run(frame) == expected(plane, entry, fits, tags_out)
    frame = received(entry.port, over, is_ipv6=families[0])
    assert plane.run(frame) == passed_up(frame, "up_too_long")
    assert plane.tables.counts.counters(entry.port).packets == 1


@pytest.mark.vm
@pytest.mark.parametrize("hook", ["xdp"], indirect=True)
@pytest.mark.parametrize("tags_out", [(), QINQ], ids=["untagged", "qinq"])
def test_no_headroom_goes_up(plane, tags_out):
    entry = plane.install_between(False, True, hop_with(tags_out))
    frame = received(entry.port, rtp())
    try:
        outcome = plane.run(frame, metadata_bytes=212)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this kernel runs programs with 32 bytes of metadata at most")
    assert (outcome.action, outcome.frame[-len(frame) :], outcome.counted) == (XDP_PASS, frame, {"up_no_headroom": 1})
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.packets, counters.ssrc_changed_at) == (0, 0.0)
    assert plane.run(frame) == expected(plane, entry, rtp(), tags_out)


@families
@tags_in
def test_every_beginning_of_a_frame(plane, families, tags_in):
    entry = plane.install_between(*families, hop_with(()))
    whole = received(entry.port, rtp(size=4), is_ipv6=families[0], tags=tags_in)
    # A test run gives TC no less than an Ethernet and an IP header.
    shortest = 14 if plane.hook == "xdp" else 15 + (40 if families[0] else 20)
    for length in range(shortest, len(whole)):
        outcome = plane.run(whole[:length])
        assert outcome == passed_up(whole[:length], "up_malformed"), length
    assert plane.tables.counts.counters(entry.port).packets == 0
    assert plane.run(whole) == expected(plane, entry, rtp(size=4), ())


# IPv6 that is not forwarded

NOT_FORWARDED = {
    "hop-by-hop options": ("up_extension_header", lambda udp: ipv6() / IPv6ExtHdrHopByHop() / udp),
    "routing header": ("up_extension_header", lambda udp: ipv6() / IPv6ExtHdrRouting() / udp),
    "destination options": ("up_extension_header", lambda udp: ipv6() / IPv6ExtHdrDestOpt() / udp),
    "fragment": ("up_fragment", lambda udp: ipv6() / IPv6ExtHdrFragment(m=1) / udp),
    "last fragment": ("up_fragment", lambda udp: ipv6() / IPv6ExtHdrFragment(offset=3) / udp),
    "atomic fragment": ("up_fragment", lambda udp: ipv6() / IPv6ExtHdrFragment() / udp),
    "no next header": ("up_not_udp", lambda udp: ipv6(nh=59) / udp),
    "icmp": ("up_not_udp", lambda udp: ipv6(nh=58) / udp),
    "version 4": ("up_malformed", lambda udp: ipv6(version=4) / udp),
    "payload length over the frame": ("up_malformed", lambda udp: ipv6(plen=9000) / udp),
    "payload length 0": ("up_malformed", lambda udp: ipv6(plen=0) / udp),
    "payload length below udp's": ("up_malformed", lambda udp: ipv6(plen=10) / udp),
    "to another address of the host's": ("up_not_ours", lambda udp: ipv6(dst="2001:db8:1::9", src="::1") / udp),
}


@pytest.mark.parametrize("name", NOT_FORWARDED)
@tags_in
def test_passed_up_unchanged(plane, name, tags_in):
    reason, build = NOT_FORWARDED[name]
    entry = plane.install_between(True, True, hop_with(()))
    udp = UDP(sport=CALLER.port, dport=entry.port) / Raw(b"abc")
    frame = bytes(tagged(ethernet(type=0x86DD), tags_in) / build(udp))
    assert plane.run(frame) == passed_up(frame, reason)
    assert plane.tables.counts.counters(entry.port).packets == 0


@families
@tags_in
def test_other_source_is_limited(plane, families, tags_in):
    entry = plane.install_between(*families, hop_with(()))
    frame = received(entry.port, rtp(), sport=9, is_ipv6=families[0], tags=tags_in)
    for _ in range(8):
        assert plane.run_this_second(entry.port, frame) == passed_up(frame, "up_other_source")
    for _ in range(3):
        assert plane.run_this_second(entry.port, frame) == Outcome(XDP_DROP, frame, {"dropped_other_source": 1})
    right = received(entry.port, rtp(), is_ipv6=families[0], tags=tags_in)
    assert plane.run(right) == expected(plane, entry, rtp(), ())


# Egress interfaces that XDP cannot use


@pytest.mark.vm
@families
@pytest.mark.parametrize("hook", ["xdp"], indirect=True)
def test_what_tc_must_send_is_left_to_it(loaded, plane, families):
    """XDP counts it and leaves it unchanged; the program behind XDP forwards it, and nothing else."""
    to_tc, by_xdp = (plane.install_between(*families, replace(JUMBO_HOP, xdp_way=way)) for way in (None, XdpWay(22)))
    frame = received(to_tc.port, rtp(), is_ipv6=families[0])
    assert plane.run(frame) == passed_up(frame, "up_to_tc")
    with DataPlane(loaded, plane.tables, "tc_behind_xdp") as behind:
        assert behind.run(frame) == expected(behind, to_tc, rtp(), ())
        counters = plane.tables.counts.counters(to_tc.port)
        assert (counters.packets, counters.ssrc) == (1, 0xCAFEF00D)
        for left_alone in (
            received(by_xdp.port, rtp(), is_ipv6=families[0]),
            received(by_xdp.port, rtp(), sport=9, is_ipv6=families[0]),
            received(19999, b"", is_ipv6=families[0]),
            received(to_tc.port, rtp(), is_ipv6=families[0])[:60],
        ):
            assert behind.run(left_alone) == Outcome(XDP_PASS, left_alone, {})
        stranger = received(to_tc.port, rtp(), sport=9, is_ipv6=families[0])
        assert behind.run(stranger) == passed_up(stranger, "up_other_source")


# Packets in a loop


@families
def test_repeated_numbers_are_limited_each_second(plane, families):
    """The first, which starts the run, counts too. The next number still passes; dropped packets are not counted."""
    entry = plane.install_between(*families, hop_with(()))
    frame = received(entry.port, rtp(7), is_ipv6=families[0])
    for _ in range(REPEATS_PER_SECOND):
        assert plane.run_this_second(entry.port, frame) == expected(plane, entry, rtp(7), ())
    for _ in range(5):
        outcome = plane.run_this_second(entry.port, frame)
        assert (outcome.action, outcome.counted) == (XDP_DROP, {"dropped_going_round": 1})
    assert plane.run(received(entry.port, rtp(8), is_ipv6=families[0])) == expected(plane, entry, rtp(8), ())
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.packets, counters.totals.duplicates) == (REPEATS_PER_SECOND + 1, REPEATS_PER_SECOND - 1)
    since = plane.peek("port_events", entry.port, "window_since")
    plane.poke("port_events", entry.port, "window_since", (since - 1000) % 2**32)
    assert plane.run(frame) == expected(plane, entry, rtp(7), ())


@pytest.mark.parametrize(
    ("is_rtp", "data", "most", "reason"),
    [
        (False, rtp(7), RTCP_PER_SECOND, "dropped_rtcp_rate"),
        (True, b"\0 not RTP", UNNUMBERED_PER_SECOND, "dropped_going_round"),
    ],
    ids=["rtcp", "not rtp"],
)
def test_packets_without_a_number_are_limited_each_second(plane, is_rtp, data, most, reason):
    entry = plane.install(hop_with(()), is_rtp=is_rtp)
    frame = received(entry.port, data)
    plane.poke("port_events", entry.port, "suspects", most - 1)
    assert plane.run_this_second(entry.port, frame) == expected(plane, entry, data, ())
    outcome = plane.run_this_second(entry.port, frame)
    assert (outcome.action, outcome.counted) == (XDP_DROP, {reason: 1})
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.packets, counters.totals.parse_errors) == (1, int(is_rtp))


@pytest.mark.parametrize("changes", [{"ssrc": 9}, {"sequence": 1000}], ids=["two SSRCs", "far apart"])
def test_new_starts_of_numbers_are_limited_each_second(plane, changes):
    """Two packets in one loop make each other look new."""
    entry = plane.install(hop_with(()))
    packets = [rtp(), rtp(**changes)]
    plane.run(received(entry.port, packets[0]))
    plane.poke("port_events", entry.port, "suspects", UNNUMBERED_PER_SECOND - 1)
    outcome = plane.run_this_second(entry.port, received(entry.port, packets[1]))
    assert outcome == expected(plane, entry, packets[1], ())
    for number in range(4):
        outcome = plane.run_this_second(entry.port, received(entry.port, packets[number % 2]))
        assert (outcome.action, outcome.counted) == (XDP_DROP, {"dropped_going_round": 1})
    assert plane.tables.counts.counters(entry.port).packets == 2
