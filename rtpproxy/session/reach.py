"""Where media may be sent: to phones, and to nothing else (docs/security.md, "What a call may reach").

The law of this file: an endpoint becomes a destination of media only if `Reach.refusal` has nothing to say against it,
whether a command named it, a packet taught it, or it was guessed from another one. Whatever sends media asks here, for
userspace and kernel alike.

The first of these rules that applies to a destination refuses it:

| destination                                             | refused unless                                            |
| ------------------------------------------------------- | --------------------------------------------------------- |
| unspecified, multicast, broadcast, IPv4-mapped          |                                                           |
| a control socket of this relay, whatever address it has |                                                           |
| this host: a port below 1024, or 5060 or 5061           |                                                           |
| in a network of `--media-deny`                          | one of `--media-allow` has a longer prefix                |
| loopback                                                | the stream's own address is loopback, or `--media-allow`  |
|                                                         | names loopback                                            |

The first that applies decides. Broadcast addresses are those of this host's networks, too. An advertised address counts
as one of this host's: a 1:1 NAT leads from there to here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from rtpproxy.addr import Endpoint, is_ipv6
from rtpproxy.config import FIRST_FREE_PORT, ListenAddress, MediaNetwork, Network
from rtpproxy.session.local import LocalAddress

Address = IPv4Address | IPv6Address

MAX_REMEMBERED = 10_000
"""Limit of hosts whose rules are remembered; beyond it all are forgotten."""
SIP_PORTS = (5060, 5061)
"""Ports of SIP over UDP and TLS (RFC 3261 19.1.2)."""
_THIS_NETWORK = (ip_network("0.0.0.0/8"), ip_network("::/128"))
"""Linux sends what is for 0.0.0.0 or :: to this host; the rest of the network is no destination (RFC 1122 3.2.1.3)."""
_LIMITED_BROADCAST = IPv4Address("255.255.255.255")

UNSPECIFIED, MULTICAST, BROADCAST = "an unspecified address", "a multicast address", "a broadcast address"
MAPPED = "an IPv4-mapped address"
CONTROL = "a control socket of this relay"
LOW_PORT = f"a port below {FIRST_FREE_PORT} of this host"
SIP_PORT = "a SIP port of this host"
LOOPBACK = "a loopback address"


@dataclass(frozen=True, slots=True)
class _Addresses:
    """The addresses in some networks; fast where most of these hold a single one."""

    single: frozenset[Address]
    networks: frozenset[Network]

    @classmethod
    def of(cls, networks: Collection[Network]) -> "_Addresses":
        return cls(
            frozenset(one.network_address for one in networks if one.num_addresses == 1),
            frozenset(one for one in networks if one.num_addresses > 1),
        )

    def __contains__(self, address: Address) -> bool:
        return address in self.single or any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A network of `--media-allow` or `--media-deny`."""

    asked: MediaNetwork
    is_allowed: bool


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules for one host. Most hosts are phones elsewhere, to which none applies: they share `_NO_RULES`."""

    never: str = ""
    """Why nothing is ever sent there; empty if something may be."""
    is_ours: bool = False
    is_loopback: bool = False
    control_ports: frozenset[int] = frozenset()
    listed: tuple[_Listed, ...] = ()
    """Networks that the host is in, in order of precedence."""

    def refusal(self, port: int, is_from_loopback: bool) -> str:
        if self.never:
            return self.never
        if port in self.control_ports:
            return CONTROL
        if self.is_ours and 0 < port < FIRST_FREE_PORT:  # nothing is sent to port 0
            return LOW_PORT
        if self.is_ours and port in SIP_PORTS:
            return SIP_PORT
        for listed in self.listed:
            if listed.asked.first_port <= port <= listed.asked.last_port:
                if not listed.is_allowed:
                    return f"--media-deny {listed.asked}"
                is_named = listed.asked.network.is_loopback
                return LOOPBACK if self.is_loopback and not (is_from_loopback or is_named) else ""
        return LOOPBACK if self.is_loopback and not is_from_loopback else ""


_NO_RULES = _Rules()


class Reach:
    """Judges destinations. It has to be told of this host's addresses and of the relay's control sockets."""

    def __init__(
        self, listen: Sequence[ListenAddress], allow: Sequence[MediaNetwork], deny: Sequence[MediaNetwork]
    ) -> None:
        """`listen` are the configured addresses; `allow` and `deny` are the operator's lists."""
        listed = [_Listed(one, True) for one in allow] + [_Listed(one, False) for one in deny]
        self._listed = sorted(listed, key=lambda one: (-one.asked.network.prefixlen, one.is_allowed))
        self._listened = {one.host for one in listen}
        self._advertised = _numeric_advertised(listen)
        self._ours = self._broadcast = _Addresses.of(())
        self._control: tuple[Endpoint, ...] = ()
        self._rules: dict[str, _Rules] = {}
        """By host, as far as anybody asked."""

    def host_has(self, local: Collection[Network], broadcast: Collection[Network]) -> bool:
        """Take note of what belongs to this host: its addresses, and the broadcast addresses of its networks.

        True if they changed: then what was allowed before has to be judged again.
        """
        before = self._ours, self._broadcast
        self._ours, self._broadcast = _Addresses.of(local), _Addresses.of(broadcast)
        self._rules.clear()
        return before != (self._ours, self._broadcast)

    def control_is_at(self, endpoints: Collection[Endpoint]) -> None:
        """Take note of where the control sockets of this relay are; the hosts 0.0.0.0 and :: are all addresses."""
        self._control = tuple(Endpoint(_without_zone(host), port) for host, port in endpoints)
        self._rules.clear()

    def refusal(self, to: tuple[str, int], *, is_from_loopback: bool) -> str:
        """Say why nothing may be sent to an endpoint, in words for the log; empty if it may.

        `is_from_loopback` tells whether our address that it would be sent from is loopback.
        """
        host, port = to
        rules = self._rules.get(host)
        if rules is None:
            rules = self._look_at(host)
        return rules.refusal(port, is_from_loopback) if rules is not _NO_RULES else ""

    def is_loopback(self, local: LocalAddress, local_host: str) -> bool:
        """Tell if a stream's own address is loopback: a configured one, or under a wildcard that of its packets.

        `local_host` is where its packets arrive, empty if unknown. An address that only a command named does not
        count: commands may take it from SIP messages (modifier `r`).
        """
        if local.host:
            return local.host in self._listened and is_loopback(local.host)
        return is_loopback(local_host)

    def _look_at(self, host: str) -> _Rules:
        if len(self._rules) >= MAX_REMEMBERED:
            self._rules.clear()
        rules = self._rules[host] = self._rules_for(ip_address(_without_zone(host)))
        return rules

    def _rules_for(self, address: Address) -> _Rules:
        never = self._never(address)
        if never:
            return _Rules(never)
        is_ours = address.is_loopback or address in self._ours
        advertised_for = self._advertised.get(address)
        rules = _Rules(
            is_ours=is_ours or advertised_for is not None,
            is_loopback=address.is_loopback,
            control_ports=frozenset(
                control.port
                for control in self._control
                if _reaches(address, is_ours, control) or (advertised_for and _is_behind(advertised_for, control))
            ),
            listed=tuple(one for one in self._listed if address in one.asked.network),
        )
        return _NO_RULES if rules == _NO_RULES else rules

    def _never(self, address: Address) -> str:
        if any(address in network for network in _THIS_NETWORK):
            return UNSPECIFIED
        if address.is_multicast:
            return MULTICAST
        if address == _LIMITED_BROADCAST or address in self._broadcast:
            return BROADCAST
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return MAPPED
        return ""


def is_loopback(host: str) -> bool:
    """True for a numeric loopback address."""
    return host == "::1" if is_ipv6(host) else host.startswith("127.")


def _numeric_advertised(listen: Sequence[ListenAddress]) -> dict[Address, frozenset[str]]:
    """Find our hosts behind each advertised address: a 1:1 NAT leads from it to them. Names are not looked up."""
    found: dict[Address, set[str]] = {}
    for one in listen:
        try:
            address = ip_address(one.advertised)
        except ValueError:
            continue
        found.setdefault(address, set()).add(one.host)
    return {address: frozenset(hosts) for address, hosts in found.items()}


def _reaches(address: Address, is_ours: bool, control: Endpoint) -> bool:
    """Tell if what is sent to the address and the control socket's port gets there."""
    bound = ip_address(control.host)
    return is_ours if bound.is_unspecified else bound == address


def _is_behind(hosts: Collection[str], control: Endpoint) -> bool:
    """Tell if a NAT that leads to these hosts of ours (empty: to any) leads to the control socket as well."""
    bound = ip_address(control.host)
    return bound.is_unspecified or control.host in hosts or ("" in hosts and not bound.is_loopback)


def _without_zone(host: str) -> str:
    return host.partition("%")[0]
