"""A file of whole lines under a header that several programs append to, and that may be moved away at any time.

Every write holds an fcntl lock on the whole file, as that of the C RTPproxy does (protocol.md 13.1). It is one call of
write(2); what that did not write whole is taken back. A half line that a killed program left is cut off before the next
line is written.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Sequence

log = logging.getLogger(__name__)

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: a pipe of that name must not hold up whoever opens it."""
_MODE = 0o666
"""Permission bits, as far as the umask leaves them."""
_MOST_HALF_BYTES = 1 << 16
"""Up to this length the rest of a file behind its last newline is taken for a half line."""


class LineFile:
    """Holds the file open. Each method may wait for the disk or for the lock, and raises OSError where it fails."""

    def __init__(self, path: str, header: bytes, owner: tuple[int, int] | None) -> None:
        """`header` is a line. `owner` is who gets a file that this process makes as root: user and group."""
        self.path = path
        self._header = header
        self._owner = owner
        self._descriptor = -1

    def open(self) -> None:
        """Open the file that has the path now, or make it.

        Fails also where it is no regular file, and where it begins with another line than the header.
        """
        self.close()
        descriptor = os.open(self.path, _FLAGS, _MODE)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
            self._prepare(descriptor)
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def append(self, lines: Sequence[bytes]) -> int:
        """Append lines, each with its newline, to the file that has the path now. Returns how many were written.

        Fewer than all where there was no room for more, and none if the file was removed meanwhile.
        """
        if not self._is_in_place():
            self.open()
        descriptor = self._descriptor
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            self._prepare(descriptor)
            data = b"".join(lines)
            written = os.write(descriptor, data)
            whole = data.rfind(b"\n", 0, written) + 1
            if whole < written:
                _take_back(descriptor, written - whole)
            # Lines in a file that was moved are where they should be; those in one that was removed are lost.
            is_removed = os.fstat(descriptor).st_nlink == 0
            return 0 if is_removed else data.count(b"\n", 0, whole)
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)

    def _is_in_place(self) -> bool:
        """Tell if the open file still has the path."""
        if self._descriptor < 0:
            return False
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _prepare(self, descriptor: int) -> None:
        """Write the header into an empty file, or cut off a half line. The lock must be held."""
        start = os.pread(descriptor, len(self._header), 0)
        if start == self._header:
            self._mend(descriptor)
        elif self._header.startswith(start):  # it is empty, or there was no room for all of the header
            os.ftruncate(descriptor, 0)
            self._write_header(descriptor)
        else:
            raise OSError(errno.EEXIST, "it exists, and does not begin with the header of these lines; move it away")

    def _write_header(self, descriptor: int) -> None:
        if self._owner is not None and os.geteuid() == 0 and os.fstat(descriptor).st_uid == 0:
            os.fchown(descriptor, *self._owner)
        if os.write(descriptor, self._header) < len(self._header):
            os.ftruncate(descriptor, 0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _mend(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if os.pread(descriptor, 1, size - 1) == b"\n":
            return
        length = min(size, _MOST_HALF_BYTES)
        end = os.pread(descriptor, length, size - length)
        if b"\n" not in end:
            raise OSError(errno.EINVAL, "its last line is longer than any of these; move it away")
        half = len(end) - end.rfind(b"\n") - 1
        os.ftruncate(descriptor, size - half)
        log.warning("%s: half a line was cut off, %d bytes", self.path, half)


def _take_back(descriptor: int, count: int) -> None:
    """Remove the last bytes of what was just written, unless a program that asks for no lock wrote behind them."""
    end = os.lseek(descriptor, 0, os.SEEK_CUR)
    if os.fstat(descriptor).st_size == end:
        os.ftruncate(descriptor, end - count)
