"""Addresses of ours that media ports are on: which there are, and which one a command means (protocol.md 7.2 to 7.4).

Every configured address has a port space of its own, told by a small number, its *slot*. Addresses that commands bring
share one: under a wildcard its own, whose ports would collide with theirs, else that of the default address. So they
cost no memory in the kernel, where a port space holds a row for every port.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rtpproxy.config import ListenAddress


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """One of our addresses, as commands select it."""

    slot: int
    """Number of its port space."""
    host: str = ""
    """Numeric, in canonical form; empty for all addresses of the family."""
    is_ipv6: bool = False
    label: str = ""
    advertised: str = ""
    """Printed in replies in place of `host`; empty for `host` itself."""

    def covers(self, host: str) -> bool:
        """Whether a packet to a host of ours is to this address; an empty host is one that nobody knows."""
        return host == self.host or (not self.host and (":" in host) == self.is_ipv6)

    def key(self, port: int) -> int:
        """What tells a port from the same number in another port space."""
        return port_key(self.slot, port)


def port_key(slot: int, port: int) -> int:
    """One number for a port of a port space; for slot 0 it is the port."""
    # Not only equal: every stream holds both, and one object takes less memory than two.
    return slot << 16 | port if slot else port


def slots_of(listen: Sequence[ListenAddress]) -> list[int]:
    """The slot of each configured address, numbered from 0 as they come; addresses whose ports collide share one."""
    wildcards = {one.is_ipv6 for one in listen if not one.host}
    spaces = [(one.is_ipv6, "" if one.is_ipv6 in wildcards else one.host) for one in listen]
    slots = {space: slot for slot, space in enumerate(dict.fromkeys(spaces))}
    return [slots[space] for space in spaces]


class LocalAddresses:
    """The addresses that commands may use: those configured, and others that join when a socket was opened on them."""

    def __init__(
        self, listen: Sequence[ListenAddress], is_bridging: bool, route_source: Callable[[str], str | None]
    ) -> None:
        """`route_source` tells the address of ours from which the host would send to another, None without a route."""
        self.is_bridging = is_bridging
        self._known = [
            LocalAddress(slot, one.host, one.is_ipv6, one.label, one.advertised)
            for one, slot in zip(listen, slots_of(listen), strict=True)
        ]
        self._route_source = route_source

    @property
    def known(self) -> tuple[LocalAddress, ...]:
        """All addresses so far, in the order they came."""
        return tuple(self._known)

    def known_as(self, address: LocalAddress) -> LocalAddress | None:
        """What an address that a method here gave is among those known, None for a new one: then it has no sockets.

        One that was new when it was given may have joined since.
        """
        for one in self._known:
            if one is address or one == address:
                return one
        return None

    @property
    def default(self) -> LocalAddress:
        """What is used when nothing else is said; in bridge mode the internal address."""
        return self._known[0]

    @property
    def external(self) -> LocalAddress:
        """The external address of bridge mode."""
        return self._known[1]

    def labelled(self, label: str) -> LocalAddress | None:
        """The configured address with that label."""
        return next((one for one in self._known if one.label == label), None)

    def of_family(self, is_ipv6: bool) -> LocalAddress | None:
        """The address of that family that came last, if there is one."""
        return next((one for one in reversed(self._known) if one.is_ipv6 == is_ipv6), None)

    def at(self, host: str) -> LocalAddress:
        """The address with that numeric host; if it is not known a new one, to `join` once it has a socket."""
        is_ipv6 = ":" in host
        for one in self._known:
            if one.host == host:
                return one
        wildcard = next((one for one in self._known if not one.host and one.is_ipv6 == is_ipv6), None)
        return LocalAddress((wildcard or self.default).slot, host, is_ipv6)

    def towards(self, host: str) -> LocalAddress | None:
        """The address from which the host would send to a numeric remote one; None without a route."""
        source = self._route_source(host)
        return None if source is None else self.at(source)

    def join(self, address: LocalAddress) -> None:
        """Remember an address that `at` made, now that a socket could be opened on it."""
        if self.known_as(address) is None:
            self._known.append(address)
