"""The mapped arrays that the kernel programs read and count in; the only writer of rows.

The layouts come from the compiled C header by way of `loader`; nothing here repeats them. Ports and addresses are
host order in Python and become network order here. Nanoseconds become seconds here. Ports come as keys, which tell the
port space too (`session.local`); the arrays hold the media ports of every port space, and nothing else.

Rows are changed under the sequence number that `bpf/types.h` describes. The stores of one row reach another CPU in
order because x86-64 does not reorder stores.
"""

import mmap
import socket
import struct

import numpy as np
import numpy.typing as npt

from rtpproxy.addr import ipv4_number
from rtpproxy.offload.entry import ForwardingEntry, NextHop, PortCounters
from rtpproxy.offload.loader import Layout, Loaded
from rtpproxy.offload.syscall import map_read, possible_cpus

_NS = 1_000_000_000
_IPV4_VERSION_IHL = 0x45
_DONT_FRAGMENT = 0x4000
_UDP = 17


class _Mapping:
    """An array map as memory."""

    def __init__(self, map_fd: int, layout: Layout) -> None:
        self.memory = mmap.mmap(map_fd, layout.size * layout.entries, mmap.MAP_SHARED)
        self.layout = layout

    def offset(self, index: int, member: str = "") -> int:
        """Byte position of an element, or of one member of it."""
        return index * self.layout.size + (self.layout.members[member][1] if member else 0)

    def packer(self, *members: str) -> struct.Struct:
        """A struct of neighbouring members, given in order; gaps between them are kept."""
        form, position = "=", self.layout.members[members[0]][1]
        for name in members:
            kind, offset = self.layout.members[name]
            form += f"{offset - position}x{kind}"
            position = offset + struct.calcsize("=" + kind)
        return struct.Struct(form)

    def column(self, member: str) -> npt.NDArray[np.uint64]:
        """One 64-bit member of all elements, live."""
        words = np.frombuffer(self.memory, dtype=np.uint64)
        first = self.layout.members[member][1] // 8
        return words[first :: self.layout.size // 8]


class _Sequenced:
    """Changes to elements that carry a sequence number: odd while an element is being written."""

    def __init__(self, mapping: _Mapping, *members: str) -> None:
        self._mapping = mapping
        self._memory = mapping.memory
        self._struct = mapping.packer(*members)
        self._body = mapping.layout.members[members[0]][1]
        self._sequence = mapping.layout.members["sequence"][1]
        self._words = memoryview(mapping.memory).cast("I")

    def write(self, index: int, *values: int | bytes) -> None:
        """Change the members of one element as a whole."""
        start = self._mapping.offset(index)
        word = (start + self._sequence) // 4
        odd = self._words[word] | 1
        self._words[word] = odd
        self._struct.pack_into(self._memory, start + self._body, *values)
        self._words[word] = (odd + 1) & 0xFFFFFFFF

    def release(self) -> None:
        self._words.release()


class Tables:
    """The port table, its counters and the next hops of one running relay."""

    def __init__(self, loaded: Loaded, first_port: int, last_port: int, ttl: int) -> None:
        """Map everything. The programs were loaded for the media ports from `first_port` to `last_port`.

        `ttl` is that of packets that leave.
        """
        fds, layouts = loaded.map_fds, loaded.layouts
        self._ttl = ttl
        self._first, self._span = first_port, last_port + 1 - first_port
        self._rows, self._counters, self._hops = (
            _Mapping(fds[name], layouts[name]) for name in ("port_rows", "port_counters", "next_hops")
        )
        self._row_writer = _Sequenced(
            self._rows,
            *("is_forwarding", "is_any_source_port", "is_rtp", "tos", "remote_host", "local_host", "remote_port"),
            *("from_port", "from_host", "to_host", "to_port", "udp_delta", "ip_sum", "ttl", "next_hop"),
        )
        self._hop_writer = _Sequenced(self._hops, "ifindex", "mtu", "to_mac", "from_mac")
        self._counter_struct = self._counters.packer(
            *("packets", "bytes", "last_seen_ns", "ssrc_changed_ns", "sequence_set_ns", "ssrc", "sequence"),
            *("others_passed", "others_since_ns", "others_dropped"),
        )
        self._verdicts_fd, self._verdicts = fds["verdicts"], layouts["verdicts"]
        self._cpus = possible_cpus()
        self._words = memoryview(self._counters.memory).cast("Q")
        self._last_seen_ns = self._counters.column("last_seen_ns")
        self._packets = self._counters.column("packets")
        self._dropped = self._counters.column("others_dropped")

    @property
    def max_next_hops(self) -> int:
        """How many next hops the kernel's table holds."""
        return self._hops.layout.entries

    def close(self) -> None:
        """Unmap everything. No method may be called afterwards."""
        del self._last_seen_ns, self._packets, self._dropped
        self._words.release()
        for writer in (self._row_writer, self._hop_writer):
            writer.release()
        for mapping in (self._rows, self._counters, self._hops):
            mapping.memory.close()

    def open_port(self, key: int) -> None:
        """Steer packets for this port to the relay's socket from now on."""
        self._rows.memory[self._rows.offset(self.row(key), "is_open")] = 1

    def close_port(self, key: int) -> None:
        """Leave packets for this port to whoever owns it. Its entry must have been withdrawn."""
        self._rows.memory[self._rows.offset(self.row(key), "is_open")] = 0

    def install(self, entry: ForwardingEntry, from_host: str, next_hop: int) -> None:
        """Put an entry into the row of its port, or change it as a whole; packets then leave from `from_host`."""
        old = [*_words(ipv4_number(entry.source.host)), *_words(ipv4_number(entry.local_host)), entry.port]
        from_number, to_number = ipv4_number(from_host), ipv4_number(entry.to.host)
        hosts = [*_words(from_number), *_words(to_number)]
        udp_delta = _ones_sum([*hosts, entry.from_port, entry.to.port, *(~word & 0xFFFF for word in old)])
        fixed = [_IPV4_VERSION_IHL << 8 | entry.tos, _DONT_FRAGMENT, self._ttl << 8 | _UDP]
        self._row_writer.write(
            self.row(entry.key),
            1,
            int(entry.is_any_source_port),
            int(entry.is_rtp),
            entry.tos,
            socket.htonl(ipv4_number(entry.source.host)),
            socket.htonl(ipv4_number(entry.local_host)),
            socket.htons(entry.source.port),
            socket.htons(entry.from_port),
            socket.htonl(from_number),
            socket.htonl(to_number),
            socket.htons(entry.to.port),
            socket.htons(udp_delta),
            socket.htons(_ones_sum([*fixed, *hosts])),
            self._ttl,
            next_hop,
        )

    def withdraw(self, key: int) -> None:
        """Take the entry out of the row; its packets go to userspace from now on."""
        self._row_writer.write(self.row(key), *([0] * 15))

    def write_next_hop(self, number: int, hop: NextHop | None) -> None:
        """Change a next hop as a whole; None makes its packets go up."""
        if hop is None:
            self._hop_writer.write(number, 0, 0, bytes(6), bytes(6))
            return
        self._hop_writer.write(number, hop.ifindex, hop.mtu, _mac(hop.to_mac), _mac(hop.from_mac))

    def counters(self, key: int) -> PortCounters:
        """What the kernel counted at this port up to now."""
        packets, payload, seen, changed, refreshed, ssrc, sequence, _, _, dropped = self._counter_struct.unpack_from(
            self._counters.memory, self._counters.offset(self.row(key))
        )
        return PortCounters(packets, payload, seen / _NS, dropped, ssrc, sequence, changed / _NS, refreshed / _NS)

    def forwarded(self, key: int) -> int:
        """Packets that the kernel forwarded from this port up to now."""
        return self._words[self._counters.offset(self.row(key), "packets") // 8]

    def total_forwarded(self) -> int:
        """Packets forwarded from all ports since the programs were loaded."""
        return int(self._packets.sum())

    def total_dropped(self) -> int:
        """Packets from other sources dropped at all ports since the programs were loaded."""
        return int(self._dropped.sum())

    def last_seen(self) -> npt.NDArray[np.float64]:
        """When each port last had a packet forwarded: seconds, 0.0 for never; index is `row(key)`."""
        return self._last_seen_ns / _NS

    def row(self, key: int) -> int:
        """Where the arrays, and `last_seen`, hold this port."""
        return (key >> 16) * self._span + (key & 0xFFFF) - self._first

    def verdicts(self) -> dict[str, int]:
        """Packets by verdict: `forwarded`, and the reasons that `bpf/types.h` names, over all CPUs."""
        size = self._verdicts.size
        data = map_read(self._verdicts_fd, 0, size * self._cpus)
        totals = np.frombuffer(data, dtype=np.uint64).reshape(self._cpus, size // 8).sum(axis=0)
        reasons = {name: int(totals[offset // 8]) for name, (_, offset) in self._verdicts.members.items()}
        return {"forwarded": self.total_forwarded(), **reasons}


def _words(number: int) -> tuple[int, int]:
    return number >> 16, number & 0xFFFF


def _ones_sum(words: list[int]) -> int:
    """One's complement sum of 16-bit words (RFC 1071), not inverted."""
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
