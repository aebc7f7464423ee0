"""Finds where the running kernel keeps members of its structs, from its own description of its types.

BPF Type Format: Documentation/bpf/btf.rst of Linux. Only what is needed to look up a member of a named struct is read.
"""

import struct
from collections.abc import Mapping

from rtpproxy.errors import OffloadError

Member = tuple[str, str]
"""The name of a struct, and that of a member of it."""

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
"""Magic, version, flags, length of the header, then offset and length of types and of names."""
_TYPE = struct.Struct("=III")
"""Name, kind with number of members, size."""
_MEMBER = struct.Struct("=III")
"""Name, type, offset in bits."""
_STRUCT = 4
_WORD_BYTES = 4


def member_offsets(btf: bytes, wanted: Mapping[str, Member]) -> dict[str, int]:
    """Find the byte offsets of members, under the same keys. Raises OffloadError when one is not there."""
    if len(btf) < _HEADER.size or _HEADER.unpack_from(btf)[0] != _MAGIC:
        raise OffloadError("the kernel's description of its types is not understood")
    _, _, _, header_bytes, types_at, types_bytes, names_at, names_bytes = _HEADER.unpack_from(btf)
    types = btf[header_bytes + types_at :][:types_bytes]
    names = btf[header_bytes + names_at :][:names_bytes]
    return {key: _offset(types, names, *member) for key, member in wanted.items()}


def _offset(types: bytes, names: bytes, struct_name: str, member_name: str) -> int:
    struct_number, member_number = _number(names, struct_name), _number(names, member_name)
    position = -1
    while (position := types.find(struct.pack("=I", struct_number), position + 1)) >= 0:
        if position % _WORD_BYTES or position + _TYPE.size > len(types):
            continue
        _, info, _ = _TYPE.unpack_from(types, position)
        if info >> 24 & 0x1F != _STRUCT:
            continue
        has_bit_fields, members = info >> 31, info & 0xFFFF
        for number, _, bits in _MEMBER.iter_unpack(types[position + _TYPE.size :][: members * _MEMBER.size]):
            if number == member_number:
                return int(bits & 0xFFFFFF if has_bit_fields else bits) // 8
    raise OffloadError(f"the kernel's struct {struct_name} has no member {member_name}")


def _number(names: bytes, name: str) -> int:
    """Find a name in the list of names, by its position there."""
    position = names.find(b"\0" + name.encode() + b"\0")
    if position < 0:
        raise OffloadError(f"the kernel knows nothing named {name}")
    return position + 1
