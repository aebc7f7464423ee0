"""The first process of an enclosure: runs a command, and ends as soon as whoever started it has ended, in whatever way.

    python first.py DESCRIPTOR COMMAND...

The descriptor is the reading end of a pipe, whose other end only the starter has. With the first process of a process
namespace the kernel ends all others of it (pid_namespaces(7)).
"""

import os
import signal
import subprocess
import sys
import threading


def end_with_starter(descriptor: int) -> None:
    """Wait for the end of the pipe, and be gone."""
    os.read(descriptor, 1)
    os._exit(128 + signal.SIGKILL)


def main(descriptor: int, command: list[str]) -> int:
    """Run the command; its exit status."""
    os.set_inheritable(descriptor, False)
    threading.Thread(target=end_with_starter, args=(descriptor,), daemon=True).start()
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the command, too
    status = subprocess.run(command, check=False).returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
