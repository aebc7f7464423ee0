"""Ends a wait when somebody steps the wall clock: a timer that never expires, and that the kernel cancels then.

That needs no privilege (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), and tells of every step, however small.
"""

import ctypes
import errno
import os

_CLOCK_REALTIME = 0
_ABSOLUTE, _CANCEL_ON_SET = 1, 2
_NEVER_S = 1 << 62

_libc = ctypes.CDLL(None, use_errno=True)


class ClockSteps:
    """A descriptor for `poll`, readable once the clock was stepped, until that is taken note of."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._timer = _check(_libc.timerfd_create(_CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK))
        interval_and_expiry = (ctypes.c_long * 4)(0, 0, _NEVER_S, 0)
        _check(_libc.timerfd_settime(self._timer, _ABSOLUTE | _CANCEL_ON_SET, interval_and_expiry, None))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._timer

    def take(self) -> None:
        """Take note of a step, if there was one; the next one is told again."""
        try:
            os.read(self._timer, 8)
        except OSError as error:
            if error.errno not in (errno.ECANCELED, errno.EAGAIN):
                raise

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._timer)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
