"""Our addresses that media ports are on, and the choice of the one that a command means (protocol.md 7.2 to 7.4).

Every configured address has a port space of its own, with a small number, its *slot*. An address that a command names
shares one: that of the wildcard of its family, whose ports would collide with its own, else that of the default
address. So it costs no memory in the kernel, where a port space holds a row for every port.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rtpproxy.addr import is_ipv6
from rtpproxy.config import ListenAddress

_NULL_HOSTS = ("0.0.0.0", "::")


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
    is_nameless: bool = False
    """Replies name no address, although there is one."""

    @property
    def shown(self) -> str:
        """The address that replies name; empty for none."""
        return "" if self.is_nameless else self.advertised or self.host

    def covers(self, host: str) -> bool:
        """True if a packet that came to `host`, one of ours, is for this address; empty if the host is unknown."""
        return host == self.host or (not self.host and is_ipv6(host) == self.is_ipv6)

    def key(self, port: int) -> int:
        """A number that tells the port from the same port in another port space."""
        return port_key(self.slot, port)


def port_key(slot: int, port: int) -> int:
    """One number for a port of a port space; for slot 0 it is the port."""
    # For slot 0 it is the same object: every stream holds both, and one takes less memory than two.
    return slot << 16 | port if slot else port


def slots_of(listen: Sequence[ListenAddress]) -> list[int]:
    """The slot of each configured address, numbered from 0 as they come; addresses whose ports collide share one."""
    wildcards = {one.is_ipv6 for one in listen if not one.host}
    spaces = [(one.is_ipv6, "" if one.is_ipv6 in wildcards else one.host) for one in listen]
    slots = {space: slot for slot, space in enumerate(dict.fromkeys(spaces))}
    return [slots[space] for space in spaces]


class LocalAddresses:
    """The addresses that commands may use: those of the configuration, and others once a socket was opened on them."""

    def __init__(
        self, listen: Sequence[ListenAddress], is_bridging: bool, route_source: Callable[[str], str | None]
    ) -> None:
        """`route_source` gives our address from which this host sends to a given one, None without a route."""
        self.is_bridging = is_bridging
        self._known = [
            LocalAddress(slot, one.host, one.is_ipv6, one.label, one.advertised)
            for one, slot in zip(listen, slots_of(listen), strict=True)
        ]
        self._null = {is_ipv6: self._make_null(is_ipv6) for is_ipv6 in (False, True)}
        self._route_source = route_source

    @property
    def known(self) -> tuple[LocalAddress, ...]:
        """All addresses so far, in the order they came."""
        return tuple(self._known)

    def known_as(self, address: LocalAddress) -> LocalAddress | None:
        """The known address that equals one which a method here returned; None if there is none, so it has no sockets.

        An address that was new when it was returned may have joined since.
        """
        for one in self._known:
            if one is address or one == address:
                return one
        return address if address in self._null.values() else None

    @property
    def default(self) -> LocalAddress:
        """The address used when a command names none; in bridge mode the internal one."""
        return self._known[0]

    @property
    def external(self) -> LocalAddress:
        """The external address of bridge mode."""
        return self._known[1]

    def labelled(self, label: str) -> LocalAddress | None:
        """The configured address with that label, None if there is none."""
        return next((one for one in self._known if one.label == label), None)

    def of_family(self, is_ipv6: bool) -> LocalAddress | None:
        """The latest address of a family, None if there is none."""
        return next((one for one in reversed(self._known) if one.is_ipv6 == is_ipv6), None)

    def at(self, host: str) -> LocalAddress | None:
        """The address with that numeric host; if it is not known a new one, to `join` once it has a socket.

        Of several with that host it is the last, or the last that is advertised under another name. The null address
        is the wildcard of its family; where there is none, it is the first address, and replies do not name it. None
        where the family has no address at all.
        """
        is_host_ipv6 = is_ipv6(host)
        if host in _NULL_HOSTS:
            return self._null[is_host_ipv6]
        found = [one for one in self._known if one.host == host]
        if found:
            return next((one for one in reversed(found) if one.advertised), found[-1])
        wildcard = next((one for one in self._known if not one.host and one.is_ipv6 == is_host_ipv6), None)
        return LocalAddress((wildcard or self.default).slot, host, is_host_ipv6)

    def towards(self, host: str) -> LocalAddress | None:
        """The address from which this host sends to a numeric remote one; None without a route."""
        source = host if host in _NULL_HOSTS else self._route_source(host)
        return None if source is None else self.at(source)

    def join(self, address: LocalAddress) -> None:
        """Add an address that `at` made, now that a socket could be opened on it."""
        if self.known_as(address) is None:
            self._known.append(address)

    def _make_null(self, is_ipv6: bool) -> LocalAddress | None:
        """The address that the null address of a family stands for, None where no address of it is configured."""
        family = [one for one in self._known if one.is_ipv6 == is_ipv6]
        wildcard = next((one for one in reversed(family) if not one.host), None)
        if wildcard is not None or not family:
            return wildcard
        return replace(family[0], label="", advertised="", is_nameless=True)
