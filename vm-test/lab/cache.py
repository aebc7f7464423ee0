"""What takes long to make is kept under a hash of all that it was made from."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from lab import enclosure
from lab.progress import say

ENVIRONMENT = "VM_TEST_CACHE"
_USED = "used"
"""A file in a made directory, locked by those who use it."""


def default_directory() -> Path:
    """`$VM_TEST_CACHE`, else a directory in the user's cache (XDG Base Directory Specification)."""
    if chosen := os.environ.get(ENVIRONMENT):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtpproxy-vm-test"


def hash_of(*parts: str | bytes) -> str:
    """A key of 16 hexadecimal digits; the same parts in the same order give the same key."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(content) + content)
    return digest.hexdigest()[:16]


class Cache:
    """Directories of made things: `NAME.KEY`, one key of a name at a time.

    What is being made has another name until it is complete. A lock for each name, which ends with its process, keeps
    two runs from making the same; so whatever is half made when the lock is had was left by a run that was killed.
    As a context manager it keeps what was got from it until its end.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._used: list[TextIO] = []

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        for used in self._used:
            used.close()

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the lock of a name; say so if another run has it."""
        with open(self._directory / f"{name}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another run, which makes {name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def get(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """The directory of `name` with this key, which stays while this cache is open; `make` fills it if it is absent.

        Other keys of the name are removed then, but for those that another run uses.
        """
        wanted = self._directory / f"{name}.{key}"
        with self._locked(name):
            if not wanted.is_dir():
                making = self._directory / f"{name}.making"
                if making.exists():
                    enclosure.remove(making)
                making.mkdir()
                make(making)
                for old in self.kept(name):
                    self._remove_unused(old)
                making.rename(wanted)
            self._use(wanted)
        return wanted

    def use(self, directory: Path) -> Path:
        """Keep a complete directory while this cache is open."""
        self._use(directory)
        return directory

    def _use(self, directory: Path) -> None:
        used = open(directory / _USED, "w")  # noqa: SIM115 - it has the lock until __exit__
        fcntl.flock(used, fcntl.LOCK_SH)
        self._used.append(used)

    def _remove_unused(self, directory: Path) -> None:
        with open(directory / _USED, "w") as used:
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            enclosure.remove(directory)

    def kept(self, name: str) -> list[Path]:
        """The directories of a name, complete ones only, newest first."""
        found = [path for path in self._directory.glob(f"{name}.*") if path.is_dir() and path.suffix != ".making"]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
