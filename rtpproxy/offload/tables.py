"""The tables of the kernel programs: rows of ports and of next hops, whose only writer is here, and the counters.

The layouts come from the compiled C header by way of `loader`; nothing here repeats them. Ports and addresses are
host order in Python and become network order here. Ports come as keys, which also tell the port space
(`session.local`); the arrays hold the media ports of every port space, and nothing else.
"""

import socket
from contextlib import ExitStack

from rtpproxy.addr import packed_words
from rtpproxy.network.vlan import TAG_BYTES
from rtpproxy.offload.counters import CounterTables
from rtpproxy.offload.entry import ForwardingEntry, Ingress, NextHop
from rtpproxy.offload.layout import ByPort
from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.maps import CalledMap, MappedArray, SequencedArray
from rtpproxy.offload.network_order import address4, address6, mac_bytes, ones_sum, tag_bytes
from rtpproxy.offload.sources import SourceTable
from rtpproxy.rtp.statistics import RtpState

_IPV4_VERSION_IHL = 0x45
_DONT_FRAGMENT = 0x4000
_UDP = 17
TYPE_GIVEN = 0x80
"""Bit of a payload type in a row, which tells 0 from none."""
_ENTRY = (
    *("is_forwarding", "is_any_source_port", "is_rtp", "is_ipv6", "is_to_ipv6", "tos", "ttl"),
    *("remote_host", "local_host", "from_host", "to_host", "from_port", "to_port", "remote_port"),
    *("udp_delta", "ip_sum", "pseudo_sum", "next_hop", "ingress_ifindex", "ingress_mac"),
    *("tee_type", "hidden_type", "tee"),
)
"""Members of a row that an entry is written to, in the order of their offsets."""
_NEXT_HOP = "ifindex", "xdp_ifindex", "mtu", "to_mac", "from_mac", "tags", "tag_bytes"


class Tables:
    """All tables of one running relay."""

    def __init__(self, loaded: Loaded, first_port: int, last_port: int) -> None:
        """Map everything. The programs were compiled for the media ports from `first_port` to `last_port`.

        Raises OSError, after unmapping everything.
        """
        fds, layouts = loaded.map_fds, loaded.layouts
        with ExitStack() as stack:
            self.counts = CounterTables(fds, layouts, first_port, last_port)
            stack.callback(self.counts.close)
            # Not mapped: a mapping counts as memory of the process, all of it, and many relays never see IPv6 packets.
            hosts6 = CalledMap(fds["port_hosts6"], layouts["port_hosts6"])
            rows = MappedArray(fds["port_rows"], layouts["port_rows"])
            self.ports = PortTable(rows, hosts6, self.counts, first_port, last_port)
            stack.callback(self.ports.close)
            sources = MappedArray(fds["port_sources"], layouts["port_sources"])
            self.sources = SourceTable(sources, first_port, last_port)
            stack.callback(self.sources.close)
            self.next_hops = NextHopTable(MappedArray(fds["next_hops"], layouts["next_hops"]))
            stack.pop_all()

    def close(self) -> None:
        """Unmap everything. No method may be called afterwards."""
        for table in (self.ports, self.sources, self.next_hops, self.counts):
            table.close()


class PortTable(ByPort):
    """The rows of ports: which are open, and their forwarding entries."""

    def __init__(
        self, rows: MappedArray, hosts6: CalledMap, counters: CounterTables, first_port: int, last_port: int
    ) -> None:
        super().__init__(first_port, last_port)
        self._rows = rows
        self._hosts6 = hosts6
        self._hosts6_struct = hosts6.layout.value.packer("remote_host", "local_host", "from_host", "to_host")
        self._counters = counters
        self._writer = SequencedArray(rows, *_ENTRY)
        self._is_open = rows.numbers("is_open")

    def close(self) -> None:
        """Unmap the rows."""
        self._is_open.release()
        self._writer.release()
        self._rows.close()

    def open_port(self, key: int) -> None:
        """Steer packets for this port to the relay's sockets from now on."""
        self._is_open[self.row(key)] = 1

    def close_port(self, key: int) -> None:
        """Leave packets for this port to whoever owns it. Its entry must have been withdrawn."""
        self._is_open[self.row(key)] = 0

    def install(self, entry: ForwardingEntry, from_host: str, next_hop: int, ttl: int, ingress: Ingress) -> None:
        """Put an entry into the row of its port, or change it as a whole.

        Packets then leave from `from_host` with that TTL or hop limit; they are expected to arrive by `ingress`.
        """
        remote, local, start, to = map(packed_words, (entry.source.host, entry.local_host, from_host, entry.to.host))
        is_ipv6, is_to_ipv6 = len(remote) > 2, len(to) > 2
        old = [*remote, *local, entry.port]
        udp_delta = ones_sum([*start, *to, entry.from_port, entry.to.port, *(~word & 0xFFFF for word in old)])
        fixed = [_IPV4_VERSION_IHL << 8 | entry.tos, _DONT_FRAGMENT, ttl << 8 | _UDP]
        row = self.row(entry.key)
        if is_ipv6 or is_to_ipv6:
            self._writer.begin(row)
            self._hosts6.write(row, self._hosts6_struct.pack(*map(address6, (remote, local, start, to))))
        self._writer.write(
            row,
            1,
            int(entry.is_any_source_port),
            int(entry.is_rtp),
            int(is_ipv6),
            int(is_to_ipv6),
            entry.tos,
            ttl,
            *map(address4, (remote, local, start, to)),
            *map(socket.htons, (entry.from_port, entry.to.port, entry.source.port, udp_delta)),
            0 if is_to_ipv6 else socket.htons(ones_sum([*fixed, *start, *to])),
            socket.htons(ones_sum([*remote, *local, _UDP])),
            next_hop,
            ingress.ifindex,
            mac_bytes(ingress.mac),
            *map(_type, (entry.tee_type, entry.hidden_type)),
            entry.tee,
        )

    def withdraw(self, key: int) -> None:
        """Take the entry out of the row; its packets go to userspace from now on."""
        self._writer.write(self.row(key), *(b"" if member == "ingress_mac" else 0 for member in _ENTRY))

    def hold(self, key: int) -> None:
        """Forward nothing from this port until `seed`; its packets go to userspace meanwhile."""
        self._writer.begin(self.row(key))

    def seed(self, key: int, state: RtpState) -> None:
        """Let the kernel's RTP statistics of this port go on from `state`."""
        row = self.row(key)
        self._writer.begin(row)
        self._counters.write_state(row, state)
        self._writer.end(row)


class NextHopTable:
    """The rows of next hops."""

    def __init__(self, rows: MappedArray) -> None:
        self._rows = rows
        self._writer = SequencedArray(rows, *_NEXT_HOP)

    @property
    def capacity(self) -> int:
        """Number of next hops that the kernel's table holds."""
        return self._rows.entries

    def close(self) -> None:
        """Unmap the rows."""
        self._writer.release()
        self._rows.close()

    def write(self, number: int, hop: NextHop | None) -> None:
        """Change a next hop as a whole; None sends its packets to userspace."""
        if hop is None:
            self._writer.write(number, 0, 0, 0, b"", b"", b"", 0)
            return
        xdp_ifindex, tags = (hop.xdp_way.ifindex, hop.xdp_way.tags) if hop.xdp_way else (0, ())
        macs = mac_bytes(hop.to_mac), mac_bytes(hop.from_mac)
        self._writer.write(number, hop.ifindex, xdp_ifindex, hop.mtu, *macs, tag_bytes(tags), TAG_BYTES * len(tags))


def _type(payload_type: int | None) -> int:
    return 0 if payload_type is None else TYPE_GIVEN | payload_type
