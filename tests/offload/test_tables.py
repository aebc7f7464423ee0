"""Rows of ports and next hops: each member is where the layout says, and no neighbouring row is touched."""

import contextlib
import socket
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from rtpproxy.addr import Endpoint
from rtpproxy.offload import loader
from rtpproxy.offload.entry import ForwardingEntry, NextHop, XdpWay
from rtpproxy.offload.network_order import mac_bytes
from rtpproxy.offload.programs import LIMITS
from rtpproxy.offload.tables import Tables
from rtpproxy.rtp.statistics import RtpState
from rtpproxy.session.local import port_key
from tests.bpf.data_plane import INGRESS, DataPlane
from tests.bpf.frames import CALLEE, CALLER, RELAY_IN, RELAY_OUT, received, rtp
from tests.conftest import QINQ, TOS, TTL

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ENTRY = ForwardingEntry(50001, RELAY_IN, CALLER, True, True, RELAY_OUT, 31000, CALLEE, 0xB8)


@pytest.fixture
def row(plane, tables):
    """Reads members of the row of ENTRY; the entry is removed at the end."""
    yield lambda *members: tuple(plane.peek("port_rows", ENTRY.port, member) for member in members)
    tables.ports.withdraw(ENTRY.port)
    tables.ports.close_port(ENTRY.port)


def number(host):
    return int.from_bytes(socket.inet_aton(host), "little")  # as a word in memory, network order


@pytest.mark.vm
def test_install_writes_every_member(row, tables):
    (before,) = row("sequence")
    tables.ports.install(ENTRY, RELAY_OUT, 77, TTL, INGRESS)
    assert row("sequence", "is_open", "is_forwarding", "is_any_source_port", "is_rtp") == (before + 2, 0, 1, 1, 1)
    assert row("tos", "ttl", "next_hop") == (TOS, TTL, 77)
    assert row("remote_host", "local_host") == (number(CALLER.host), number(RELAY_IN))
    assert row("from_host", "to_host") == (number(RELAY_OUT), number(CALLEE.host))
    ports = (CALLER.port, ENTRY.from_port, CALLEE.port)
    assert row("remote_port", "from_port", "to_port") == tuple(map(socket.htons, ports))
    assert row("ingress_ifindex", "ingress_mac", "tee") == (INGRESS.ifindex, mac_bytes(INGRESS.mac), 0)


@pytest.mark.vm
def test_tee_goes_into_the_row_and_out(row, tables):
    for tee in (0xFFFFFFFE, 5, 0):
        tables.ports.install(replace(ENTRY, tee=tee), RELAY_OUT, 77, TTL, INGRESS)
        assert row("tee", "ingress_mac", "is_forwarding") == (tee, mac_bytes(INGRESS.mac), 1)
    tables.ports.install(replace(ENTRY, tee=5), RELAY_OUT, 77, TTL, INGRESS)
    tables.ports.withdraw(ENTRY.port)
    assert row("tee", "is_forwarding") == (0, 0)


@pytest.mark.vm
def test_payload_types_go_into_the_row_and_out(row, tables):
    """Type 0 is not none."""
    for teed, hidden, expected in ((0, 127, (0x80, 0xFF)), (101, None, (0xE5, 0)), (None, 0, (0, 0x80))):
        changed = replace(ENTRY, tee=5, tee_type=teed, hidden_type=hidden)
        tables.ports.install(changed, RELAY_OUT, 77, TTL, INGRESS)
        assert row("tee_type", "hidden_type", "tee") == (*expected, 5)
    tables.ports.withdraw(ENTRY.port)
    assert row("tee_type", "hidden_type", "tee") == (0, 0, 0)


def test_address_that_packets_leave_from_is_the_callers_word(row, tables):
    tables.ports.install(replace(ENTRY, from_host=""), "172.16.0.1", 0, TTL, INGRESS)
    assert row("from_host") == (number("172.16.0.1"),)


@pytest.mark.vm
def test_withdraw_clears_the_entry_and_leaves_the_port_open(row, tables):
    tables.ports.open_port(ENTRY.port)
    tables.ports.install(ENTRY, RELAY_OUT, 77, TTL, INGRESS)
    (before,) = row("sequence")
    tables.ports.withdraw(ENTRY.port)
    assert row("is_open", "sequence", "is_forwarding", "remote_host", "next_hop") == (1, before + 2, 0, 0, 0)
    assert row("ingress_ifindex", "ingress_mac") == (0, bytes(6))
    tables.ports.close_port(ENTRY.port)
    assert row("is_open") == (0,)


def test_opening_does_not_touch_the_entry(row, tables):
    tables.ports.install(ENTRY, RELAY_OUT, 77, TTL, INGRESS)
    members = ("sequence", "is_forwarding", "remote_host", "next_hop")
    before = row(*members)
    for change in (tables.ports.open_port, tables.ports.close_port):
        change(ENTRY.port)
        assert row(*members) == before


def test_neighbouring_rows_stay(plane, tables, row):
    tables.ports.install(replace(ENTRY, port=ENTRY.port - 1), RELAY_OUT, 1, TTL, INGRESS)
    tables.ports.install(replace(ENTRY, port=ENTRY.port + 1), RELAY_OUT, 2, TTL, INGRESS)
    tables.ports.install(ENTRY, RELAY_OUT, 3, TTL, INGRESS)
    tables.ports.withdraw(ENTRY.port)
    for neighbour, next_hop in ((ENTRY.port - 1, 1), (ENTRY.port + 1, 2)):
        assert plane.peek("port_rows", neighbour, "next_hop") == next_hop
        assert plane.peek("port_rows", neighbour, "is_forwarding") == 1
        tables.ports.withdraw(neighbour)


def test_sequence_wraps(plane, tables, row):
    plane.poke("port_rows", ENTRY.port, "sequence", 0xFFFFFFFE)
    tables.ports.install(ENTRY, RELAY_OUT, 1, TTL, INGRESS)
    assert row("sequence", "is_forwarding") == (0, 1)


@pytest.mark.vm
def test_row_that_a_killed_writer_left_odd_is_made_even(plane, tables, row):
    plane.poke("port_rows", ENTRY.port, "sequence", 7)
    tables.ports.install(ENTRY, RELAY_OUT, 1, TTL, INGRESS)
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
        tables.ports.install(entry, from_host, 0, TTL, INGRESS)
        old = IP(src=source.host, dst=local) / UDP(sport=source.port, dport=entry.port) / Raw(payload)
        new = (
            IP(src=from_host, dst=to.host, tos=TOS, ttl=TTL, flags="DF", id=0)
            / UDP(sport=from_port, dport=to.port)
            / Raw(payload)
        )
        old, new = IP(bytes(old)), IP(bytes(new))
        delta = socket.ntohs(plane.peek("port_rows", entry.port, "udp_delta"))
        ip_sum = socket.ntohs(plane.peek("port_rows", entry.port, "ip_sum"))
        tables.ports.withdraw(entry.port)

    # In one's complement, sums are equal modulo 65535.
    assert (-new[UDP].chksum) % 65535 == (-old[UDP].chksum + delta - source.port) % 65535
    assert (-new.chksum) % 65535 == (ip_sum + new.len) % 65535


def test_next_hop(plane, tables):
    hop_number = plane.next_hop(None)
    before = plane.peek("next_hops", hop_number, "sequence")
    tables.next_hops.write(hop_number, NextHop(300, "02:01:02:03:04:05", "02:0a:0b:0c:0d:0e", 9000, XdpWay(301, QINQ)))
    members = [plane.peek("next_hops", hop_number, member) for member in ("sequence", "ifindex", "mtu")]
    assert members == [before + 2, 300, 9000]
    tables.next_hops.write(hop_number, None)
    members = [plane.peek("next_hops", hop_number, member) for member in ("sequence", "ifindex", "mtu")]
    assert members == [before + 4, 0, 0]


def test_number_of_next_hops(tables):
    assert tables.next_hops.capacity == 4096


@pytest.mark.vm
def test_held_port_forwards_nothing_until_it_is_seeded(plane, tables):
    port = plane.install().port
    (before,) = (plane.peek("port_rows", port, "sequence"),)
    tables.ports.hold(port)
    tables.ports.hold(port)
    assert plane.run(received(port, rtp())).counted == {"up_entry_changing": 1}
    tables.ports.seed(port, RtpState())
    assert plane.peek("port_rows", port, "sequence") == before + 2
    assert plane.run(received(port, rtp())).counted == {"forwarded": 1}


def test_entry_that_changes_ends_the_holding(plane, tables):
    number = plane.next_hop()
    port = plane.install_by(number).port
    tables.ports.hold(port)
    plane.install_by(number, port=port)
    assert plane.run(received(port, rtp())).counted == {"forwarded": 1}


@pytest.mark.parametrize(
    ("first", "last"), [(1024, 65535), (35000, 35001), (35063, 35064), (65534, 65535), (1, 2)], ids=str
)
def test_port_ranges(first, last):
    """Every port of every port space has a row of its own, and there are no others."""
    span = last + 1 - first
    ports = {"FIRST_PORT": str(first), "PORT_SPAN": str(span), "LOCAL_SLOTS": "3"}
    with contextlib.closing(loader.load({**LIMITS, **ports})) as loaded:
        tables = Tables(loaded, first, last)
        plane = DataPlane(loaded, tables)
        keys = [port_key(slot, port) for slot in range(3) for port in (first, last)]
        for key in keys:
            tables.ports.open_port(key)
            slot, port = divmod(key, 65536)
            tables.ports.install(replace(ENTRY, port=port, slot=slot), RELAY_OUT, key % 4093, TTL, INGRESS)
            plane.poke("port_counters", key, "last_seen_ns", 1_000_000_000 + key)
        assert [tables.ports.row(key) for key in keys] == [0, span - 1, span, 2 * span - 1, 2 * span, 3 * span - 1]
        assert len(tables.counts.last_seen()) == 3 * span
        for number, key in enumerate(keys):
            plane.poke("port_counters", key, "packets", 1 << number)
        assert tables.counts.total_forwarded() == 2 ** len(keys) - 1
        for key in keys:
            assert plane.peek("port_rows", key, "is_open") == 1
            assert plane.peek("port_rows", key, "next_hop") == key % 4093
            assert tables.counts.last_seen()[tables.ports.row(key)] == tables.counts.seen_at(key) == (1e9 + key) / 1e9
            tables.ports.withdraw(key)
            tables.ports.close_port(key)
            assert plane.peek("port_rows", key, "is_open") == 0
        tables.close()
