"""Empties the ring that the kernel writes packets of teed streams into (`bpf/tee.h`), by reading its memory.

The ring is the kernel's BPF_MAP_TYPE_RINGBUF (Documentation/bpf/ringbuf.rst): a page with the position up to where it
was read, which we write; a page with the position up to where it was written; then the data, mapped twice in a row, so
that no record is torn at the end. Each record has a header of eight bytes: its length with two flags, and a number that
is the kernel's own. The programs wake nobody up: a reader looks again after a while.
"""

import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache

from rtpproxy.recording.packet import Packet, Place

_HEADER = "I4x"
"""Length and flags; then a number that is the kernel's own."""
_HEADER_BYTES = struct.calcsize("=" + _HEADER)
_BUSY, _DISCARD = 1 << 31, 1 << 30
_LENGTH = _DISCARD - 1
_PORTS = struct.Struct("!HH")
_IPV4_PLACES, _IPV6_PLACES = slice(12, 24), slice(8, 44)
"""Where a packet has its two addresses, at the end of the IP header, and its two ports, right behind them."""
_IPV4_PAYLOAD, _IPV6_PAYLOAD = slice(28, None), slice(48, None)
_MAX_REMEMBERED = 1 << 15
_LEAD = {0: 20 + 8, 1: 40 + 8}
"""Bytes of the IP and the UDP header, by whether it is IPv6."""

Record = tuple[int, int, memoryview]
"""Time of arrival (CLOCK_MONOTONIC, ns), number of the tee, and the IP packet as it was received."""


class Ring:
    """The reader's side of the ring. Only one process may read at a time; the next goes on where it stopped."""

    def __init__(self, fd: int, size_bytes: int, numbers: str, record_bytes: int) -> None:
        """Map the ring. The arguments are those of `offload.tee.OpenRing`; the descriptor may be closed afterwards.

        Raises OSError.
        """
        self._mask = size_bytes - 1
        self._unpack = struct.Struct("=" + _HEADER + numbers.removeprefix("=")).unpack_from
        self._payload_at = _HEADER_BYTES + record_bytes
        page = mmap.PAGESIZE
        self._ours = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        try:
            self._kernels = mmap.mmap(fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError:
            self._ours.close()
            raise
        # Stores and loads of eight aligned bytes, each of which is whole, and in order on x86-64.
        self._consumed = memoryview(self._ours).cast("Q")
        self._produced = memoryview(self._kernels)[:8].cast("Q")
        self._data = memoryview(self._kernels)[page:]

    def close(self) -> None:
        """Unmap the ring. No packet may be held any more."""
        for view in (self._consumed, self._produced, self._data):
            view.release()
        self._kernels.close()
        self._ours.close()

    @property
    def produced(self) -> int:
        """Bytes written since the ring was made. What arrived by now is before that place."""
        return self._produced[0]

    @property
    def consumed(self) -> int:
        """Bytes read since the ring was made."""
        return self._consumed[0]

    def records(self, most: int) -> Iterator[Record]:
        """Yield up to `most` records, or those that are there; the kernel may write over them once this has ended.

        So a packet must not be used later. A record that another processor is just writing ends it, too.
        """
        data, unpack, mask, payload_at = self._data, self._unpack, self._mask, self._payload_at
        position, produced = self._consumed[0], self._produced[0]
        try:
            while position < produced and most > 0:
                at = position & mask
                length, arrived_ns, tee, payload_bytes, is_ipv6 = unpack(data, at)
                if length & _BUSY:
                    break
                position += (length & _LENGTH) + _HEADER_BYTES + 7 & -8
                if length & _DISCARD:
                    continue
                most -= 1
                end = at + payload_at
                yield arrived_ns, tee, data[end - _LEAD[is_ipv6] : end + payload_bytes]
        finally:
            self._consumed[0] = position


def read_ip(arrived_ns: int, data: memoryview) -> Packet:
    """Read a UDP packet, from its IP header on, which has no options and no extensions: such a one is not forwarded."""
    places, payload = (_IPV6_PLACES, _IPV6_PAYLOAD) if data[0] >> 4 == 6 else (_IPV4_PLACES, _IPV4_PAYLOAD)
    return Packet(arrived_ns, *_read_places(bytes(data[places])), bytes(data[payload]))


@lru_cache(maxsize=_MAX_REMEMBERED)
def _read_places(data: bytes) -> tuple[Place, Place]:
    """Read source and destination, two addresses and two ports. They are the same for all packets of a stream."""
    hosts, ports = data[: -_PORTS.size], data[-_PORTS.size :]
    from_port, to_port = _PORTS.unpack(ports)
    middle = len(hosts) // 2
    return Place(hosts[:middle], from_port), Place(hosts[middle:], to_port)
