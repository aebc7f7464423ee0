"""What the note of a relay says: lines that are only ever added, the later ones taking precedence.

A line counts once its line feed is there, so a relay that is killed while it writes leaves a note that can be read.
Lines that make no sense, and those of later versions, are passed over.
"""

import re
from dataclasses import dataclass, field

_HEAD = re.compile(r"relay ([0-9]{1,10}) boot=([0-9a-f-]{1,64}) namespace=([0-9a-z]{1,64})")
_CLAIM = re.compile(r"claim (\*|[0-9a-f.:]{1,45}) ([0-9]{1,5})-([0-9]{1,5}) (steered|bound)")
_UNCLAIM = re.compile(r"unclaim (\*|[0-9a-f.:]{1,45})")
_RESERVED = re.compile(r"reserved ((?:[0-9]{1,5}-[0-9]{1,5}(?:,[0-9]{1,5}-[0-9]{1,5})*)?)")
_PROGRAMS = re.compile(r"programs((?: [0-9]{1,10}){0,64})")
_SOCKET = re.compile(r"socket ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20})")

Mark = tuple[int, int, int]
"""Device, inode, and time of the last change of the inode in nanoseconds, of a file."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a relay runs, as far as others can tell."""

    boot: str
    """Differs each time the kernel was started."""
    namespace: str
    """Tells one network namespace from the others of this boot."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The media ports of a relay on one local address."""

    host: str
    """The address; `*` or `::` for all of a family."""
    first: int
    last: int
    is_steered: bool


@dataclass(slots=True)
class Contents:
    """What a note says as a whole."""

    process: int
    """ID of the process, in its own PID namespace."""
    place: Place
    claims: dict[str, Claim] = field(default_factory=dict)
    """By host."""
    reserved: str = ""
    """What the relay added to `ip_local_reserved_ports`, in the kernel's form."""
    programs: frozenset[int] = frozenset()
    """IDs of the programs that it may have attached to interfaces."""
    sockets: set[Mark] = field(default_factory=set)
    """The files of its control sockets."""


def head_line(process: int, place: Place) -> str:
    """Write the first line of a note."""
    return f"relay {process} boot={place.boot} namespace={place.namespace}"


def claim_line(claim: Claim) -> str:
    """Write that the relay has these ports from now on."""
    return f"claim {claim.host} {claim.first}-{claim.last} {'steered' if claim.is_steered else 'bound'}"


def unclaim_line(host: str) -> str:
    """Write that the relay has no ports on an address any more."""
    return f"unclaim {host}"


def reserved_line(ranges: str) -> str:
    """Write what the relay added to the kernel's list of reserved ports; empty when it took that out again."""
    return f"reserved {ranges}"


def programs_line(programs: frozenset[int]) -> str:
    """Write the IDs of the programs that the relay may attach."""
    return " ".join(("programs", *map(str, sorted(programs))))


def socket_line(mark: Mark) -> str:
    """Write that the relay made the file of a control socket."""
    return "socket {} {} {}".format(*mark)


def parse(text: str) -> Contents | None:
    """Read a note; None if it does not begin as one, as when it is empty."""
    first, *lines = text.split("\n")[:-1] or [""]
    head = _HEAD.fullmatch(first)
    if head is None:
        return None
    contents = Contents(int(head[1]), Place(head[2], head[3]))
    for line in lines:
        _read(line, contents)
    return contents


def _read(line: str, contents: Contents) -> None:
    if found := _CLAIM.fullmatch(line):
        contents.claims[found[1]] = Claim(found[1], int(found[2]), int(found[3]), found[4] == "steered")
    elif found := _UNCLAIM.fullmatch(line):
        contents.claims.pop(found[1], None)
    elif found := _RESERVED.fullmatch(line):
        contents.reserved = found[1]
    elif found := _PROGRAMS.fullmatch(line):
        contents.programs = frozenset(int(number) for number in found[1].split())
    elif found := _SOCKET.fullmatch(line):
        contents.sockets.add((int(found[1]), int(found[2]), int(found[3])))
