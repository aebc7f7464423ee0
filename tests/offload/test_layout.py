"""Packing by layouts, and the fingerprint of them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.offload.layout import NUMBER, BitRing, ByPort, Layout, MapLayout, fingerprint

NUMBER32 = Layout({NUMBER: ("I", 0)}, 4)
LINK_KEY = Layout({"ifindex": ("I", 0), "tags": ("8s", 4)}, 12)
ROW = Layout(
    {"is_open": ("B", 0), "sequence": ("I", 4), "port": ("H", 8), "host": ("16s", 12), "seen_ns": ("Q", 32)}, 40
)
MAPS = {"rows": MapLayout(NUMBER32, ROW, 100), "links": MapLayout(LINK_KEY, NUMBER32, 16)}
GEOMETRY = {"FIRST_PORT": "35000", "PORT_SPAN": "100"}


def test_pack_puts_members_in_their_places():
    packed = ROW.pack({"seen_ns": 1 << 40, "port": 0x0102, "is_open": 1})
    assert packed == b"\1" + bytes(7) + b"\2\1" + bytes(22) + (1 << 40).to_bytes(8, "little")
    assert LINK_KEY.pack({"tags": b"\x81\0\0\5", "ifindex": 7}) == b"\7\0\0\0\x81\0\0\5" + bytes(4)


def test_pack_number():
    assert NUMBER32.pack_number(0x01020304) == b"\4\3\2\1"


def test_pack_refuses_what_does_not_fit():
    with pytest.raises(KeyError):
        ROW.pack({"colour": 1})
    with pytest.raises(ValueError, match="tags has 8 bytes, not 12"):
        LINK_KEY.pack({"tags": bytes(12)})


@given(is_open=st.integers(0, 255), port=st.integers(0, 65535), host=st.binary(min_size=16, max_size=16))
def test_unpack_gives_back_what_was_packed(is_open, port, host):
    members = {"is_open": is_open, "sequence": 5, "port": port, "host": host, "seen_ns": 9}
    assert ROW.unpack(ROW.pack(members)) == members


def test_packer_keeps_gaps_and_starts_at_its_first_member():
    packer = ROW.packer("sequence", "host", "seen_ns")
    assert packer.size == ROW.size - ROW.offset("sequence")
    assert packer.pack(1, b"h", 2) == b"\1\0\0\0" + bytes(4) + b"h" + bytes(19) + b"\2" + bytes(7)


@given(numbers=st.sets(st.integers(1000, 1127)))
def test_ring_gives_back_what_was_packed(numbers):
    ring = BitRing(16)
    packed = ring.pack(numbers)
    assert (len(packed), ring.bits) == (16, 128)
    assert ring.unpack(packed, 1000, 1127) == numbers
    assert ring.unpack(packed, 1010, 1020) == {number for number in numbers if 1010 <= number <= 1020}


def test_ring_has_a_bit_for_each_number():
    ring = BitRing(2)
    assert (ring.pack([16, 25]), ring.empty) == (b"\1\2", b"\0\0")


def with_value(members, size=40):
    return {**MAPS, "rows": replace(MAPS["rows"], value=Layout(members, size))}


OTHERS = {
    "name of a map": {"ports": MAPS["rows"], "links": MAPS["links"]},
    "a map less": {"rows": MAPS["rows"]},
    "entries": {**MAPS, "rows": replace(MAPS["rows"], entries=101)},
    "name of a member": with_value({("open" if name == "is_open" else name): at for name, at in ROW.members.items()}),
    "offset of a member": with_value({**ROW.members, "port": ("H", 10)}),
    "size of a member": with_value({**ROW.members, "port": ("B", 8)}),
    "size of a value": with_value(ROW.members, 48),
    "a member less": with_value({name: at for name, at in ROW.members.items() if name != "seen_ns"}),
    "name in a key": {**MAPS, "links": replace(MAPS["links"], key=Layout({"index": ("I", 0), "tags": ("8s", 4)}, 12))},
    "offset in a key": {
        **MAPS,
        "links": replace(MAPS["links"], key=Layout({"tags": ("8s", 0), "ifindex": ("I", 8)}, 12)),
    },
    "size of a key": {**MAPS, "links": replace(MAPS["links"], key=Layout(LINK_KEY.members, 16))},
}


def test_fingerprint_is_equal_for_equal_maps_in_any_order():
    """Of maps, of members, and of what geometry says."""
    turned = {
        name: MapLayout(
            Layout(dict(reversed(one.key.members.items())), one.key.size),
            Layout(dict(reversed(one.value.members.items())), one.value.size),
            one.entries,
        )
        for name, one in reversed(MAPS.items())
    }
    assert fingerprint(turned, dict(reversed(GEOMETRY.items()))) == fingerprint(MAPS, GEOMETRY)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_fingerprint_changes_with_layouts(other):
    assert fingerprint(other, GEOMETRY) != fingerprint(MAPS, GEOMETRY)


@pytest.mark.parametrize("other", [{}, {**GEOMETRY, "FIRST_PORT": "35002"}, {**GEOMETRY, "LOCAL_SLOTS": "1"}], ids=repr)
def test_fingerprint_changes_with_geometry(other):
    assert fingerprint(MAPS, other) != fingerprint(MAPS, GEOMETRY)


@pytest.mark.parametrize(("key", "row"), [(35000, 0), (35099, 99), (1 << 16 | 35000, 100), (2 << 16 | 35001, 250)])
def test_rows_of_ports(key, row):
    assert ByPort(35000, 35099).row(key) == row


@pytest.mark.parametrize(("first", "last"), [(35000, 35009), (35001, 35010), (35000, 35004), (35000, 35000)])
def test_rows_of_rtp_ports_lie_together(first, last):
    """Every second port of a port space comes first; every port has a row of its own."""
    tables, ports = ByPort(first, last), range(first, last + 1)
    order = [*ports[::2], *ports[1::2]]
    assert [tables.row(slot << 16 | port) for slot in range(3) for port in order] == list(range(3 * len(ports)))
