"""Writes what the programs know of this host: addresses and their port spaces, interfaces and their frames, sockets."""

from collections.abc import Sequence

from rtpproxy.errors import OffloadError
from rtpproxy.network.links import FrameKey, Reception
from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.maps import CalledMap, Members
from rtpproxy.offload.network_order import mac_bytes, mapped_address, tag_bytes


class HostMaps:
    """The maps that follow the host. Methods raise OffloadError unless they say otherwise."""

    def __init__(self, loaded: Loaded) -> None:
        """Nothing is written yet."""
        self._local_slots, self._host_addresses, self._untagged_links, self._links, self._sockets = (
            CalledMap(loaded.map_fds[name], loaded.layouts[name])
            for name in ("local_slots", "host_addresses", "untagged_links", "links", "steered_sockets")
        )

    @property
    def sockets_per_family(self) -> int:
        """Number of IPv4 sockets that the steering program hands packets to; there are as many for IPv6."""
        return self._sockets.layout.entries // 2

    def set_sockets(self, receivers: Sequence[int]) -> None:
        """Hand packets for open ports to these sockets: those of IPv4, then those of IPv6 or none. Raises OSError."""
        for number, receiver in enumerate(receivers):
            self._sockets.write(number, receiver)

    def add_local(self, host: str, slot: int) -> None:
        """Give a local address the port space `slot`.

        An address whose family has a wildcard keeps that wildcard's port space.
        """
        try:
            self._local_slots.write({"words": mapped_address(host)}, slot)
        except OSError as error:
            raise OffloadError(f"{host}: cannot give it a port space: {error.strerror}") from error

    def mark_host(self, host: str, is_ours: bool) -> None:
        """Tell the programs that an address is one of this host's, or is not any more."""
        key = {"words": mapped_address(host)}
        try:
            if is_ours:
                self._host_addresses.write(key, 1)
            else:
                self._host_addresses.delete(key)
        except OSError as error:
            raise OffloadError(f"{host}: the list of this host's addresses: {error.strerror}") from error

    def mark_frames(self, frame: FrameKey, reception: Reception | None) -> None:
        """Tell the programs how this host takes frames, or that they are not for it."""
        index, tags = frame
        link: Members = {}
        if reception is not None:
            mac, taken_by, is_strict = mac_bytes(reception.mac), reception.index, int(reception.is_strict)
            link = {"mac": mac, "ifindex": taken_by, "is_strict": is_strict}
        key: Members = {"ifindex": index, "tags": tag_bytes(tags)}
        try:
            if not tags and index < self._untagged_links.layout.entries:
                self._untagged_links.write(index, link)
            elif reception is None:
                self._links.delete(key)
            else:
                self._links.write(key, link)
        except OSError as error:
            raise OffloadError(f"interface {index}: the list of interfaces: {error.strerror}") from error
