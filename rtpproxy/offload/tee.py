"""The ring that the kernel writes packets of teed streams into, made when something is teed for the first time.

Its memory is there only from then on. Who empties it is another process, which gets the descriptor (`recording.ring`).
"""

import os
from typing import NamedTuple

from rtpproxy.errors import OffloadError
from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.maps import CalledMap
from rtpproxy.offload.syscall import make_map, ring

_NUMBERS = "arrived_ns", "tee", "payload_bytes", "is_ipv6"


class OpenRing(NamedTuple):
    """What a reader needs to know of the ring: a descriptor, numbers and a string, which can be sent to a process."""

    fd: int
    size_bytes: int
    numbers: str
    """Form (as in `struct`) of what a record begins with: arrived_ns, tee, payload_bytes, is_ipv6."""
    record_bytes: int
    """Size of a record without its payload; the headers of the packet end there."""


class Tee:
    """The tee of one running relay. Needs CAP_BPF whenever the ring is made, where unprivileged bpf(2) is off."""

    def __init__(self, loaded: Loaded, size_bytes: int) -> None:
        """`size_bytes` is a power of two, and no less than a page."""
        self._rings = CalledMap(loaded.map_fds["tee_rings"], loaded.layouts["tee_rings"])
        self._record = loaded.layouts["tee_kept"].value
        self._size_bytes = size_bytes
        self._fd = -1

    def open(self) -> OpenRing:
        """Make the ring, unless it is there, and let the kernel write to it. Raises OffloadError."""
        if self._fd < 0:
            self._fd = self._make()
        return OpenRing(self._fd, self._size_bytes, self._record.packer(*_NUMBERS).format, self._record.size)

    def _make(self) -> int:
        try:
            fd = make_map(ring(self._size_bytes))
        except OSError as error:
            raise OffloadError(
                f"cannot make a ring of {self._size_bytes} bytes for packets of recorded streams: {error.strerror}; "
                "see --tee-memory"
            ) from error
        try:
            self._rings.write(0, fd)
        except OSError as error:
            os.close(fd)
            raise OffloadError(f"cannot let the kernel write to the ring: {error.strerror}") from error
        return fd

    def close(self) -> None:
        """Let go of the ring; programs that are still attached, and a reader, keep it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
