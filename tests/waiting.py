"""Waiting for something outside the process: the only place in the tests that may sleep."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 60.0 * float(os.environ.get("SLOWNESS", "1"))
"""For all that must happen: so long that a busy machine keeps it. A test that passes does not wait for it.

`SLOWNESS=3` is for a machine that needs three times as long.
"""
_POLL_S = 0.002
_T = TypeVar("_T")


def wait_for(condition: Callable[[], _T], deadline_s: float, what: str, poll_s: float = _POLL_S) -> _T:
    """Poll `condition` until it is true and return its value; AssertionError naming `what` after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while True:
        is_last = time.monotonic() >= end
        value = condition()
        if value:
            return value
        if is_last:
            raise AssertionError(f"waited {deadline_s} s in vain for {what}; last value: {value!r}")
        time.sleep(poll_s)
