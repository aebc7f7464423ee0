"""Tells how frames can leave by each interface: sent by which program, with which VLAN tags, up to which size."""

from collections.abc import Callable

from rtpproxy.network.features import XdpFeatures
from rtpproxy.network.links import MAX_TAGS, Link, Links, redirected_mtu
from rtpproxy.offload.entry import XdpWay


class Egress:
    """Knows what the kernel can send by the links of this network namespace."""

    def __init__(self, links: Links, has_our_xdp: Callable[[int], bool]) -> None:
        """`has_our_xdp` tells if our XDP program is attached to the interface with that index."""
        self._links = links
        self._has_our_xdp = has_our_xdp
        self._features = XdpFeatures()
        self._can_send: dict[int, bool] = {}

    def close(self) -> None:
        """Close the socket to the kernel."""
        self._features.close()

    def xdp_way(self, link: Link) -> XdpWay | None:
        """Tell how XDP sends by an interface; None when it cannot."""
        lower, tags = self._links.lower(link)
        return XdpWay(lower.index, tags) if len(tags) <= MAX_TAGS and self.can_send(lower.index) else None

    def mtu(self, link: Link) -> int:
        """The size up to which every program can send by an interface, in bytes of IP packet."""
        lower, tags = self._links.lower(link)
        return min(link.mtu, redirected_mtu(lower, tags)) if self.can_send(lower.index) else link.mtu

    def can_send(self, index: int) -> bool:
        """True if frames that XDP redirects to that interface leave it, by what the kernel tells."""
        known = self._can_send.get(index)
        if known is None:
            # Drivers send such frames only while our program runs there.
            known = self._can_send[index] = self._has_our_xdp(index) and self._can_transmit(index)
        return known

    def check(self) -> list[int]:
        """Ask the kernel again. Returns the indexes of the interfaces whose answer changed."""
        before, self._can_send = self._can_send, {}
        return [index for index, could_send in before.items() if self.can_send(index) != could_send]

    def forget(self, index: int) -> None:
        """Forget an interface that is gone."""
        self._can_send.pop(index, None)

    def known(self) -> set[int]:
        """Indexes of the interfaces that were asked about."""
        return set(self._can_send)

    def _can_transmit(self, index: int) -> bool:
        answer = self._features.can_transmit(index)
        if answer is None:
            # A kernel before 6.3. With our program attached all drivers can; a veth depends on its far end.
            link = self._links.get(index)
            return link is not None and link.kind != "veth"
        return answer
