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

Broadcast addresses are those of this host's networks, too. An advertised address counts
as one of this host's: a 1:1 NAT leads from there to here.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from rtpproxy.addr import Endpoint, ipv4_number, is_ipv6
from rtpproxy.config import FIRST_FREE_PORT, ListenAddress, MediaNetwork, Network
from rtpproxy.session.local import LocalAddress

MAX_REMEMBERED = 10_000
"""Limit of hosts whose rules are remembered; beyond it all are forgotten."""
SIP_PORTS = (5060, 5061)
"""Ports of SIP over UDP and TLS (RFC 3261 19.1.2)."""

UNSPECIFIED, MULTICAST, BROADCAST = "an unspecified address", "a multicast address", "a broadcast address"
MAPPED = "an IPv4-mapped address"
CONTROL = "a control socket of this relay"
LOW_PORT = f"a port below {FIRST_FREE_PORT} of this host"
SIP_PORT = "a SIP port of this host"
LOOPBACK = "a loopback address"

_MAPPED = 0xFFFF << 32
"""Addresses are numbers of 128 bits here, those of IPv4 as in ::ffff:0:0/96: `ipaddress` takes ten times longer."""


def _number(host: str) -> int:
    """The number of a numeric address, whatever its zone."""
    return int(IPv6Address(host.partition("%")[0])) if is_ipv6(host) else _MAPPED | ipv4_number(host)


def _ends(network: Network) -> tuple[int, int]:
    """The first and the last number of a network."""
    prefix = _MAPPED if network.version == 4 else 0
    return prefix | int(network.network_address), prefix | int(network.broadcast_address)


_NEVER = tuple(
    (*_ends(ip_network(text)), why)
    for text, why in (
        # Linux sends what is for 0.0.0.0 or :: to this host; the rest is no destination, either (RFC 1122 3.2.1.3).
        ("0.0.0.0/8", UNSPECIFIED),
        ("::/128", UNSPECIFIED),
        ("224.0.0.0/4", MULTICAST),
        ("ff00::/8", MULTICAST),
        ("255.255.255.255/32", BROADCAST),
    )
)


@dataclass(frozen=True, slots=True)
class _Addresses:
    """The addresses in some networks; fast where most of these hold a single one."""

    single: frozenset[int]
    ranges: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, networks: Iterable[Network]) -> "_Addresses":
        ends = set(map(_ends, networks))
        return cls(
            frozenset(first for first, last in ends if first == last),
            frozenset((first, last) for first, last in ends if first != last),
        )

    def __contains__(self, number: int) -> bool:
        return number in self.single or any(first <= number <= last for first, last in self.ranges)


@dataclass(frozen=True, slots=True)
class _Control:
    """Where a control socket is."""

    host: str
    number: int
    port: int

    def is_at(self, number: int, is_ours: bool) -> bool:
        """Tell if what is sent to an address gets here; `is_ours` tells if it is one of this host's."""
        return is_ours if self._is_everywhere else number == self.number

    def is_behind(self, hosts: Collection[str]) -> bool:
        """Tell if a NAT that leads to these hosts of ours (empty: to any) leads here as well."""
        return bool(hosts) and (
            self._is_everywhere or self.host in hosts or ("" in hosts and not is_loopback(self.host))
        )

    @property
    def _is_everywhere(self) -> bool:
        return self.host in ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class _Listed:
    """A network of `--media-allow` or `--media-deny`, and the numbers that it begins and ends with."""

    asked: MediaNetwork
    is_allowed: bool
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules for one host."""

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
"""Those for most hosts, phones elsewhere: none."""


class Reach:
    """Judges destinations. It has to be told of this host's addresses and of the relay's control sockets."""

    def __init__(
        self, listen: Sequence[ListenAddress], allow: Sequence[MediaNetwork], deny: Sequence[MediaNetwork]
    ) -> None:
        """`listen` are the configured addresses; `allow` and `deny` are the operator's lists."""
        listed = [_Listed(one, True, *_ends(one.network)) for one in allow]
        listed += [_Listed(one, False, *_ends(one.network)) for one in deny]
        self._listed = sorted(listed, key=lambda one: (-one.asked.network.prefixlen, one.is_allowed))
        self._listened = {one.host for one in listen}
        self._advertised = _numeric_advertised(listen)
        self._ours = self._broadcast = _Addresses.of(())
        self._control: list[_Control] = []
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
        self._control = [_Control(host, _number(host), port) for host, port in endpoints]
        self._rules.clear()

    def refusal(self, to: tuple[str, int], *, is_from_loopback: bool) -> str:
        """Say why nothing may be sent to an endpoint, in words for the log; empty if it may.

        `is_from_loopback` tells whether our address that it would be sent from is loopback.
        """
        host, port = to
        rules = self._rules.get(host) or self._look_at(host)
        return rules.refusal(port, is_from_loopback) if rules is not _NO_RULES else ""

    def is_free(self, host: str) -> bool:
        """Tell if all of a host's ports may be sent to from anywhere, as for most: phones elsewhere."""
        return (self._rules.get(host) or self._look_at(host)) is _NO_RULES

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
        rules = self._rules[host] = self._rules_for(host)
        return rules

    def _rules_for(self, host: str) -> _Rules:
        number = _number(host)
        never = self._never(number, is_ipv6(host))
        if never:
            return _Rules(never)
        is_ours = number in self._ours or is_loopback(host)
        advertised_for = self._advertised.get(number, frozenset())
        control_ports = {
            one.port for one in self._control if one.is_at(number, is_ours) or one.is_behind(advertised_for)
        }
        version = 6 if is_ipv6(host) else 4
        listed = [
            one
            for one in self._listed
            if one.first <= number <= one.last and one.asked.network.version == version  # ::/0 is no IPv4
        ]
        if not (is_ours or advertised_for or control_ports or listed):
            return _NO_RULES
        return _Rules(
            is_ours=is_ours or bool(advertised_for),
            is_loopback=is_loopback(host),
            control_ports=frozenset(control_ports),
            listed=tuple(listed),
        )

    def _never(self, number: int, is_host_ipv6: bool) -> str:
        if is_host_ipv6 and number >> 32 == _MAPPED >> 32:
            return MAPPED
        for first, last, why in _NEVER:
            if first <= number <= last:
                return why
        return BROADCAST if number in self._broadcast else ""


def is_loopback(host: str) -> bool:
    """True for a numeric loopback address."""
    return host == "::1" if is_ipv6(host) else host.startswith("127.")


def _numeric_advertised(listen: Sequence[ListenAddress]) -> dict[int, frozenset[str]]:
    """Find our hosts behind each advertised address: a 1:1 NAT leads from it to them. Names are not looked up."""
    found: dict[int, set[str]] = {}
    for one in listen:
        try:
            number = _number(str(ip_address(one.advertised)))
        except ValueError:
            continue
        found.setdefault(number, set()).add(one.host)
    return {number: frozenset(hosts) for number, hosts in found.items()}
