"""Tells how frames can leave by each interface: sent by which program, with which VLAN tags, up to which size."""

import logging
from collections.abc import Callable

from rtpproxy.network.features import XdpFeatures
from rtpproxy.network.links import MAX_TAGS, Link, Links, redirected_mtu
from rtpproxy.network.queues import transmit_queues
from rtpproxy.offload.entry import XdpWay
from rtpproxy.offload.refusing import Refusing

log = logging.getLogger(__name__)


class Egress:
    """Knows what the kernel can send by the links of this network namespace."""

    def __init__(
        self, links: Links, has_our_xdp: Callable[[int], bool], refused: Callable[[int], int] = lambda _: 0
    ) -> None:
        """Both take the index of an interface.

        `has_our_xdp` tells if our XDP program is attached there; `refused` counts the frames that its driver refused.
        """
        self._links = links
        self._has_our_xdp = has_our_xdp
        self._refused = refused
        self._refusing = Refusing()
        self._warned: set[int] = set()
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
            is_able = self._has_our_xdp(index) and self._can_transmit(index)
            if not is_able:
                # Once it is able again, what it refused before says nothing.
                self._refusing.forget(index)
            known = self._can_send[index] = is_able and index not in self._refusing
        return known

    def check(self) -> list[int]:
        """Ask the kernel again, every second. Returns the indexes of the interfaces whose answer changed."""
        for index in self._can_send:
            self._check_refusals(index)
        before, self._can_send = self._can_send, {}
        return [index for index, could_send in before.items() if self.can_send(index) != could_send]

    def forget(self, index: int) -> None:
        """Forget an interface that is gone, or got or lost our program."""
        self._can_send.pop(index, None)
        self._refusing.forget(index)
        if self._links.get(index) is None:
            self._warned.discard(index)

    def known(self) -> set[int]:
        """Indexes of the interfaces that were asked about."""
        return set(self._can_send)

    def _check_refusals(self, index: int) -> None:
        link = self._links.get(index)

        def queues() -> int | None:
            found = transmit_queues(link.name) if link else None
            return found.count if found else None

        if self._refusing.check(index, self._refused(index), queues) and link:
            level = logging.INFO if index in self._warned else logging.WARNING
            self._warned.add(index)
            log.log(
                level,
                "%s: its driver refuses frames that XDP sends there (%d so far, counted as dropped_not_sent): TC sends "
                "by it from now on; if processors outnumber its transmit queues, ethtool -L %s gives it more",
                *(link.name, self._refused(index), link.name),
            )

    def _can_transmit(self, index: int) -> bool:
        answer = self._features.can_transmit(index)
        if answer is None:
            # A kernel before 6.3. With our program attached all drivers can; a veth depends on its far end.
            link = self._links.get(index)
            return link is not None and link.kind != "veth"
        return answer
