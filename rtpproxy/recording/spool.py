"""Outputs in the spool that a killed relay left: they are finished, or named.

A file that is being written is locked (flock(2)), and the lock ends with the processes that hold it. So whoever can
lock a file in the spool knows that nobody writes it.
"""

import fcntl
import os
import stat
from collections.abc import Iterator

from rtpproxy.recording.file_output import mapped
from rtpproxy.recording.formats import find_format, find_whole
from rtpproxy.recording.messages import Found

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def lock(descriptor: int) -> bool:
    """Lock an open file as one that is being written; False if another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_needed(name: bytes, spool: int) -> bool:
    """Tell if a file in a spool (a descriptor) is being written, or has something in it; False if nobody can tell."""
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=spool)
    except OSError:
        return False
    try:
        return os.fstat(descriptor).st_size > 0 or not lock(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def finish_all(spool: int, directory: int) -> Iterator[Found]:
    """Move what nobody writes from the spool to the directory of recordings, cut after its last whole packet.

    Both are descriptors. A file stays in the spool if it is no recording, or if there is one of its name already.
    """
    for name in sorted(os.fsencode(entry) for entry in os.listdir(spool)):
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=spool)
        except OSError as error:
            yield Found(name, 0, False, error.strerror or str(error))
            continue
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and lock(descriptor):
                yield _finish(name, descriptor, spool, directory)
        except OSError as error:
            yield Found(name, 0, False, error.strerror or str(error))
        finally:
            os.close(descriptor)


def _finish(name: bytes, descriptor: int, spool: int, directory: int) -> Found:
    with mapped(descriptor) as data:
        kind = find_format(data)
        if kind is None:
            return Found(name, 0, False, "it is no recording")
        whole = find_whole(kind, data)
    os.ftruncate(descriptor, whole.kept_bytes)
    try:
        # Unlike rename(2), this replaces nothing.
        os.link(name, name, src_dir_fd=spool, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        return Found(name, whole.packets, False, "there is a recording of that name already")
    os.unlink(name, dir_fd=spool)
    return Found(name, whole.packets, True, "")
