"""A recorded packet as a value: what arrived when, from where, and at which of our addresses."""

from typing import NamedTuple


class Place(NamedTuple):
    """An IP address as 4 or 16 bytes, in network order, and a UDP port in host order."""

    host: bytes
    port: int

    @property
    def is_ipv6(self) -> bool:
        """True for an IPv6 address."""
        return len(self.host) == 16


class Packet(NamedTuple):
    """A datagram that a stream accepted. Source and destination are of one family."""

    arrived_ns: int
    """CLOCK_MONOTONIC, in nanoseconds."""
    source: Place
    to: Place
    """Our address and port; 0.0.0.0 or :: where the address is not known."""
    payload: bytes
