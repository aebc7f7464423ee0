"""Admits commands by the address that they come from (`--control-allow`)."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from rtpproxy.config import Network
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

REMEMBERED_HOSTS = 1024
"""Limit of hosts whose admission is not worked out anew for each command (0.2 us in place of 3)."""


class Admission:
    """Decides whose commands are executed, and counts those that are ignored. One for all control sockets."""

    def __init__(self, networks: Sequence[Network]) -> None:
        """Admit hosts in any of these networks; everybody if there are none."""
        self.ignored = 0
        """Datagrams and connections from other hosts so far."""
        self._networks = networks
        self._is_listed = lru_cache(REMEMBERED_HOSTS)(self._find)

    def admits(self, host: str) -> bool:
        """Tell whether commands of a numeric host are executed, and count them if not.

        An empty host is a Unix socket or standard input, which the permissions of files protect.
        """
        if not self._networks or not host or self._is_listed(host):
            return True
        self.ignored += 1
        if is_worth_a_line(self.ignored):
            log.warning(
                "control: commands ignored: %d; the last one from %s, which no --control-allow admits",
                self.ignored,
                host,
            )
        return False

    def _find(self, host: str) -> bool:
        address = ip_address(host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)
