"""Follows the addresses of this host as they come and go."""

import logging
from collections.abc import Callable, Set

from rtpproxy.errors import OffloadError
from rtpproxy.network.messages import ALL_ADDRESSES, read_address
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.network.rtnl import RTM_GETADDR

log = logging.getLogger(__name__)


def addresses_of_host(netlink: Rtnetlink) -> list[tuple[str, int]]:
    """List every address of this host, with the index of the interface that carries it. Raises OffloadError."""
    found = map(read_address, netlink.dump(RTM_GETADDR, ALL_ADDRESSES))
    return [(address.host, address.ifindex) for address in found if address.host]


class HostAddresses:
    """Keeps the kernel's copy of the host's addresses up to date."""

    def __init__(self, mark: Callable[[str, bool], None]) -> None:
        """`mark(host, is_ours)` changes the copy; it raises OffloadError when it cannot, for instance for lack of room.

        An address that is missing there counts as another machine's: packets to it are never dropped.
        """
        self._mark = mark
        self._marked: set[str] = set()
        self._is_warned = False

    def follow(self, hosts: Set[str]) -> None:
        """Change the copy to the addresses that the host has now."""
        for host in (*(self._marked - hosts), *(hosts - self._marked)):
            try:
                self._mark(host, host in hosts)
            except OffloadError as error:
                if not self._is_warned:
                    self._is_warned = True
                    log.warning("%s; floods at such an address are not stopped in the kernel", error)
            else:
                self._marked ^= {host}
