"""Locks single bytes of a file (F_OFD_SETLK of fcntl(2)). The kernel frees them when the process ends, however it ends.

To lock a byte, the file must be open for writing. So who may only read a file can see the locks, but can neither hold
one nor pretend that somebody does; with flock(2) anybody who may read could. Readers can have locks of another kind
(F_RDLCK), which hinder those who write, but do not count as taken.
"""

import errno
import fcntl
import os
import struct

_FLOCK = struct.Struct("@hhqqi0q")
"""`struct flock`: type, whence, start, length, process."""


ALIVE, CLEARING = 0, 1
"""The bytes of a note that are locked: by its relay, while that lives; by a successor that undoes what it says."""


def take(fd: int, byte: int) -> bool:
    """Lock a byte; False if another open file has it. Raises OSError."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _describe(fcntl.F_WRLCK, byte))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def take_from_readers(fd: int, byte: int) -> bool:
    """Lock a byte, or find that only locks of who may only read are in the way; False if it is taken. Raises OSError.

    With a file that is open for reading only, nothing is locked.
    """
    try:
        if take(fd, byte):
            return True
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    return not is_taken(fd, byte)


def release(fd: int, byte: int) -> None:
    """Free a byte. Raises OSError."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _describe(fcntl.F_UNLCK, byte))


def is_taken(fd: int, byte: int) -> bool:
    """Tell whether another open file has locked a byte. The file may be open for reading only. Raises OSError."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _describe(fcntl.F_RDLCK, byte))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _describe(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
