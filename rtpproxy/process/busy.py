"""Tells how long the thread that asks ran, or wanted to run and waited for a processor.

It waits while other programs have the processor, or the quota of a control group is used up. The kernel counts both
(`/proc/<pid>/schedstat`, Documentation/scheduler/sched-stats.rst: nanoseconds running, nanoseconds waiting, turns).
"""

import os
from collections.abc import Callable
from pathlib import Path

THREAD = Path("/proc/thread-self")
_BYTES = 64


class BusyTime:
    """The time of the thread that makes it, to be called by that thread: seconds since it began."""

    def __init__(self, thread_time: Callable[[], float], thread: Path = THREAD) -> None:
        """`thread_time` is the processor time of the thread that calls it, for kernels that do not count the rest."""
        self._thread_time = thread_time
        try:
            self._file: int | None = os.open(thread / "schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._file = None  # built without CONFIG_SCHED_INFO, or /proc is not there

    def __call__(self) -> float:
        """Return the seconds that it ran or waited; those that it ran, where the kernel does not count the others."""
        if self._file is None:
            return self._thread_time()
        ran_ns, waited_ns, _ = os.pread(self._file, _BYTES, 0).split()
        return (int(ran_ns) + int(waited_ns)) / 1e9

    def close(self) -> None:
        """Close the kernel's file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
