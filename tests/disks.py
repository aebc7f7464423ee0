"""Disks that stall: whoever writes to one while it is frozen, as by fsfreeze(8), waits until it is thawed."""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import DEADLINE_S, wait_for

_FREEZE, _THAW = 0xC0045877, 0xC0045878
_BYTES = 128 << 20


class Disk:
    """A mounted file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """While this lasts, nothing is written, made, renamed or removed there."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, _FREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(directory, _THAW, 0)
        finally:
            os.close(directory)


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[Disk]:
    """An empty one, mounted in the directory; skip where there are no loop devices."""
    image, path = directory / "disk.img", directory / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        # Processes that write to it end by themselves, once they can.
        wait_for(lambda: not subprocess.run(["umount", path], check=False).returncode, DEADLINE_S, "the disk's release")


def is_waiting_for_a_disk(process: int) -> bool:
    """Tell whether a process waits where no signal can end it."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "D"
