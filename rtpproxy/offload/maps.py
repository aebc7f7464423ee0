"""Access to maps, by the layouts that the loader hands over: mapped arrays, and maps where each access is a call.

Elements of an array that carry a sequence number change as a whole: see `bpf/types.h`. The stores of one element reach
another CPU in order because x86-64 does not reorder stores.
"""

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rtpproxy.offload.layout import Layout, MapLayout
from rtpproxy.offload.syscall import map_delete, map_read, map_write

_WORD = (1 << 32) - 1

Members = int | bytes | Mapping[str, int | bytes]
"""A key or a value: members by name, where those left out are 0; its number, if it is one; or packed by its layout."""


class MappedArray:
    """An array map as memory of this process."""

    def __init__(self, map_fd: int, layout: MapLayout) -> None:
        """Map it. Raises OSError."""
        self.layout = layout.value
        self.entries = layout.entries
        self.memory = mmap.mmap(map_fd, layout.value.size * layout.entries, mmap.MAP_SHARED)

    def offset(self, index: int, member: str = "") -> int:
        """Byte position of an element, or of one member of it."""
        return index * self.layout.size + (self.layout.offset(member) if member else 0)

    def column(self, member: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """A live view of one numeric member of all elements."""
        kind, offset = self.layout.members[member]
        words = np.frombuffer(self.memory, dtype=np.dtype(kind))
        return words[offset // words.itemsize :: self.layout.size // words.itemsize]

    def numbers(self, member: str) -> memoryview:
        """One number of all elements, live. Reads single ones five times faster than `column`. To be released."""
        kind, offset = self.layout.members[member]
        words: memoryview = memoryview(self.memory).cast(kind)  # type: ignore[call-overload]
        return words[offset // words.itemsize :: self.layout.size // words.itemsize]

    def close(self) -> None:
        """Unmap it. No column may be held any more."""
        self.memory.close()


class SequencedArray:
    """Changes elements that carry a sequence number, which is odd while an element is being written."""

    def __init__(self, array: MappedArray, *members: str) -> None:
        """`members` are those that `write` takes, in the order of their offsets."""
        self._array = array
        self._memory = array.memory
        self._struct = array.layout.packer(*members)
        self._body = array.layout.offset(members[0])
        self._sequence = array.layout.offset("sequence")
        self._words = memoryview(array.memory).cast("I")

    def write(self, index: int, *values: int | bytes) -> None:
        """Change the members of one element as a whole."""
        self.begin(index)
        self._struct.pack_into(self._memory, self._array.offset(index) + self._body, *values)
        self.end(index)

    def begin(self, index: int) -> None:
        """Keep readers away from an element until `end`."""
        self._words[(self._array.offset(index) + self._sequence) // 4] |= 1

    def end(self, index: int) -> None:
        """Let readers take an element as it is now."""
        word = (self._array.offset(index) + self._sequence) // 4
        self._words[word] = ((self._words[word] | 1) + 1) & _WORD

    def release(self) -> None:
        """Let go of the memory, so that it can be unmapped."""
        self._words.release()


class CalledMap:
    """A map that is read and changed by bpf(2), one element at a time. Methods raise OSError."""

    def __init__(self, map_fd: int, layout: MapLayout) -> None:
        self._fd = map_fd
        self.layout = layout

    def write(self, key: Members, value: Members) -> None:
        """Put a value under a key."""
        map_write(self._fd, _pack(self.layout.key, key), _pack(self.layout.value, value))

    def delete(self, key: Members) -> None:
        """Take a key out. Raises FileNotFoundError when it is not there."""
        map_delete(self._fd, _pack(self.layout.key, key))

    def read(self, key: Members, copies: int = 1) -> bytes:
        """The bytes of the value under a key; of a per-CPU map, `copies` of them. Raises FileNotFoundError."""
        return map_read(self._fd, _pack(self.layout.key, key), copies * self.layout.value.size)

    def read_sums(self, key: Members, copies: int) -> dict[str, int]:
        """Sums over `copies` values of a per-CPU map whose members are numbers without gaps, by member."""
        members = self.layout.value.members
        values = self.layout.value.packer(*members).iter_unpack(self.read(key, copies))
        return dict(zip(members, map(sum, zip(*values, strict=True)), strict=True))


def _pack(layout: Layout, members: Members) -> bytes:
    if isinstance(members, bytes):
        # bpf(2) is given no length, and would read on behind a shorter buffer.
        if len(members) != layout.size:
            raise ValueError(f"the layout has {layout.size} bytes, not {len(members)}")
        return members
    return layout.pack_number(members) if isinstance(members, int) else layout.pack(members)
