"""BPF programs as the compiler makes them, before anything of them is in the kernel, and as bytes of a file.

Where an instruction names a map, it has the map's place in `maps`; `link` puts the descriptor of a map there.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rtpproxy.offload.layout import Layout, MapLayout
from rtpproxy.offload.syscall import Map

_INSTRUCTION = struct.Struct("<BBhi")
"""Operation, registers, offset, and a number (RFC 9669, section 3)."""
_LOAD_64 = 0x18
"""The operation that also names maps. It takes the space of two instructions (RFC 9669, section 5.4)."""
_MAP_BY_FD = 1
"""The source register of one that does."""

Stamp = tuple[str, int, int]
"""Path, size in bytes, and time of the last change in nanoseconds, of a file."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Programs and maps, for one kernel and one set of macros."""

    programs: dict[str, str]
    """Instructions by function, as hexadecimal digits."""
    maps: tuple[Map, ...]
    layouts: dict[str, MapLayout]
    """By name of the map."""
    licence: str
    why_untraced: str
    """Why the programs for tracepoints were not compiled; empty where they were."""
    compiler: tuple[Stamp, ...]
    """The files that the compiler consists of."""

    def code(self, function: str, map_fds: Sequence[int]) -> bytes:
        """The instructions of a program, linked to maps that are given in the order of `maps`."""
        return link(bytes.fromhex(self.programs[function]), map_fds)


def link(code: bytes, numbers: Sequence[int]) -> bytes:
    """Replace each place of a map by the number that `numbers` has there."""
    return _replace(code, dict(enumerate(numbers)))


def unlink(code: bytes, map_fds: Sequence[int]) -> bytes:
    """Replace each descriptor of a map by its place in `map_fds`. Raises KeyError for one that is not there."""
    return _replace(code, {fd: place for place, fd in enumerate(map_fds)})


def _replace(code: bytes, numbers: dict[int, int]) -> bytes:
    changed, at = bytearray(code), 0
    while at < len(code):
        operation, registers, offset, number = _INSTRUCTION.unpack_from(code, at)
        if operation == _LOAD_64 and registers >> 4 == _MAP_BY_FD:
            _INSTRUCTION.pack_into(changed, at, operation, registers, offset, numbers[number])
        at += 2 * _INSTRUCTION.size if operation == _LOAD_64 else _INSTRUCTION.size
    return bytes(changed)


def serialize(compiled: Compiled) -> bytes:
    """Write it down, after a hash by which damage is seen."""
    text = json.dumps(asdict(compiled)).encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def parse(data: bytes) -> Compiled:
    """Read what `serialize` wrote. Raises ValueError where it is damaged."""
    digest, _, text = data.partition(b"\n")
    if digest != hashlib.sha256(text).hexdigest().encode():
        raise ValueError("it is damaged")
    found = json.loads(text)
    return Compiled(
        programs=found["programs"],
        maps=tuple(Map(**described) for described in found["maps"]),
        layouts={
            name: MapLayout(_layout(described["key"]), _layout(described["value"]), described["entries"])
            for name, described in found["layouts"].items()
        },
        licence=found["licence"],
        why_untraced=found["why_untraced"],
        compiler=tuple((path, size, changed_ns) for path, size, changed_ns in found["compiler"]),
    )


def _layout(described: dict[str, dict[str, tuple[str, int]] | int]) -> Layout:
    members, size = described["members"], described["size"]
    assert isinstance(members, dict)
    assert isinstance(size, int)
    return Layout({name: (form, offset) for name, (form, offset) in members.items()}, size)
