"""The mapped arrays: what is written is what the layout says, and no neighbour is touched."""

import contextlib
import socket
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from rtpproxy.addr import Endpoint
from rtpproxy.offload import loader
from rtpproxy.offload.entry import ForwardingEntry, NextHop, PortCounters, XdpWay
from rtpproxy.offload.tables import Tables
from rtpproxy.rtp.statistics import RtpState, RtpTotals
from rtpproxy.session.local import port_key
from tests.bpf.data_plane import DataPlane
from tests.bpf.frames import CALLEE, CALLER, RELAY_IN, RELAY_OUT, received, rtp
from tests.conftest import PROGRAM_NAMES, QINQ, TOS, TTL

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ENTRY = ForwardingEntry(50001, RELAY_IN, CALLER, True, True, RELAY_OUT, 31000, CALLEE, 0xB8)


@pytest.fixture
def plane(loaded, tables):
    with DataPlane(loaded, tables) as plane:
        yield plane


@pytest.fixture
def row(plane, tables):
    """Reads members of the row of ENTRY, which is taken out again."""
    yield lambda *members: tuple(plane.peek("port_rows", ENTRY.port, member) for member in members)
    tables.withdraw(ENTRY.port)
    tables.close_port(ENTRY.port)


def number(host):
    return int.from_bytes(socket.inet_aton(host), "little")  # as a word in memory, network order


def test_install_writes_every_member(row, tables):
    (before,) = row("sequence")
    tables.install(ENTRY, RELAY_OUT, 77, TTL)
    assert row("sequence", "is_open", "is_forwarding", "is_any_source_port", "is_rtp") == (before + 2, 0, 1, 1, 1)
    assert row("tos", "ttl", "next_hop") == (TOS, TTL, 77)
    assert row("remote_host", "local_host") == (number(CALLER.host), number(RELAY_IN))
    assert row("from_host", "to_host") == (number(RELAY_OUT), number(CALLEE.host))
    ports = (CALLER.port, ENTRY.from_port, CALLEE.port)
    assert row("remote_port", "from_port", "to_port") == tuple(map(socket.htons, ports))


def test_address_that_packets_leave_from_is_the_callers_word(row, tables):
    tables.install(replace(ENTRY, from_host=""), "172.16.0.1", 0, TTL)
    assert row("from_host") == (number("172.16.0.1"),)


def test_withdraw_clears_the_entry_and_leaves_the_port_open(row, tables):
    tables.open_port(ENTRY.port)
    tables.install(ENTRY, RELAY_OUT, 77, TTL)
    (before,) = row("sequence")
    tables.withdraw(ENTRY.port)
    assert row("is_open", "sequence", "is_forwarding", "remote_host", "next_hop") == (1, before + 2, 0, 0, 0)
    tables.close_port(ENTRY.port)
    assert row("is_open") == (0,)


def test_opening_does_not_touch_the_entry(row, tables):
    tables.install(ENTRY, RELAY_OUT, 77, TTL)
    members = ("sequence", "is_forwarding", "remote_host", "next_hop")
    before = row(*members)
    for change in (tables.open_port, tables.close_port):
        change(ENTRY.port)
        assert row(*members) == before


def test_neighbouring_rows_stay(plane, tables, row):
    tables.install(replace(ENTRY, port=ENTRY.port - 1), RELAY_OUT, 1, TTL)
    tables.install(replace(ENTRY, port=ENTRY.port + 1), RELAY_OUT, 2, TTL)
    tables.install(ENTRY, RELAY_OUT, 3, TTL)
    tables.withdraw(ENTRY.port)
    for neighbour, next_hop in ((ENTRY.port - 1, 1), (ENTRY.port + 1, 2)):
        assert plane.peek("port_rows", neighbour, "next_hop") == next_hop
        assert plane.peek("port_rows", neighbour, "is_forwarding") == 1
        tables.withdraw(neighbour)


def test_sequence_wraps(plane, tables, row):
    plane.poke("port_rows", ENTRY.port, "sequence", 0xFFFFFFFE)
    tables.install(ENTRY, RELAY_OUT, 1, TTL)
    assert row("sequence", "is_forwarding") == (0, 1)


def test_row_that_a_killed_writer_left_odd_is_made_even(plane, tables, row):
    plane.poke("port_rows", ENTRY.port, "sequence", 7)
    tables.install(ENTRY, RELAY_OUT, 1, TTL)
    assert row("sequence", "is_forwarding") == (8, 1)


hosts = st.ip_addresses(v=4).map(str)
ports = st.integers(0, 65535)


@settings(max_examples=300, deadline=None)
@given(
    source=st.builds(Endpoint, hosts, ports),
    local=hosts,
    from_host=hosts,
    from_port=ports,
    to=st.builds(Endpoint, hosts, ports),
    payload=st.binary(max_size=20),
)
def test_sums_agree_with_scapy(loaded, tables, source, local, from_host, from_port, to, payload):
    with DataPlane(loaded, tables) as plane:
        entry = ForwardingEntry(ENTRY.port, local, source, False, True, from_host, from_port, to, ENTRY.tos)
        tables.install(entry, from_host, 0, TTL)
        old = IP(src=source.host, dst=local) / UDP(sport=source.port, dport=entry.port) / Raw(payload)
        new = (
            IP(src=from_host, dst=to.host, tos=TOS, ttl=TTL, flags="DF", id=0)
            / UDP(sport=from_port, dport=to.port)
            / Raw(payload)
        )
        old, new = IP(bytes(old)), IP(bytes(new))
        delta = socket.ntohs(plane.peek("port_rows", entry.port, "udp_delta"))
        ip_sum = socket.ntohs(plane.peek("port_rows", entry.port, "ip_sum"))
        tables.withdraw(entry.port)

    # In one's complement, sums are equal modulo 65535.
    assert (-new[UDP].chksum) % 65535 == (-old[UDP].chksum + delta - source.port) % 65535
    assert (-new.chksum) % 65535 == (ip_sum + new.len) % 65535


def test_next_hop(plane, tables):
    hop_number = plane.next_hop(None)
    before = plane.peek("next_hops", hop_number, "sequence")
    tables.write_next_hop(hop_number, NextHop(300, "02:01:02:03:04:05", "02:0a:0b:0c:0d:0e", 9000, XdpWay(301, QINQ)))
    members = [plane.peek("next_hops", hop_number, member) for member in ("sequence", "ifindex", "mtu")]
    assert members == [before + 2, 300, 9000]
    tables.write_next_hop(hop_number, None)
    members = [plane.peek("next_hops", hop_number, member) for member in ("sequence", "ifindex", "mtu")]
    assert members == [before + 4, 0, 0]


def test_number_of_next_hops(tables):
    assert tables.max_next_hops == 4096


def test_counters_of_a_port_that_saw_nothing(tables):
    assert tables.counters(50003) == PortCounters(0, 0, 0, 0, 0.0, 0.0, RtpState(is_jitter_new=False), RtpTotals())


def test_counters_are_seconds_and_host_order(plane, tables):
    port = plane.install().port
    counted = {
        "packets": 1 << 40,
        "jitter_sum": 256 << 32,
        "jitter_count": 8,
        "ssrc": 0xFFFFFFFE,
        "last_seen_ns": 5_250_000_000,
        "arrived_ns": 5_125_000_000,
        "highest": 65536 + 900,
        "timestamp": 0xFFFFFFFD,
        "jitter": 384,
        "jitter_max": 640,
        "longest_gap": 1_000_000,
        "is_running": 1,
        "is_jitter_new": 0,
    }
    events = {
        "ssrc_changed_ns": 1_500_000_000,
        "sequence_set_ns": 2_000_000_000,
        "sequence": 65535,
        "others_dropped": 3,
        "lost": 0xFFFFFFFF,
        "duplicates": 5,
        "parse_errors": 6,
        "lowest": 65536 + 10,
        "settled": 65536 + 890,
    }
    for map_name, values in (("port_counters", counted), ("port_events", events)):
        for member, value in values.items():
            plane.poke(map_name, port, member, value)
    expected = PortCounters(
        packets=1 << 40,
        others_dropped=3,
        ssrc=0xFFFFFFFE,
        sequence=65535,
        ssrc_changed_at=1.5,
        sequence_set_at=2.0,
        state=RtpState(
            ssrc=0xFFFFFFFE,
            highest=65536 + 900,
            lowest=65536 + 10,
            missing=frozenset(),
            seen_at=5.25,
            longest_gap_s=1.024,
            timestamp=0xFFFFFFFD,
            arrived_at=5.125,
            jitter=1.5,
            jitter_max=2.5,
            is_jitter_new=False,
        ),
        totals=RtpTotals(0xFFFFFFFF, 5, 6, float(1 << 32), 8),
    )
    assert tables.counters(port) == expected
    assert tables.last_seen()[tables.row(port)] == tables.seen_at(port) == 5.25
    plane.poke("port_counters", port, "packets", 0)


def test_held_port_forwards_nothing_until_it_is_seeded(plane, tables):
    port = plane.install().port
    (before,) = (plane.peek("port_rows", port, "sequence"),)
    tables.hold(port)
    tables.hold(port)
    assert plane.run(received(port, rtp())).counted == {"up_entry_changing": 1}
    tables.seed(port, RtpState())
    assert plane.peek("port_rows", port, "sequence") == before + 2
    assert plane.run(received(port, rtp())).counted == {"forwarded": 1}


def test_entry_that_changes_ends_the_holding(plane, tables):
    number = plane.next_hop()
    port = plane.install_by(number).port
    tables.hold(port)
    plane.install_by(number, port=port)
    assert plane.run(received(port, rtp())).counted == {"forwarded": 1}


def test_seed_touches_no_total_and_no_neighbour(plane, tables):
    port, neighbour = plane.install().port, plane.install().port
    for _ in range(2):
        plane.run(received(port, rtp()))
        plane.run(received(neighbour, rtp()))
    plane.poke("port_events", port, "others_dropped", 7)
    before, other = tables.counters(port), tables.counters(neighbour)
    state = RtpState(5, 300, 200, frozenset({250, 299}), 3.0, 0.5, 77, 2.0, 4.0, 6.0, False)
    tables.seed(port, state)
    after = tables.counters(port)
    shifted = {"highest": 65536 + 300, "lowest": 65536 + 200, "missing": {65536 + 250, 65536 + 299}}
    assert after.state._replace(longest_gap_s=0.5) == state._replace(**shifted)
    assert after.state.longest_gap_s == pytest.approx(0.5, abs=1e-6)
    assert after == replace(before, ssrc=5, state=after.state)
    assert tables.counters(neighbour) == other


def test_values_that_the_kernel_cannot_hold(plane, tables):
    port = plane.install().port
    tables.seed(port, RtpState(1, jitter=1e9, jitter_max=1e9, longest_gap_s=1e5, is_jitter_new=False))
    state, most = tables.counters(port).state, 2**32 - 1
    assert (state.jitter, state.jitter_max, state.longest_gap_s) == (most / 256, most / 256, most * 1024 / 1e9)


def test_counters_outlive_the_entry(plane, tables):
    port = plane.install().port
    plane.run(received(port, rtp()))
    before = tables.counters(port)
    tables.withdraw(port)
    tables.close_port(port)
    assert tables.counters(port) == before
    assert before.packets == 1


def test_verdicts_over_all_cpus(plane, tables):
    before = tables.verdicts()
    plane.run(received(19999))
    after = tables.verdicts()
    assert after["up_not_ours"] - before["up_not_ours"] == 1
    assert all(type(count) is int for count in after.values())


@pytest.mark.parametrize(
    ("first", "last"), [(1024, 65535), (35000, 35001), (35063, 35064), (65534, 65535), (1, 2)], ids=str
)
def test_port_ranges(first, last):
    """Every port of every port space has a row of its own, and there are no others."""
    span = last + 1 - first
    ports = {"FIRST_PORT": str(first), "PORT_SPAN": str(span), "LOCAL_SLOTS": "3"}
    with contextlib.closing(loader.load({**PROGRAM_NAMES, **ports})) as loaded:
        tables = Tables(loaded, first, last)
        plane = DataPlane(loaded, tables)
        keys = [port_key(slot, port) for slot in range(3) for port in (first, last)]
        for key in keys:
            tables.open_port(key)
            slot, port = divmod(key, 65536)
            tables.install(replace(ENTRY, port=port, slot=slot), RELAY_OUT, key % 4093, TTL)
            plane.poke("port_counters", key, "last_seen_ns", 1_000_000_000 + key)
        assert [tables.row(key) for key in keys] == [0, span - 1, span, 2 * span - 1, 2 * span, 3 * span - 1]
        assert len(tables.last_seen()) == 3 * span
        for number, key in enumerate(keys):
            plane.poke("port_counters", key, "packets", 1 << number)
        assert tables.total_forwarded() == 2 ** len(keys) - 1
        for key in keys:
            assert plane.peek("port_rows", key, "is_open") == 1
            assert plane.peek("port_rows", key, "next_hop") == key % 4093
            assert tables.last_seen()[tables.row(key)] == tables.seen_at(key) == (1e9 + key) / 1e9
            tables.withdraw(key)
            tables.close_port(key)
            assert plane.peek("port_rows", key, "is_open") == 0
        tables.close()


def test_totals(loaded, plane, tables):
    a, b = plane.install().port, plane.install().port
    before = tables.total_forwarded(), tables.total_dropped()
    for port in (a, a, b):
        plane.run(received(port))
    for port, times in ((a, 11), (b, 10)):
        for _ in range(times):
            plane.run(received(port, sport=9))
    assert (tables.total_forwarded() - before[0], tables.total_dropped() - before[1]) == (3, 3 + 2)
    assert [tables.counters(port).others_dropped for port in (a, b)] == [3, 2]


def test_last_seen_is_a_copy(plane, tables):
    port = plane.install().port
    before = tables.last_seen()
    plane.run(received(port))
    assert before[tables.row(port)] == 0.0
    assert before.dtype == np.float64
