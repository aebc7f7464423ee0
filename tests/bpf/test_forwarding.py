"""Frame in; verdict, every byte of the frame out, and counters. scapy builds both frames and judges the checksums."""

import time
from dataclasses import replace

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from rtpproxy.addr import Endpoint
from rtpproxy.offload.entry import NextHop, XdpWay
from rtpproxy.offload.programs import OTHERS_PER_SECOND
from tests.bpf.data_plane import Outcome
from tests.bpf.frames import CALLER, HOP, ethernet, forwarded, ipv4, ipv6, received, rtp, tagged
from tests.bpf.prog_run import XDP_DROP, XDP_PASS, XDP_REDIRECT

pytestmark = [pytest.mark.root, pytest.mark.kernel]

SECOND_NS = 1_000_000_000


def redirected(frame):
    return Outcome(XDP_REDIRECT, frame, {"forwarded": 1})


def passed_up(frame, reason):
    return Outcome(XDP_PASS, frame, {reason: 1})


# What is forwarded


@pytest.mark.parametrize("is_rtp", [True, False])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 11, 12, 13, 159, 160, 172, 1471, 1472])
def test_payloads(plane, size, is_rtp):
    entry = plane.install(is_rtp=is_rtp)
    payload = rtp(size=size)[:size]
    assert plane.run(received(entry.port, payload)) == redirected(forwarded(entry, payload))
    assert plane.tables.counts.counters(entry.port).packets == 1


@pytest.mark.vm
def test_totals_add_up(plane):
    entry, start = plane.install(), plane.tables.counts.total_forwarded()
    for size in (5, 0, 100):
        plane.run(received(entry.port, bytes(size)))
    assert plane.tables.counts.counters(entry.port).packets == 3
    assert plane.tables.counts.total_forwarded() - start == 3


COARSE_S = 0.011
"""The clock that is read for packets without jitter is at most a timer interrupt behind."""


@pytest.mark.vm
@pytest.mark.parametrize(
    ("payload", "behind_s"), [(rtp(payload_type=0), 0.0), (rtp(payload_type=96), COARSE_S), (b"", COARSE_S)]
)
def test_last_seen_is_of_the_monotonic_clock(plane, payload, behind_s):
    entry, before = plane.install(), time.monotonic()
    plane.run(received(entry.port, payload))
    seen = plane.tables.counts.seen_at(entry.port)
    assert before - behind_s <= seen <= time.monotonic()
    assert plane.tables.counts.last_seen()[plane.tables.ports.row(entry.port)] == seen


def test_last_seen_does_not_go_back(plane):
    """Where userspace or a packet with jitter was seen within this tick of the coarse clock."""
    entry, later = plane.install(), time.monotonic_ns() + 10**12
    plane.poke("port_counters", entry.port, "last_seen_ns", later)
    plane.run(received(entry.port, rtp(payload_type=96)))
    assert plane.peek("port_counters", entry.port, "last_seen_ns") == later
    assert plane.peek("port_counters", entry.port, "longest_gap") == 0


@pytest.mark.vm
def test_absent_checksum_stays_absent(plane):
    entry = plane.install()
    assert plane.run(received(entry.port, b"\x01", chksum=0)) == redirected(forwarded(entry, b"\x01", chksum=0))


def test_wrong_checksum_stays_wrong_by_as_much(plane):
    entry = plane.install()
    right_in, right_out = (int.from_bytes(frame[40:42]) for frame in (received(entry.port), forwarded(entry)))
    expected = forwarded(entry, chksum=(right_out + 3 - 1) % 65535 + 1)
    assert plane.run(received(entry.port, chksum=(right_in + 3 - 1) % 65535 + 1)) == redirected(expected)


@pytest.mark.vm
def test_computed_zero_leaves_as_all_ones(plane):
    entry = plane.install()
    probe = int.from_bytes(forwarded(entry, b"\0\0")[40:42])
    payload = probe.to_bytes(2)  # adds what was missing to a sum of all ones
    expected = forwarded(entry, payload)
    assert expected[40:42] == b"\xff\xff"
    assert plane.run(received(entry.port, payload)) == redirected(expected)


def test_all_ones_on_arrival(plane):
    entry = plane.install()
    payload = received(entry.port, b"\0\0")[40:42]
    frame = received(entry.port, payload)
    assert frame[40:42] == b"\xff\xff"
    assert plane.run(frame) == redirected(forwarded(entry, payload))


@pytest.mark.parametrize("start", range(0, 65536, 8192))
def test_checksums_over_many_payloads(plane, start):
    entry = plane.install(from_port=start + 1, to=Endpoint("10.255.0.1", 65535 - start), is_any_source_port=True)
    for word in range(start, start + 8192, 61):
        payload, sport = word.to_bytes(2), 65535 - word
        assert plane.run(received(entry.port, payload, sport=sport)) == redirected(forwarded(entry, payload)), word


@pytest.mark.vm
@pytest.mark.parametrize(
    "header",
    [
        {"tos": 0xFF},
        {"tos": 0},
        {"ttl": 1},
        {"ttl": 255},
        {"flags": "DF"},
        {"flags": "evil"},
    ],
    ids=str,
)
def test_ip_header_is_written_anew(plane, header):
    entry = plane.install()
    frame = bytes(ethernet() / ipv4(**header) / UDP(sport=CALLER.port, dport=entry.port) / Raw(b"abc"))
    assert plane.run(frame) == redirected(forwarded(entry, b"abc"))


@pytest.mark.parametrize("identification", [0, 1, 0xFFFF])
def test_identification_is_kept(plane, identification):
    entry = plane.install()
    frame = bytes(ethernet() / ipv4(id=identification) / UDP(sport=CALLER.port, dport=entry.port))
    out = Ether(forwarded(entry))
    out[IP].id, out[IP].chksum = identification, None
    assert plane.run(frame) == redirected(bytes(out))


@pytest.mark.vm
@pytest.mark.parametrize("padding", [1, 18, 600])
def test_padding_after_the_packet_is_kept(plane, padding):
    entry, tail = plane.install(), b"\xee" * padding
    assert plane.run(received(entry.port, b"12") + tail) == redirected(forwarded(entry, b"12") + tail)


def test_asymmetric_leg_may_use_any_port(plane):
    entry = plane.install(is_any_source_port=True)
    for sport in (0, 1, CALLER.port, 65535):
        assert plane.run(received(entry.port, b"x", sport=sport)) == redirected(forwarded(entry, b"x")), sport


@pytest.mark.vm
def test_longest_packet_for_the_mtu(plane):
    entry = plane.install(hop=replace(HOP, mtu=128))
    fits, over = bytes(100), bytes(101)
    assert plane.run(received(entry.port, fits)) == redirected(forwarded(entry, fits))
    frame = received(entry.port, over)
    assert plane.run(frame) == passed_up(frame, "up_too_long")
    assert plane.tables.counts.counters(entry.port).packets == 1


def test_padding_does_not_make_a_packet_too_long(plane):
    entry, tail = plane.install(hop=replace(HOP, mtu=28)), bytes(100)
    assert plane.run(received(entry.port) + tail) == redirected(forwarded(entry) + tail)


def test_streams_that_share_a_next_hop(plane):
    number = plane.next_hop()
    for entry in (plane.install_by(number, from_port=1000), plane.install_by(number, from_port=2000)):
        assert plane.run(received(entry.port)) == redirected(forwarded(entry))


@pytest.mark.vm
def test_last_row_and_last_next_hop(plane):
    number = plane.tables.next_hops.capacity - 1
    plane.tables.next_hops.write(number, HOP)
    plane.tables.ports.open_port(65535)
    try:
        entry = plane.install_by(number, port=65535)
        assert plane.run(received(65535)) == redirected(forwarded(entry))
    finally:
        plane.tables.ports.withdraw(65535)
        plane.tables.ports.close_port(65535)
        plane.tables.next_hops.write(number, None)


# Left to the stack: frames that are no plain datagram


def udp(port, payload=b"abcdefgh", **fields):
    return UDP(sport=CALLER.port, dport=port, **fields) / Raw(payload)


NOT_FORWARDED = {
    "arp": ("up_not_ip", lambda port: ethernet(type=0x0806) / ARP()),
    "ipv6 at a port of ipv4": ("up_not_ours", lambda port: ethernet(type=0x86DD) / ipv6() / udp(port)),
    "mpls": ("up_not_ip", lambda port: ethernet(type=0x8847) / MPLS() / ipv4() / udp(port)),
    "length instead of type": ("up_not_ip", lambda port: ethernet(type=36) / ipv4() / udp(port)),
    "vlan of nobody": ("up_vlan", lambda port: tagged(ethernet(), [(0x8100, 99)]) / ipv4() / udp(port)),
    "vlan by another protocol": ("up_vlan", lambda port: tagged(ethernet(), [(0x88A8, 5)]) / ipv4() / udp(port)),
    "inner tag of nobody": (
        "up_vlan",
        lambda port: tagged(ethernet(), [(0x88A8, 7), (0x8100, 5)]) / ipv4() / udp(port),
    ),
    "outer tag alone": ("up_vlan", lambda port: tagged(ethernet(), [(0x88A8, 7)]) / ipv4() / udp(port)),
    "three tags": (
        "up_vlan",
        lambda port: tagged(ethernet(), [(0x88A8, 7), (0x8100, 6), (0x8100, 5)]) / ipv4() / udp(port),
    ),
    "to another host's mac": ("up_other_mac", lambda port: ethernet(dst="02:00:00:00:01:09") / ipv4() / udp(port)),
    "wrong header checksum": ("up_bad_checksum", lambda port: ethernet() / ipv4(chksum=0xBAD) / udp(port)),
    "tcp": ("up_not_udp", lambda port: ethernet() / ipv4() / TCP(sport=CALLER.port, dport=port)),
    "icmp": ("up_not_udp", lambda port: ethernet() / ipv4() / ICMP()),
    "icmp about a datagram": ("up_not_udp", lambda port: ethernet() / ipv4() / ICMP(type=3) / ipv4() / udp(port)),
    "udp-lite": ("up_not_udp", lambda port: ethernet() / ipv4(proto=136) / udp(port)),
    "fragment of icmp": ("up_not_udp", lambda port: ethernet() / ipv4(flags="MF") / ICMP()),
    "first fragment": ("up_fragment", lambda port: ethernet() / ipv4(flags="MF") / udp(port)),
    "middle fragment": ("up_fragment", lambda port: ethernet() / ipv4(flags="MF", frag=2, proto=17) / udp(port)),
    "last fragment": ("up_fragment", lambda port: ethernet() / ipv4(frag=2, proto=17) / udp(port)),
    "last possible fragment": ("up_fragment", lambda port: ethernet() / ipv4(frag=0x1FFF, proto=17) / udp(port)),
    "fragment of one byte": ("up_fragment", lambda port: ethernet() / ipv4(frag=1, proto=17) / Raw(b"x")),
    "no-operation option": ("up_ip_options", lambda port: ethernet() / ipv4(options=[IPOption_NOP()]) / udp(port)),
    "longest options": ("up_ip_options", lambda port: ethernet() / ipv4(options=[IPOption_NOP()] * 40) / udp(port)),
    "router alert": ("up_ip_options", lambda port: ethernet() / ipv4(options=[IPOption_Router_Alert()]) / udp(port)),
    "options in a fragment": (
        "up_ip_options",
        lambda port: ethernet() / ipv4(flags="MF", options=[IPOption_NOP()]) / udp(port),
    ),
    "header length 4": ("up_malformed", lambda port: ethernet() / ipv4(ihl=4) / udp(port)),
    "header length 0": ("up_malformed", lambda port: ethernet() / ipv4(ihl=0) / udp(port)),
    "version 6 in ipv4": ("up_malformed", lambda port: ethernet() / ipv4(version=6) / udp(port)),
    "version 0": ("up_malformed", lambda port: ethernet() / ipv4(version=0) / udp(port)),
    "total length over the frame": ("up_malformed", lambda port: ethernet() / ipv4(len=37) / udp(port, len=17)),
    "total length 65535": ("up_malformed", lambda port: ethernet() / ipv4(len=65535) / udp(port, len=65515)),
    "total length without udp": ("up_malformed", lambda port: ethernet() / ipv4(len=27) / udp(port, len=7)),
    "total length 0": ("up_malformed", lambda port: ethernet() / ipv4(len=0) / udp(port, len=0)),
    "udp length below ip's": ("up_malformed", lambda port: ethernet() / ipv4() / udp(port, len=15)),
    "udp length above ip's": ("up_malformed", lambda port: ethernet() / ipv4() / udp(port, len=17)),
    "udp length 0": ("up_malformed", lambda port: ethernet() / ipv4() / udp(port, len=0)),
    "udp length below its header": ("up_malformed", lambda port: ethernet() / ipv4() / udp(port, len=7)),
    "multicast": ("up_malformed", lambda port: ethernet(dst="01:00:5e:00:00:01") / ipv4() / udp(port)),
    "broadcast": ("up_malformed", lambda port: ethernet(dst="ff:ff:ff:ff:ff:ff") / ipv4() / udp(port)),
    "to another address of ours": ("up_other_address", lambda port: ethernet() / ipv4(dst="10.0.3.1") / udp(port)),
    "to a broadcast address": ("up_other_address", lambda port: ethernet() / ipv4(dst="10.0.1.255") / udp(port)),
}


@pytest.mark.parametrize("name", NOT_FORWARDED)
def test_passed_up_unchanged(plane, name):
    reason, build = NOT_FORWARDED[name]
    entry = plane.install(is_any_source_port=True)
    frame = bytes(build(entry.port))
    assert plane.run(frame) == passed_up(frame, reason)
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.packets, counters.state.seen_at, counters.ssrc_changed_at) == (0, 0.0, 0.0)


@pytest.mark.parametrize("size", [0, 160])
def test_every_beginning_of_a_frame(plane, size):
    entry = plane.install()
    whole = received(entry.port, rtp(size=size)[:size])
    for length in range(14, len(whole)):  # the kernel hands no XDP program less than an Ethernet header
        frame = whole[:length]
        assert plane.run(frame) == passed_up(frame, "up_malformed"), length
    assert plane.tables.counts.counters(entry.port).packets == 0
    assert plane.run(whole).action == XDP_REDIRECT


# Left to the stack: ports, entries and next hops


def test_port_that_no_stream_owns(plane):
    frame = received(19999)
    assert plane.run(frame) == passed_up(frame, "up_not_ours")


def test_closed_port_beats_its_entry(plane):
    entry = plane.install()
    plane.tables.ports.close_port(entry.port)
    frame = received(entry.port)
    assert plane.run(frame) == passed_up(frame, "up_not_ours")


def test_port_without_an_entry(plane):
    frame = received(plane.open_port())
    assert plane.run(frame) == passed_up(frame, "up_no_entry")


@pytest.mark.vm
def test_withdrawn_entry(plane):
    entry = plane.install()
    plane.run(received(entry.port, b"abc"))
    plane.tables.ports.withdraw(entry.port)
    frame = received(entry.port, b"abc")
    assert plane.run(frame) == passed_up(frame, "up_no_entry")
    assert plane.tables.counts.counters(entry.port).packets == 1


def test_replaced_entry(plane):
    first = plane.install()
    second = plane.install_by(plane.next_hop(), port=first.port, from_port=1, to=Endpoint("192.0.2.9", 2))
    assert plane.run(received(first.port)) == redirected(forwarded(second))


def test_row_that_is_being_written(plane):
    entry = plane.install()
    sequence = plane.peek("port_rows", entry.port, "sequence")
    frame = received(entry.port)
    plane.poke("port_rows", entry.port, "sequence", sequence | 1)
    assert plane.run(frame) == passed_up(frame, "up_entry_changing")
    plane.poke("port_rows", entry.port, "sequence", sequence)
    assert plane.run(frame) == redirected(forwarded(entry))


@pytest.mark.vm
def test_unusable_next_hop(plane):
    number = plane.next_hop(None)
    entry = plane.install_by(number)
    frame = received(entry.port)
    assert plane.run(frame) == passed_up(frame, "up_no_next_hop")
    plane.tables.next_hops.write(number, HOP)
    assert plane.run(frame) == redirected(forwarded(entry))
    plane.tables.next_hops.write(number, None)
    assert plane.run(frame) == passed_up(frame, "up_no_next_hop")


def test_moved_next_hop(plane):
    number = plane.next_hop()
    entry = plane.install_by(number)
    moved = NextHop(22, "02:aa:aa:aa:aa:aa", "02:bb:bb:bb:bb:bb", 1500, XdpWay(22))
    plane.tables.next_hops.write(number, moved)
    assert plane.run(received(entry.port)) == redirected(forwarded(entry, hop=moved))


def test_next_hop_that_is_being_written(plane):
    number = plane.next_hop()
    entry = plane.install_by(number)
    plane.poke("next_hops", number, "sequence", plane.peek("next_hops", number, "sequence") | 1)
    frame = received(entry.port)
    assert plane.run(frame) == passed_up(frame, "up_entry_changing")
    plane.tables.next_hops.write(number, HOP)
    assert plane.run(frame) == redirected(forwarded(entry))


def test_next_hop_beyond_the_table_is_counted(plane):
    entry = plane.install_by(plane.tables.next_hops.capacity)
    frame = received(entry.port)
    assert plane.run(frame) == passed_up(frame, "up_no_next_hop")


# The locked source


OTHER_SOURCES = {
    "port": (False, {}, CALLER.port + 1),
    "host": (False, {"src": "10.0.1.3"}, CALLER.port),
    "host, where any port may be used": (True, {"src": "10.0.1.3"}, CALLER.port),
}


def other_frame(port, ip_changes, sport):
    return bytes(ethernet() / ipv4(**ip_changes) / UDP(sport=sport, dport=port) / Raw(rtp()))


@pytest.mark.vm
@pytest.mark.parametrize("name", OTHER_SOURCES)
def test_other_source_goes_up_a_few_times_a_second(plane, name):
    is_any_source_port, ip_changes, sport = OTHER_SOURCES[name]
    entry = plane.install(is_any_source_port=is_any_source_port)
    frame = other_frame(entry.port, ip_changes, sport)
    dropped = Outcome(XDP_DROP, frame, {"dropped_other_source": 1})
    before = plane.tables.counts.total_dropped()

    for _ in range(OTHERS_PER_SECOND):
        assert plane.run_this_second(entry.port, frame) == passed_up(frame, "up_other_source")
    for _ in range(3):
        assert plane.run_this_second(entry.port, frame) == dropped
    assert plane.run(received(entry.port)) == redirected(forwarded(entry))
    counters = plane.tables.counts.counters(entry.port)
    assert counters.packets == 1
    assert counters.ssrc_changed_at == 0.0
    assert plane.tables.counts.total_dropped() - before == 3


def test_other_source_goes_up_again_in_the_next_second(plane):
    entry = plane.install()
    frame = other_frame(entry.port, {}, 9)
    for _ in range(OTHERS_PER_SECOND + 1):
        plane.run_this_second(entry.port, frame)
    plane.end_second(entry.port)
    actions = [plane.run(frame).action]
    actions += [plane.run_this_second(entry.port, frame).action for _ in range(OTHERS_PER_SECOND + 1)]
    assert actions == [XDP_PASS] * OTHERS_PER_SECOND + [XDP_DROP] * 2


def test_one_ports_flood_leaves_other_ports_their_share(plane):
    flooded, quiet = plane.install(), plane.install()
    for _ in range(OTHERS_PER_SECOND + 1):
        plane.run_this_second(flooded.port, other_frame(flooded.port, {}, 9))
    frame = other_frame(quiet.port, {}, 9)
    assert plane.run(frame) == passed_up(frame, "up_other_source")


# The memory of SSRC and sequence number


def memory(plane, entry):
    counters = plane.tables.counts.counters(entry.port)
    return counters.ssrc, counters.sequence


@pytest.mark.parametrize("ssrc", [0xCAFEF00D, 0])
def test_first_packet_sets_the_memory(plane, ssrc):
    entry = plane.install()
    plane.run(received(entry.port, rtp(sequence=500, ssrc=ssrc)))
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.ssrc, counters.sequence) == (ssrc, 500)
    assert counters.ssrc_changed_at == counters.sequence_set_at == counters.state.seen_at > 0.0


@pytest.mark.vm
def test_sequence_is_refreshed_once_a_second(plane):
    entry = plane.install()
    expected, last_seen_ns = 500, 0
    for sequence in range(500, 560):
        if sequence % 20 == 0:
            last_seen_ns -= SECOND_NS + SECOND_NS // 10
            plane.poke("port_counters", entry.port, "last_seen_ns", max(last_seen_ns, 0))
        seen_ns = plane.peek("port_counters", entry.port, "last_seen_ns")
        plane.run(received(entry.port, rtp(sequence)))
        last_seen_ns = plane.peek("port_counters", entry.port, "last_seen_ns")
        if seen_ns >> 30 != last_seen_ns >> 30:  # a "second" of the kernel
            expected = sequence
        assert memory(plane, entry) == (0xCAFEF00D, expected)
    assert expected >= 540
    counters = plane.tables.counts.counters(entry.port)
    assert counters.ssrc_changed_at < counters.sequence_set_at


def test_change_of_ssrc_is_noted_at_once(plane):
    entry = plane.install()
    plane.run(received(entry.port, rtp(500, ssrc=1)))
    plane.poke("port_events", entry.port, "ssrc_changed_ns", 1)
    plane.run(received(entry.port, rtp(9, ssrc=2)))
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.ssrc, counters.sequence) == (2, 9)
    assert counters.ssrc_changed_at == counters.sequence_set_at == counters.state.seen_at


NOT_RTP = {
    "nothing": b"",
    "a header too short": rtp(size=0)[:11],
    "version 0, as STUN": b"\0\1" + bytes(18),
    "version 1": b"\x40" + bytes(20),
    "version 3": b"\xc0" + bytes(20),
}


@pytest.mark.parametrize("name", NOT_RTP)
def test_what_is_not_rtp_is_forwarded_and_not_remembered(plane, name):
    entry, payload = plane.install(), NOT_RTP[name]
    assert plane.run(received(entry.port, payload)) == redirected(forwarded(entry, payload))
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.packets, counters.ssrc, counters.sequence, counters.ssrc_changed_at) == (1, 0, 0, 0.0)


def test_padding_is_not_read_as_rtp(plane):
    entry, payload = plane.install(), rtp(size=0)
    frame = received(entry.port, payload[:11]) + payload[11:]
    assert plane.run(frame) == redirected(forwarded(entry, payload[:11]) + payload[11:])
    assert plane.tables.counts.counters(entry.port).ssrc_changed_at == 0.0


def test_rtcp_port_has_no_memory(plane):
    entry = plane.install(is_rtp=False)
    assert plane.run(received(entry.port, rtp())) == redirected(forwarded(entry, rtp()))
    counters = plane.tables.counts.counters(entry.port)
    assert (counters.packets, counters.ssrc, counters.ssrc_changed_at) == (1, 0, 0.0)
