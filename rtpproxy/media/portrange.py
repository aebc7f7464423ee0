"""Reserves the media port range, and detects overlap with other relays on the host.

Steered ports are not bound, so the kernel does not know that they are taken. Two things make up for that. Each relay
holds an abstract Unix socket, whose name carries address and range for the others to read, and which disappears with
the process. And until exit the kernel does not give ports of the range to programs that ask for any port
(`net.ipv4.ip_local_reserved_ports`); a note under /run lets a successor undo what a killed relay left.
"""

import logging
import os
import re
import socket
from pathlib import Path

from rtpproxy.addr import is_ipv6
from rtpproxy.config import NOTES_DIRECTORY
from rtpproxy.errors import StartError
from rtpproxy.media.sockets import check_ours
from rtpproxy.session.local import LocalAddress

log = logging.getLogger(__name__)

_CLAIM = "rtpproxy/media/"
_CLAIMS = re.compile(
    rf" @({_CLAIM}([0-9a-f.:]+|\*)/([0-9]{{1,5}})-([0-9]{{1,5}})/(steered|bound)/([0-9]+)/[0-9]+)$", re.MULTILINE
)
_WILDCARDS = {False: "*", True: "::"}
"""The name in a claim for all addresses of a family, by `is_ipv6`."""
_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LEAST_EPHEMERAL = 1024
"""Ports that must be left for programs that ask for any port, of UDP or TCP."""
_NOTES = Path(NOTES_DIRECTORY)
Ranges = list[tuple[int, int]]
"""First and last port of each range, in ascending order."""


def check_local(address: LocalAddress) -> None:
    """Check that a listen address is one of this host's. Raises StartError if not."""
    try:
        check_ours(address)
    except OSError as error:
        raise StartError(f"listen address {_written(address)} cannot be used: {error.strerror}") from error


class Claims:
    """Tells other relays in this network namespace about our ports, until `close`."""

    def __init__(self, first: int, last: int, *, is_steered: bool) -> None:
        self._first, self._last = first, last
        self._is_steered = is_steered
        self._holders: dict[str, tuple[str, socket.socket]] = {}
        """By address: the name of the claim, and the socket that has this name."""

    def add(self, address: LocalAddress) -> None:
        """Claim the ports on an address.

        Raises StartError when the ports of a running relay overlap, and at least one of the two steers its ports; two
        relays that bind theirs notice by themselves which are taken. If two relays claim at the same moment, at least
        one is refused, possibly both.
        """
        host = _written(address)
        if host in self._holders:
            return
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        way = "steered" if self._is_steered else "bound"
        # Processes in two containers may have the same ID; the socket's inode is unique on the host.
        numbers = f"{os.getpid()}/{os.fstat(holder.fileno()).st_ino}"
        name = f"{_CLAIM}{host}/{self._first}-{self._last}/{way}/{numbers}"
        self._holders[host] = name, holder
        holder.bind(f"\0{name}")
        ours = {name for name, _ in self._holders.values()}
        try:
            for claim in _CLAIMS.finditer(Path("/proc/net/unix").read_text(errors="replace")):
                if claim[1] not in ours:
                    self._check_overlap(claim, address)
        except StartError:
            self.remove(address)
            raise

    def remove(self, address: LocalAddress) -> None:
        """Give up the claim on an address."""
        _, holder = self._holders.pop(_written(address))
        holder.close()

    def close(self) -> None:
        """Give up all claims."""
        for _, holder in self._holders.values():
            holder.close()
        self._holders.clear()

    def _check_overlap(self, other: re.Match[str], address: LocalAddress) -> None:
        host, low, high, way, process = other[2], int(other[3]), int(other[4]), other[5], other[6]
        ours, wildcard = _written(address), _WILDCARDS[address.is_ipv6]
        is_same_host = host == ours or (is_ipv6(host) == address.is_ipv6 and wildcard in (host, ours))
        is_overlapping = low <= self._last and self._first <= high
        if is_same_host and is_overlapping and (self._is_steered or way == "steered"):
            raise StartError(
                f"media ports {self._first}-{self._last} overlap {low}-{high} of the rtpproxy that runs as process "
                f"{process}: give each instance a range of its own with -m and -M"
            )


def _written(address: LocalAddress) -> str:
    return address.host or _WILDCARDS[address.is_ipv6]


class Reservation:
    """Keeps the kernel from giving ports of the media range to programs that ask for any port."""

    def __init__(self, instance: str) -> None:
        """`instance` names this relay among those of the host, as part of a file name."""
        self._note = _NOTES / f"{instance}-{os.stat('/proc/self/ns/net').st_ino}.reserved"

    def make(self, first: int, last: int) -> None:
        """Reserve a range. If that is not permitted, log a warning."""
        try:
            self._undo()
            self._make(first, last)
        except OSError as error:
            log.warning(
                "media ports %d-%d are not kept out of ephemeral allocation: %s; "
                "reserve them in net.ipv4.ip_local_reserved_ports yourself",
                *(first, last, error.strerror),
            )

    def hand_over(self, uid: int, gid: int) -> None:
        """Let a user who is not root `undo` what `make` added."""
        if self._note.exists():
            os.chown(self._note, uid, gid)

    def undo(self) -> None:
        """Take this instance's range out of the list again."""
        try:
            self._undo()
        except OSError as error:
            log.warning("the media ports stay in net.ipv4.ip_local_reserved_ports: %s", error.strerror)

    def _make(self, first: int, last: int) -> None:
        before = parse_ranges(_RESERVED.read_text())
        ours = subtract([(first, last)], before)
        low, high = (int(port) for port in _EPHEMERAL.read_text().split())
        left = sum(end - start + 1 for start, end in subtract([(low, high)], before + ours))
        if left < LEAST_EPHEMERAL:
            log.warning(
                "media ports %d-%d are not kept out of ephemeral allocation: only %d of the ports %d-%d would be "
                "left for other programs; narrow the range with -m and -M",
                *(first, last, left, low, high),
            )
            return
        _NOTES.mkdir(mode=0o755, exist_ok=True)
        self._note.write_text(format_ranges(ours))
        try:
            _RESERVED.write_text(format_ranges(merge(before + ours)))
        except OSError:
            self._note.unlink()
            raise

    def _undo(self) -> None:
        """Take back what the note says: added by this process, or by one that was killed."""
        try:
            ours = parse_ranges(self._note.read_text())
        except FileNotFoundError:
            return
        if ours:
            _RESERVED.write_text(format_ranges(subtract(parse_ranges(_RESERVED.read_text()), ours)))
        try:
            self._note.unlink()
        except PermissionError:
            # Root owns the directory, the user of `-u` the note: an empty note says that nothing is left to do.
            self._note.write_text("")


def parse_ranges(text: str) -> Ranges:
    """Read the kernel's form, `1000,2000-2010`."""
    ranges = []
    for part in text.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            ranges.append((int(low), int(high or low)))
    return ranges


def format_ranges(ranges: Ranges) -> str:
    """Write the kernel's form; without the line feed the kernel would not accept an empty list."""
    return ",".join(f"{low}-{high}" for low, high in ranges) + "\n"


def merge(ranges: Ranges) -> Ranges:
    """Return the same ports in as few ranges as possible."""
    merged: Ranges = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def subtract(ranges: Ranges, taken: Ranges) -> Ranges:
    """Return the ports of `ranges` that are not in `taken`."""
    left = merge(ranges)
    for low, high in taken:
        pieces = []
        for start, end in left:
            pieces += [(start, min(end, low - 1)), (max(start, high + 1), end)]
        left = [(start, end) for start, end in merge([piece for piece in pieces if piece[0] <= piece[1]])]
    return left
