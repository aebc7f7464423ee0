"""Tells what the kernel refuses for a reason that may pass, such as a lack of memory, from what stays refused."""

import errno

from rtpproxy.errors import OffloadError

_PASSING = frozenset(
    {
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EMFILE, errno.ENFILE),
        *(errno.ENOBUFS, errno.ENOMEM, errno.ETIMEDOUT),
    }
)


def is_passing(error: OffloadError) -> bool:
    """Tell if the reason may pass: it says nothing about the program, the driver or our privileges."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING
