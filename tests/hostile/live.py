"""The process of a flood: runs a loaded XDP program on live frames, on one core, until it is ended by a signal."""

import ctypes
import os
import signal
import sys

from tests.bpf.prog_run import run_live

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arguments: the program's descriptor, the frame size, the core, seconds to live at most."""
    prog_fd, frame_bytes, cpu, limit_s = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.alarm(limit_s)
    os.sched_setaffinity(0, {cpu})
    while True:
        run_live(prog_fd, bytes(frame_bytes))


if __name__ == "__main__":
    main()
