"""Tells other relays on this host which media ports are ours, and detects overlap with theirs.

Steered ports are not bound, so the kernel does not know that they are taken. Each relay writes its ports into its
note, which the others read. Ports of relays that this user cannot trust are not in any note that is read: theirs are
bound, because steering needs root's privileges, and steered ports are never given while another program has them bound.
"""

from rtpproxy.addr import is_ipv6
from rtpproxy.errors import StartError
from rtpproxy.media.sockets import WILDCARDS, written
from rtpproxy.notes.contents import Claim
from rtpproxy.notes.notes import Notes
from rtpproxy.session.local import LocalAddress


class Claims:
    """Our claims, each for the ports on one address, until `close`."""

    def __init__(self, notes: Notes, first: int, last: int, *, is_steered: bool) -> None:
        self._notes = notes
        self._first, self._last = first, last
        self._is_steered = is_steered
        self._hosts: set[str] = set()

    def add(self, address: LocalAddress) -> None:
        """Claim the ports on an address.

        Raises StartError when the ports of a running relay overlap, and at least one of the two steers its ports; two
        relays that bind theirs notice by themselves which are taken. If two relays claim at the same moment, at least
        one is refused, possibly both.
        """
        claim = Claim(written(address), self._first, self._last, self._is_steered)
        if claim.host in self._hosts:
            return
        self._hosts.add(claim.host)
        self._notes.ours.claim(claim)
        for other in self._notes.living():
            theirs = next((one for one in other.claims.values() if _is_in_conflict(claim, one)), None)
            if theirs is not None and self._notes.is_here(other.place):
                self.remove(address)
                raise StartError(
                    f"media ports {self._first}-{self._last} overlap {theirs.first}-{theirs.last} of the rtpproxy that "
                    f"runs as process {other.process}: give each instance a range of its own with -m and -M"
                )

    def remove(self, address: LocalAddress) -> None:
        """Give up the claim on an address."""
        host = written(address)
        self._hosts.discard(host)
        self._notes.ours.unclaim(host)


def _is_in_conflict(one: Claim, other: Claim) -> bool:
    is_same_family = is_ipv6(one.host) == is_ipv6(other.host)
    is_wildcard = not {one.host, other.host}.isdisjoint(WILDCARDS.values())
    is_same_host = one.host == other.host or (is_same_family and is_wildcard)
    is_overlapping = other.first <= one.last and one.first <= other.last
    return is_same_host and is_overlapping and (one.is_steered or other.is_steered)
