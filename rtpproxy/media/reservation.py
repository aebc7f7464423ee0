"""Keeps the kernel from giving media ports to programs that ask for any port (`net.ipv4.ip_local_reserved_ports`).

Steered ports are not bound, so the kernel does not know that they are taken. A note says what was added to the list,
before it is, so that a successor can take out what a killed relay left.
"""

import logging
from collections.abc import Collection
from pathlib import Path

from rtpproxy.media.ranges import Ranges, format_ranges, merge, parse_ranges, subtract
from rtpproxy.notes.ours import OurNote

log = logging.getLogger(__name__)

_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LEAST_EPHEMERAL = 1024
"""Ports that must be left for programs that ask for any port, of UDP or TCP."""


class Reservation:
    """The ports that this relay added to the kernel's list."""

    def __init__(self, note: OurNote) -> None:
        self._note = note
        self._ours: Ranges = []

    def make(self, first: int, last: int) -> None:
        """Reserve a range. If that is not permitted, log a warning."""
        try:
            self._make(first, last)
        except OSError as error:
            log.warning(
                "media ports %d-%d are not kept out of ephemeral allocation: %s; "
                "reserve them in net.ipv4.ip_local_reserved_ports yourself",
                *(first, last, error.strerror),
            )

    def undo(self) -> None:
        """Take this relay's range out of the list again."""
        if self._ours and take_out(self._ours):
            self._ours = []
            self._note.reserve("")

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
        self._note.reserve(format_ranges(ours).strip())
        try:
            _RESERVED.write_text(format_ranges(merge(before + ours)))
        except OSError:
            self._note.reserve("")
            raise
        self._ours = ours


def take_back(left: str, kept: Collection[str]) -> bool:
    """Take out what a killed relay added (`left`), but for what living ones added (`kept`); each in the kernel's form.

    False where that is not permitted, which is logged.
    """
    others: Ranges = [part for text in kept for part in parse_ranges(text)]
    return take_out(subtract(parse_ranges(left), others))


def take_out(ranges: Ranges) -> bool:
    """Take ranges out of the kernel's list; False where that is not permitted, which is logged."""
    try:
        listed = parse_ranges(_RESERVED.read_text())
        if subtract(listed, ranges) != listed:
            _RESERVED.write_text(format_ranges(subtract(listed, ranges)))
    except OSError as error:
        log.warning("media ports stay in net.ipv4.ip_local_reserved_ports: %s", error.strerror)
        return False
    return True
