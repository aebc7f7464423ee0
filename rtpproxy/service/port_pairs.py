"""Opens and closes port pairs on our addresses (protocol.md 7.1)."""

import logging
from collections.abc import Callable
from typing import Protocol

from rtpproxy.errors import PortBusyError, PortSpaceError
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.ports import PortAllocator

log = logging.getLogger(__name__)


class PortOwner(Protocol):
    """Holds ports of the host: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""

    def add_local(self, address: LocalAddress) -> None: ...
    def open(self, address: LocalAddress, rtp_port: int) -> None: ...
    def close(self, address: LocalAddress, rtp_port: int) -> None: ...


class PortPairs:
    """The port pairs of one relay. A pair is the RTP port and the next one, for RTCP."""

    def __init__(
        self, local_addresses: LocalAddresses, owner: PortOwner, new_ports: Callable[[], PortAllocator]
    ) -> None:
        """`new_ports` makes the allocator of a port space; all of them must walk in the same order."""
        self._locals = local_addresses
        self._owner = owner
        self._ports = {one.slot: new_ports() for one in local_addresses.known}
        self._last_taken: dict[bool, int] = {}
        """RTP port of the pair that was opened last, by `is_ipv6`: all addresses of a family go on from there."""

    def open(self, local: LocalAddress) -> tuple[LocalAddress, int]:
        """Open the next free pair on one of our addresses. Returns the address as known from now on, and the RTP port.

        Raises PortSpaceError.
        """
        try:
            local = self._use(local)
            return local, self._open_pair(local)
        except OSError as error:
            raise PortSpaceError(f"cannot open a port on {local.host or '*'}: {error.strerror}") from error

    def close(self, local: LocalAddress, rtp_port: int) -> None:
        """Give a pair back."""
        self._owner.close(local, rtp_port)
        self._ports[local.slot].release(rtp_port)

    def _use(self, local: LocalAddress) -> LocalAddress:
        """Make an address known if it is not. Raises OSError where it cannot be used."""
        known = self._locals.known_as(local)
        if known is not None:
            return known
        self._owner.add_local(local)
        self._locals.join(local)
        return local

    def _open_pair(self, local: LocalAddress) -> int:
        ports = self._ports[local.slot]
        for port in ports.candidates(self._last_taken.get(local.is_ipv6)):
            try:
                self._owner.open(local, port)
            except PortBusyError as error:
                log.debug("%s", error)
                continue
            ports.take(port)
            self._last_taken[local.is_ipv6] = port
            return port
        raise PortSpaceError("no free port pair is left; widen the range with -m and -M")
