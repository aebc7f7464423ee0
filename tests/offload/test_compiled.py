"""Compiled programs come back from their bytes as they were; instructions name maps by place, then by descriptor."""

import struct

import pytest

from rtpproxy.offload.compiled import Compiled, link, parse, serialize, unlink
from rtpproxy.offload.layout import NUMBER, Layout, MapLayout
from rtpproxy.offload.syscall import Map

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
ROW = Layout({"address": ("4s", 0), "count": ("Q", 8)}, 16)
COMPILED = Compiled(
    programs={"on_xdp": EXIT.hex(), "on_tc": ""},
    maps=(Map("rows", 2, 4, 16, 300, 1024), Map("links", 1, 8, 4, 7, 0)),
    layouts={"rows": MapLayout(Layout({NUMBER: ("I", 0)}, 4), ROW, 300)},
    licence="GPL",
    why_untraced="no types",
    compiler=(("/usr/lib/libbcc.so.0", 12345, 1_700_000_000_123_456_789),),
)


def load_64(number, source):
    """Put a number, or the map that it names, into register 1."""
    return struct.pack("<BBhiBBhi", 0x18, source << 4 | 1, 0, number, 0, 0, 0, 0)


def test_bytes_and_back():
    assert parse(serialize(COMPILED)) == COMPILED


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:300] + b"#" + data[301:], lambda _: b""])
def test_damage_is_seen(damage):
    with pytest.raises(ValueError, match=r"^it is damaged$"):
        parse(damage(serialize(COMPILED)))


def test_maps_are_linked_and_nothing_else():
    """Not numbers of 64 bits, nor the second halves of such numbers that look like instructions that name a map."""
    looks_like_one = struct.pack("<BBhiBBhi", 0x18, 1, 0, 9, 0x18, 1 << 4 | 1, 0, 9)
    code = load_64(9, 1) + load_64(9, 0) + looks_like_one + load_64(4, 1) + EXIT
    places = unlink(code, (4, 9))
    assert places == load_64(1, 1) + load_64(9, 0) + looks_like_one + load_64(0, 1) + EXIT
    assert link(places, (30, 31)) == load_64(31, 1) + load_64(9, 0) + looks_like_one + load_64(30, 1) + EXIT


def test_map_that_is_not_known():
    with pytest.raises(KeyError):
        unlink(load_64(5, 1), (4, 9))
