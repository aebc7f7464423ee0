"""Holds the layout of each map's keys and values, as the compiled C header has it, and one fingerprint of them all.

The only place that turns members into bytes of a map. An array is given as its bytes in memory; where its elements are
in network order, these are the bytes that an address or a tag has on the wire (`network_order`).
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass

NUMBER = ""
"""Name of the member of a key or a value that is one number, not a struct."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a struct, or of one number."""

    members: dict[str, tuple[str, int]]
    """Member to its form (a format character of `struct`, or `Ns` for an array of N bytes) and its offset in bytes."""
    size: int
    """Bytes."""

    def offset(self, member: str) -> int:
        """Offset of a member, in bytes."""
        return self.members[member][1]

    def member_bytes(self, member: str) -> int:
        """The size of a member."""
        return struct.calcsize("=" + self.members[member][0])

    def packer(self, *members: str) -> struct.Struct:
        """Make a struct of members, given in the order of their offsets; gaps are padding. It starts at the first."""
        form, position = "=", self.offset(members[0])
        for name in members:
            kind, offset = self.members[name]
            form += f"{offset - position}x{kind}"
            position = offset + self.member_bytes(name)
        return struct.Struct(form)

    def pack(self, members: Mapping[str, int | bytes]) -> bytes:
        """Pack members; those that are not given become 0. Raises KeyError for one that does not exist."""
        packed = bytearray(self.size)
        for name, value in members.items():
            form, offset = self.members[name]
            if isinstance(value, bytes) and len(value) > self.member_bytes(name):
                raise ValueError(f"{name} has {self.member_bytes(name)} bytes, not {len(value)}")
            struct.pack_into("=" + form, packed, offset, value)
        return bytes(packed)

    def pack_number(self, value: int) -> bytes:
        """The bytes of a key or a value that is one number."""
        return self.pack({NUMBER: value})

    def unpack(self, data: bytes) -> dict[str, int | bytes]:
        """All members."""
        return {name: struct.unpack_from("=" + form, data, offset)[0] for name, (form, offset) in self.members.items()}


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Layout of a map. Of a per-CPU map, `value` is that of one CPU."""

    key: Layout
    value: Layout
    entries: int
    """Number of elements that it has room for."""


def fingerprint(layouts: Mapping[str, MapLayout], geometry: Mapping[str, str]) -> str:
    """Sixteen characters that are equal for maps whose contents mean the same.

    They cover name, offset and size of every member of every key and value, the entries of every map, and `geometry`:
    the macros that tell which row belongs to which port.
    """
    told = {"maps": {name: asdict(layout) for name, layout in layouts.items()}, "geometry": dict(geometry)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class ByPort:
    """Tables with a row for each media port of every port space."""

    def __init__(self, first_port: int, last_port: int) -> None:
        self._first, self._span = first_port, last_port + 1 - first_port

    def row(self, key: int) -> int:
        """The row of a port, given as a key that also tells its port space (`session.local`)."""
        return (key >> 16) * self._span + (key & 0xFFFF) - self._first
