"""Addresses of ours that media ports are on.

Every local address has a port space of its own, told by a small number, its *slot*. Addresses that are used while the
relay listens on all addresses of their family share the slot of that wildcard, whose ports would collide with theirs.
"""

from dataclasses import dataclass


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

    def key(self, port: int) -> int:
        """What tells a port from the same number in another port space."""
        return port_key(self.slot, port)


def port_key(slot: int, port: int) -> int:
    """One number for a port of a port space; for slot 0 it is the port."""
    return slot << 16 | port
