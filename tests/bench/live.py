"""The generator's process: runs a loaded XDP program on live frames, on one core, until it is ended by a signal."""

import ctypes
import os
import signal
import sys

from tests.bench.priority import put_first
from tests.bpf.prog_run import run_live

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arguments: the program's descriptor; frame size and the byte to fill it with; core; frames per batch; seconds to
    live at most.
    """
    prog_fd, frame_bytes, filler, cpu, batch_size, limit_s = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.alarm(limit_s)
    os.sched_setaffinity(0, {cpu})
    put_first(os.getpid())
    while True:
        run_live(prog_fd, bytes([filler]) * frame_bytes, batch_size=batch_size)


if __name__ == "__main__":
    main()
