"""The layouts that the compiled headers have: what a relay and the programs that it finds must agree on."""

import pytest

from tests.conftest import FIRST_PORT, LAST_PORT

pytestmark = [pytest.mark.root, pytest.mark.kernel]

SIZES = {
    "port_rows": (4, 64),
    "port_hosts6": (4, 64),
    "port_counters": (4, 64),
    "port_events": (4, 128),
    "next_hops": (4, 64),
    "verdicts": (4, 256),
    "port_sources": (4, 64),
    "port_budgets": (4, 24),
    "host_budgets": (4, 64),
    "learning_budgets": (4, 8),
    "fragment_budgets": (4, 8),
    "local_slots": (16, 4),
    "host_addresses": (16, 1),
    "untagged_links": (4, 12),
    "links": (12, 12),
    "steered_sockets": (4, 4),
    "own_program": (4, 4),
    "refused_frames": (4, 8),
    "batch_began": (4, 8),
    "tee_kept": (4, 64),
    "tee_rings": (4, 4),
}
"""Of keys and values, bytes."""
PORTS = LAST_PORT + 1 - FIRST_PORT
ENTRIES = {
    "port_rows": PORTS,
    "port_hosts6": PORTS,
    "port_counters": PORTS,
    "port_events": PORTS,
    "next_hops": 4096,
    "verdicts": 1,
    "port_sources": PORTS,
    "port_budgets": PORTS,
    "host_budgets": 1,
    "learning_budgets": 1024,
    "fragment_budgets": 256,
    "local_slots": 1 + 64,
    "host_addresses": 1024,
    "untagged_links": 1024,
    "links": 4096,
    "steered_sockets": 2 * 8,
    "own_program": 1,
    "refused_frames": 1024,
    "batch_began": 1,
    "tee_kept": 1,
    "tee_rings": 1,
}
MEMBERS = {
    "port_rows": [
        ("is_open", "B", 0),
        ("reserved", "3s", 1),
        ("sequence", "I", 4),
        ("is_forwarding", "B", 8),
        ("is_any_source_port", "B", 9),
        ("is_rtp", "B", 10),
        ("is_ipv6", "B", 11),
        ("is_to_ipv6", "B", 12),
        ("tos", "B", 13),
        ("ttl", "B", 14),
        ("reserved2", "B", 15),
        ("remote_host", "I", 16),
        ("local_host", "I", 20),
        ("from_host", "I", 24),
        ("to_host", "I", 28),
        ("from_port", "H", 32),
        ("to_port", "H", 34),
        ("remote_port", "H", 36),
        ("udp_delta", "H", 38),
        ("ip_sum", "H", 40),
        ("pseudo_sum", "H", 42),
        ("next_hop", "I", 44),
        ("ingress_ifindex", "I", 48),
        ("ingress_mac", "6s", 52),
        ("tee_type", "B", 58),
        ("hidden_type", "B", 59),
        ("tee", "I", 60),
    ],
    "port_hosts6": [
        ("remote_host", "16s", 0),
        ("local_host", "16s", 16),
        ("from_host", "16s", 32),
        ("to_host", "16s", 48),
    ],
    "port_counters": [
        ("packets", "Q", 0),
        ("jitter_sum", "Q", 8),
        ("jitter_count", "I", 16),
        ("ssrc", "I", 20),
        ("last_seen_ns", "Q", 24),
        ("arrived_ns", "Q", 32),
        ("highest", "I", 40),
        ("timestamp", "I", 44),
        ("jitter", "I", 48),
        ("jitter_max", "I", 52),
        ("longest_gap", "I", 56),
        ("is_running", "B", 60),
        ("is_jitter_new", "B", 61),
        ("payload_type", "B", 62),
        ("reserved", "B", 63),
    ],
    "port_events": [
        ("window_since", "I", 0),
        ("ssrc_changes", "I", 4),
        ("tee_missed", "I", 8),
        ("tee_chosen", "I", 12),
        ("ssrc_changed_ns", "Q", 16),
        ("sequence_set_ns", "Q", 24),
        ("sequence", "H", 32),
        ("suspects", "H", 34),
        ("lost", "I", 36),
        ("duplicates", "I", 40),
        ("parse_errors", "I", 44),
        ("lowest", "I", 48),
        ("settled", "I", 52),
        ("missing", "72s", 56),
    ],
    "next_hops": [
        ("sequence", "I", 0),
        ("ifindex", "I", 4),
        ("xdp_ifindex", "I", 8),
        ("mtu", "I", 12),
        ("to_mac", "6s", 16),
        ("from_mac", "6s", 22),
        ("tags", "8s", 28),
        ("tag_bytes", "I", 36),
        ("reserved", "24s", 40),
    ],
    "port_sources": [
        ("host", "16s", 0),
        ("other_hosts", "32s", 16),
        ("ssrc", "I", 48),
        ("port", "H", 52),
        ("other_ports", "4s", 54),
        ("most", "H", 58),
        ("is_known", "B", 60),
        ("is_locked", "B", 61),
        ("is_contested", "B", 62),
        ("reserved", "B", 63),
    ],
    "port_budgets": [("since", "I", 0), ("used", "18s", 4), ("reserved", "H", 22)],
    "host_budgets": [("since", "I", 0), ("used", "36s", 4), ("reserved", "24s", 40)],
    "learning_budgets": [("since", "I", 0), ("used", "I", 4)],
    "fragment_budgets": [("since", "I", 0), ("used", "I", 4)],
    "local_slots": [("", "I", 0)],
    "host_addresses": [("", "B", 0)],
    "untagged_links": [("mac", "6s", 0), ("is_strict", "B", 6), ("reserved", "B", 7), ("ifindex", "I", 8)],
    "links": [("mac", "6s", 0), ("is_strict", "B", 6), ("reserved", "B", 7), ("ifindex", "I", 8)],
    "steered_sockets": [("", "I", 0)],
    "own_program": [("", "I", 0)],
    "refused_frames": [("", "Q", 0)],
    "batch_began": [("", "Q", 0)],
    "tee_kept": [
        ("arrived_ns", "Q", 0),
        ("tee", "I", 8),
        ("payload_bytes", "H", 12),
        ("is_ipv6", "B", 14),
        ("reserved", "B", 15),
        ("headers", "48s", 16),
    ],
    "tee_rings": [("", "I", 0)],
}
KEYS = {
    "local_slots": [("words", "16s", 0)],
    "host_addresses": [("words", "16s", 0)],
    "links": [("ifindex", "I", 0), ("tags", "8s", 4)],
}
"""Those that are no plain number."""
# Never renumbered: a new one goes to the end, one that is no longer used stays as a placeholder.
VERDICTS = [
    "dropped_other_source",
    "up_not_ip",
    "up_vlan",
    "up_not_udp",
    "up_not_ours",
    "up_fragment",
    "up_ip_options",
    "up_malformed",
    "up_no_entry",
    "up_entry_changing",
    "up_other_address",
    "up_other_source",
    "up_no_next_hop",
    "up_too_long",
    "up_doubled",
    "up_extension_header",
    "up_other_mac",
    "up_bad_checksum",
    "up_no_checksum",
    "up_no_headroom",
    "up_aggregated",
    "up_to_tc",
    "dropped_going_round",
    "dropped_no_memory",
    "dropped_not_sent",
    "up_other_interface",
    "dropped_learning",
    "dropped_known_source",
    "dropped_host_limit",
    "dropped_fragment",
    "dropped_rtcp_rate",
    "up_hidden",
]


def members(layout):
    return [(name, form, offset) for name, (form, offset) in layout.members.items()]


@pytest.mark.parametrize("name", MEMBERS)
def test_members(loaded, name):
    assert members(loaded.layouts[name].value) == MEMBERS[name]


@pytest.mark.parametrize("name", SIZES)
def test_keys(loaded, name):
    assert members(loaded.layouts[name].key) == KEYS.get(name, [("", "I", 0)])


def test_verdicts_keep_their_places(loaded):
    expected = [(name, "Q", 8 * place) for place, name in enumerate(VERDICTS)]
    assert members(loaded.layouts["verdicts"].value) == expected


def test_sizes(loaded):
    assert {name: (layout.key.size, layout.value.size) for name, layout in loaded.layouts.items()} == SIZES
    assert {name: layout.entries for name, layout in loaded.layouts.items()} == ENTRIES


@pytest.mark.parametrize("name", SIZES)
def test_no_hidden_padding(loaded, name):
    for layout in (loaded.layouts[name].key, loaded.layouts[name].value):
        end = 0
        for member in layout.members:
            assert layout.offset(member) == end
            end += layout.member_bytes(member)
        assert end == layout.size
