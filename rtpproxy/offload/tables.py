"""The arrays that the kernel programs read and count in, mapped but for one; the only writer of rows.

The layouts come from the compiled C header by way of `loader`; nothing here repeats them. Ports and addresses are
host order in Python and become network order here. Nanoseconds become seconds here. Ports come as keys, which tell the
port space too (`session.local`); the arrays hold the media ports of every port space, and nothing else.

Rows are changed under the sequence number that `bpf/types.h` describes. The stores of one row reach another CPU in
order because x86-64 does not reorder stores.
"""

import mmap
import socket
import struct
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rtpproxy.addr import packed_words
from rtpproxy.network.vlan import TAG_BYTES, VlanTag
from rtpproxy.offload.entry import ForwardingEntry, NextHop, PortCounters
from rtpproxy.offload.loader import Layout, Loaded
from rtpproxy.offload.syscall import map_read, map_write, possible_cpus
from rtpproxy.rtp.statistics import MAX_JUMP, RtpState, RtpTotals

_NS = 1_000_000_000
_IPV4_VERSION_IHL = 0x45
_DONT_FRAGMENT = 0x4000
_UDP = 17
_GAP_NS = 1024
_JITTER_UNITS = 256
_FIRST_NUMBER = 1 << 16
"""What the kernel adds to the sequence number that a run starts with."""
_WORD = (1 << 32) - 1
_NO_ADDRESS = bytes(16)


class _Mapping:
    """An array map as memory."""

    def __init__(self, map_fd: int, layout: Layout) -> None:
        self.memory = mmap.mmap(map_fd, layout.size * layout.entries, mmap.MAP_SHARED)
        self.layout = layout

    def offset(self, index: int, member: str = "") -> int:
        """Byte position of an element, or of one member of it."""
        return index * self.layout.size + (self.layout.members[member][1] if member else 0)

    def column(self, member: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """One number of all elements, live."""
        kind, offset = self.layout.members[member]
        words = np.frombuffer(self.memory, dtype=np.dtype(kind))
        return words[offset // words.itemsize :: self.layout.size // words.itemsize]


def _packer(layout: Layout, *members: str) -> struct.Struct:
    """A struct of neighbouring members, given in order; gaps between them are kept."""
    form, position = "=", layout.members[members[0]][1]
    for name in members:
        kind, offset = layout.members[name]
        form += f"{offset - position}x{kind}"
        position = offset + struct.calcsize("=" + kind)
    return struct.Struct(form)


class _Sequenced:
    """Changes to elements that carry a sequence number: odd while an element is being written."""

    def __init__(self, mapping: _Mapping, *members: str) -> None:
        self._mapping = mapping
        self._memory = mapping.memory
        self._struct = _packer(mapping.layout, *members)
        self._body = mapping.layout.members[members[0]][1]
        self._sequence = mapping.layout.members["sequence"][1]
        self._words = memoryview(mapping.memory).cast("I")

    def write(self, index: int, *values: int | bytes) -> None:
        """Change the members of one element as a whole."""
        self.begin(index)
        self._struct.pack_into(self._memory, self._mapping.offset(index) + self._body, *values)
        self.end(index)

    def begin(self, index: int) -> None:
        """Let readers stay away from an element until `end`."""
        self._words[(self._mapping.offset(index) + self._sequence) // 4] |= 1

    def end(self, index: int) -> None:
        """Let readers take an element as it is now."""
        word = (self._mapping.offset(index) + self._sequence) // 4
        self._words[word] = ((self._words[word] | 1) + 1) & _WORD

    def release(self) -> None:
        self._words.release()


class _Ring:
    """Sets of sequence numbers as the kernel keeps them: bit n % size for number n."""

    def __init__(self, size_bytes: int) -> None:
        self._bytes = size_bytes
        self.bits = 8 * size_bytes
        self.empty = bytes(size_bytes)

    def pack(self, numbers: Collection[int]) -> bytes:
        word = 0
        for number in numbers:
            word |= 1 << number % self.bits
        return word.to_bytes(self._bytes, "little")

    def unpack(self, data: bytes, first: int, last: int) -> frozenset[int]:
        """Those of the numbers from `first` to `last` whose bits are set."""
        word = int.from_bytes(data, "little")
        if not word:
            return frozenset()
        return frozenset(number for number in range(first, last + 1) if word >> number % self.bits & 1)


class Tables:
    """The port table, its counters and the next hops of one running relay."""

    def __init__(self, loaded: Loaded, first_port: int, last_port: int) -> None:
        """Map everything. The programs were loaded for the media ports from `first_port` to `last_port`."""
        fds, layouts = loaded.map_fds, loaded.layouts
        self._first, self._span = first_port, last_port + 1 - first_port
        self._rows, self._counters, self._events, self._hops = (
            _Mapping(fds[name], layouts[name]) for name in ("port_rows", "port_counters", "port_events", "next_hops")
        )
        # Not mapped: a mapping counts as memory of the process, all of it, and many relays never see an IPv6 packet.
        self._hosts6_fd = fds["port_hosts6"]
        self._hosts6_struct = _packer(layouts["port_hosts6"], "remote_host", "local_host", "from_host", "to_host")
        self._row_writer = _Sequenced(
            self._rows,
            *("is_forwarding", "is_any_source_port", "is_rtp", "tos", "remote_host", "local_host", "remote_port"),
            *("from_port", "from_host", "to_host", "to_port", "udp_delta", "ip_sum", "ttl", "is_ipv6", "next_hop"),
            *("pseudo_sum", "is_to_ipv6"),
        )
        self._hop_writer = _Sequenced(
            self._hops, "ifindex", "xdp_ifindex", "mtu", "to_mac", "from_mac", "tags", "tag_bytes"
        )
        state = (
            *("ssrc", "last_seen_ns", "arrived_ns", "highest", "timestamp", "jitter", "jitter_max", "longest_gap"),
            *("is_running", "is_jitter_new"),
        )
        self._counter_struct = _packer(self._counters.layout, "packets", "jitter_sum", "jitter_count", *state)
        self._state_struct = _packer(self._counters.layout, *state)
        self._state_at = self._counters.layout.members["ssrc"][1]
        run = "lowest", "settled", "missing"
        self._event_struct = _packer(
            self._events.layout,
            *("others_dropped", "ssrc_changed_ns", "sequence_set_ns", "sequence", "lost", "duplicates", "parse_errors"),
            *run,
        )
        self._event_at = self._events.layout.members["others_dropped"][1]
        self._run_struct, self._run_at = _packer(self._events.layout, *run), self._events.layout.members["lowest"][1]
        self._ring = _Ring(struct.calcsize("=" + self._events.layout.members["missing"][0]))
        self._verdicts_fd, self._verdicts = fds["verdicts"], layouts["verdicts"]
        self._cpus = possible_cpus()
        self._words = memoryview(self._counters.memory).cast("Q")
        self._packets_at = self._counters.offset(0, "packets") // 8
        self._seen_at = self._counters.offset(0, "last_seen_ns") // 8
        self._words_per_row = self._counters.layout.size // 8
        self._is_open_at = self._rows.offset(0, "is_open")
        self._last_seen_ns = self._counters.column("last_seen_ns")
        self._packets = self._counters.column("packets")
        self._parse_errors = self._events.column("parse_errors")

    @property
    def max_next_hops(self) -> int:
        """How many next hops the kernel's table holds."""
        return self._hops.layout.entries

    def close(self) -> None:
        """Unmap everything. No method may be called afterwards."""
        del self._last_seen_ns, self._packets, self._parse_errors
        self._words.release()
        for writer in (self._row_writer, self._hop_writer):
            writer.release()
        for mapping in (self._rows, self._counters, self._events, self._hops):
            mapping.memory.close()

    def open_port(self, key: int) -> None:
        """Steer packets for this port to the relay's socket from now on."""
        self._rows.memory[self.row(key) * self._rows.layout.size + self._is_open_at] = 1

    def close_port(self, key: int) -> None:
        """Leave packets for this port to whoever owns it. Its entry must have been withdrawn."""
        self._rows.memory[self.row(key) * self._rows.layout.size + self._is_open_at] = 0

    def install(self, entry: ForwardingEntry, from_host: str, next_hop: int, ttl: int) -> None:
        """Put an entry into the row of its port, or change it as a whole.

        Packets then leave from `from_host` with that TTL or hop limit.
        """
        remote, local, start, to = map(packed_words, (entry.source.host, entry.local_host, from_host, entry.to.host))
        is_ipv6, is_to_ipv6 = len(remote) > 2, len(to) > 2
        old = [*remote, *local, entry.port]
        udp_delta = ones_sum([*start, *to, entry.from_port, entry.to.port, *(~word & 0xFFFF for word in old)])
        fixed = [_IPV4_VERSION_IHL << 8 | entry.tos, _DONT_FRAGMENT, ttl << 8 | _UDP]
        row = self.row(entry.key)
        if is_ipv6 or is_to_ipv6:
            self._row_writer.begin(row)
            hosts6 = self._hosts6_struct.pack(*map(_address6, (remote, local, start, to)))
            map_write(self._hosts6_fd, row, hosts6)
        self._row_writer.write(
            row,
            1,
            int(entry.is_any_source_port),
            int(entry.is_rtp),
            entry.tos,
            _address4(remote),
            _address4(local),
            socket.htons(entry.source.port),
            socket.htons(entry.from_port),
            _address4(start),
            _address4(to),
            socket.htons(entry.to.port),
            socket.htons(udp_delta),
            0 if is_to_ipv6 else socket.htons(ones_sum([*fixed, *start, *to])),
            ttl,
            int(is_ipv6),
            next_hop,
            socket.htons(ones_sum([*remote, *local, _UDP])),
            int(is_to_ipv6),
        )

    def withdraw(self, key: int) -> None:
        """Take the entry out of the row; its packets go to userspace from now on."""
        self._row_writer.write(self.row(key), *([0] * 18))

    def write_next_hop(self, number: int, hop: NextHop | None) -> None:
        """Change a next hop as a whole; None makes its packets go up."""
        if hop is None:
            self._hop_writer.write(number, 0, 0, 0, bytes(6), bytes(6), bytes(8), 0)
            return
        xdp_ifindex, tags = (hop.xdp_way.ifindex, hop.xdp_way.tags) if hop.xdp_way else (0, ())
        macs = mac_bytes(hop.to_mac), mac_bytes(hop.from_mac)
        self._hop_writer.write(number, hop.ifindex, xdp_ifindex, hop.mtu, *macs, tag_bytes(tags), TAG_BYTES * len(tags))

    def counters(self, key: int) -> PortCounters:
        """What the kernel counted at this port up to now.

        `packets` is read first, and written last by the kernel, so that the rest is of these packets or newer.
        """
        row = self.row(key)
        packets, jitter_sum, jitter_count, ssrc, seen, arrived, highest, timestamp, jitter, jitter_max, gap, *flags = (
            self._counter_struct.unpack_from(self._counters.memory, self._counters.offset(row))
        )
        dropped, changed, refreshed, sequence, lost, duplicates, parse_errors, lowest, settled, missing = (
            self._event_struct.unpack_from(self._events.memory, self._events.offset(row) + self._event_at)
        )
        is_running, is_jitter_new = flags
        state = RtpState(
            ssrc if is_running else None,
            highest,
            lowest,
            self._ring.unpack(missing, max(lowest, highest - MAX_JUMP), min(settled, highest)),
            seen / _NS,
            gap * _GAP_NS / _NS,
            timestamp,
            arrived / _NS,
            jitter / _JITTER_UNITS,
            jitter_max / _JITTER_UNITS,
            bool(is_jitter_new),
        )
        return PortCounters(
            packets=packets,
            others_dropped=dropped,
            ssrc=ssrc,
            sequence=sequence,
            ssrc_changed_at=changed / _NS,
            sequence_set_at=refreshed / _NS,
            state=state,
            totals=RtpTotals(lost, duplicates, parse_errors, jitter_sum / _JITTER_UNITS, jitter_count),
        )

    def hold(self, key: int) -> None:
        """Forward nothing from this port until `seed`; its packets go to userspace meanwhile."""
        self._row_writer.begin(self.row(key))

    def seed(self, key: int, state: RtpState) -> None:
        """Let the kernel's RTP statistics of this port go on from `state`."""
        row = self.row(key)
        highest = _FIRST_NUMBER + state.highest % _FIRST_NUMBER
        shift = highest - state.highest
        self._row_writer.begin(row)
        self._state_struct.pack_into(
            self._counters.memory,
            self._counters.offset(row) + self._state_at,
            state.ssrc or 0,
            int(state.seen_at * _NS),
            int(state.arrived_at * _NS),
            highest,
            state.timestamp,
            _bounded(state.jitter * _JITTER_UNITS),
            _bounded(state.jitter_max * _JITTER_UNITS),
            _bounded(state.longest_gap_s * _NS / _GAP_NS),
            state.ssrc is not None,
            state.is_jitter_new,
        )
        self._run_struct.pack_into(
            self._events.memory,
            self._events.offset(row) + self._run_at,
            max(state.lowest + shift, highest - self._ring.bits),
            highest,
            self._ring.pack([number + shift for number in state.missing]) if state.missing else self._ring.empty,
        )
        self._row_writer.end(row)

    def forwarded(self, key: int) -> int:
        """Packets that the kernel forwarded from this port up to now."""
        return self._words[self.row(key) * self._words_per_row + self._packets_at]

    def seen_at(self, key: int) -> float:
        """When a packet was last forwarded from this port: seconds, monotonic, 0.0 for never."""
        return self._words[self.row(key) * self._words_per_row + self._seen_at] / _NS

    def total_forwarded(self) -> int:
        """Packets forwarded from all ports since the programs were loaded."""
        return int(self._packets.sum())

    def total_dropped(self) -> int:
        """Packets dropped at all ports since the programs were loaded, for whatever reason."""
        return sum(count for name, count in self._count_verdicts().items() if name.startswith("dropped_"))

    def total_parse_errors(self) -> int:
        """Packets forwarded from all ports of RTP though they are not RTP."""
        return int(self._parse_errors.sum())

    def last_seen(self) -> npt.NDArray[np.float64]:
        """When each port last had a packet forwarded: seconds, 0.0 for never; index is `row(key)`."""
        return self._last_seen_ns / _NS

    def row(self, key: int) -> int:
        """Where the arrays, and `last_seen`, hold this port."""
        return (key >> 16) * self._span + (key & 0xFFFF) - self._first

    def count(self, verdict: str) -> int:
        """Frames of one verdict that `bpf/types.h` names, over all CPUs."""
        return self._count_verdicts()[verdict]

    def verdicts(self) -> dict[str, int]:
        """Frames by verdict: `forwarded`, and the reasons that `bpf/types.h` names, over all CPUs."""
        return {"forwarded": self.total_forwarded(), **self._count_verdicts()}

    def _count_verdicts(self) -> dict[str, int]:
        size = self._verdicts.size
        data = map_read(self._verdicts_fd, 0, size * self._cpus)
        totals = np.frombuffer(data, dtype=np.uint64).reshape(self._cpus, size // 8).sum(axis=0)
        return {name: int(totals[offset // 8]) for name, (_, offset) in self._verdicts.members.items()}


def _bounded(value: float) -> int:
    return min(round(value), _WORD)


def _address4(words: list[int]) -> int:
    """An IPv4 address as a row holds it, network order; 0 for IPv6."""
    return socket.htonl(words[0] << 16 | words[1]) if len(words) == 2 else 0


def _address6(words: list[int]) -> bytes:
    """An IPv6 address, network order; zeros for IPv4."""
    return struct.pack("!8H", *words) if len(words) == 8 else _NO_ADDRESS


def ones_sum(words: list[int]) -> int:
    """One's complement sum of 16-bit words (RFC 1071), not inverted."""
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def mac_bytes(text: str) -> bytes:
    """The six bytes of a MAC address."""
    return bytes.fromhex(text.replace(":", ""))


def tag_bytes(tags: Sequence[VlanTag]) -> bytes:
    """Up to two VLAN tags as the maps hold them: protocol and VLAN id of each, outer first, network order."""
    return b"".join(struct.pack("!HH", *tag) for tag in tags).ljust(2 * TAG_BYTES, b"\0")
