"""Commands of a call as a SIP proxy sends them, and what replies say (docs/protocol.md, sections 2, 3 and 14.1)."""

import re
from dataclasses import dataclass

_PORT_LINE = re.compile(r"(\d+)(?: (\S+))?(?: 6)?")
_TIER_LINE = re.compile(r"streams by (?!userspace)\S+: (\d+)")


class RefusedError(Exception):
    """A relay answered a command with something else than what was asked for."""


@dataclass(frozen=True)
class Place:
    """A media address in a command or in a reply. The address is empty where the reply has none."""

    address: str
    port: int

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.address


@dataclass(frozen=True)
class Dialog:
    """Names of a call. Tags carry the number of the media line, as Kamailio and OpenSIPS send it."""

    call_id: str
    from_tag: str
    to_tag: str

    def offer(self, caller: Place, modifiers: str, *, is_again: bool = False) -> str:
        """`U`: where the caller is; `is_again` for a re-INVITE."""
        to_tag = f" {self.to_tag};1" if is_again else ""
        return f"U{modifiers} {self.call_id} {caller.address} {caller.port} {self.from_tag};1{to_tag}"

    def answer(self, callee: Place, modifiers: str) -> str:
        """`L`: where the callee is."""
        return f"L{modifiers} {self.call_id} {callee.address} {callee.port} {self.from_tag};1 {self.to_tag};1"

    def end(self) -> str:
        """`D`."""
        return f"D {self.call_id} {self.from_tag} {self.to_tag}"


def family_modifiers(place: Place, peer: Place, given: str | None = None) -> str:
    """Say that an address is IPv6 and, where families differ, whom the reply is for (protocol.md 7.4), or `given`."""
    shown = f"[{peer.address}]" if peer.is_ipv6 else peer.address
    chosen = f"r{shown}" if place.is_ipv6 != peer.is_ipv6 else ""
    return ("6" if place.is_ipv6 else "") + (chosen if given is None else given)


def read_port_line(command: str, reply: str) -> Place:
    """Read the reply to `U` or `L`. Raises RefusedError."""
    match = _PORT_LINE.fullmatch(reply)
    if match is None or not int(match[1]):
        raise RefusedError(f"{command!r} was answered {reply!r} and not with a port")
    return Place(match[2] or "", int(match[1]))


def read_kernel_streams(reply: str) -> int | None:
    """Read from the answer to `It` how many streams the kernel forwards; None from a relay that does not tell."""
    if "streams by userspace: " not in reply:
        return None
    return sum(int(count) for count in _TIER_LINE.findall(reply))
