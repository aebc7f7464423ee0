"""The directory of recordings and that of the spool, in which the relay makes files.

A name is checked before it comes here (`names`). Files are made by descriptors of the directories, so that they are in
them whatever happens to the path, and anew: what had the name before, a link too, is replaced and not followed.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from rtpproxy.config import Config
from rtpproxy.errors import RecordingError, StartError
from rtpproxy.recording import spool
from rtpproxy.recording.disk import Disk

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AGAIN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MODE = 0o666
"""Permission bits, as far as the umask leaves them (protocol.md 8.2)."""


class Identity(NamedTuple):
    """Tells a file from another one that has its name later."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Made:
    """A file that was made or opened again; the holder closes the descriptor."""

    descriptor: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was found and made on the disk."""

    directory: int
    """Descriptor of the directory that the files are in."""
    changed: Mapping[int, Made]
    """Directories that have the paths by now, by number of the path, all of them open."""
    files: list[Made] = field(default_factory=list)

    def undo(self, names: Sequence[bytes]) -> None:
        """Remove the files, and close everything."""
        for name, file in zip(names, self.files, strict=False):
            with suppress(OSError):
                os.unlink(name, dir_fd=self.directory)
            os.close(file.descriptor)
        for directory in self.changed.values():
            os.close(directory.descriptor)


class Directories:
    """The two directories of one relay, or the one, if it has no spool."""

    def __init__(self, directory: str, spool_directory: str) -> None:
        """Both are absolute paths; the second is empty without a spool. Raises StartError if one cannot be used."""
        self._paths = [path for path in (directory, spool_directory) if path]
        self._disk = Disk()
        self._opened: list[int] = []
        self._identities: list[Identity] = []
        try:
            for path in self._paths:
                self._opened.append(_open(path))
                self._identities.append(_identity(self._opened[-1]))
        except OSError as error:
            flag = ("-r", "-S")[len(self._opened)]
            self.close()
            raise StartError(f"{flag} {path}: {error.strerror}") from error
        if len(set(self._identities)) < len(self._identities):
            self.close()
            raise StartError(f"-S {spool_directory} is the directory of -r; leave it out to have no spool")
        if len({identity.device for identity in self._identities}) > 1:
            self.close()
            raise StartError(
                f"-S {spool_directory} and -r {directory} are on different file systems: recordings could not be moved"
            )

    @property
    def is_spooling(self) -> bool:
        """True if there is a spool."""
        return len(self._paths) > 1

    def close(self) -> None:
        """Let go of the directories, unless the disk hangs: then the end of the process does so."""
        while self._opened and not self._disk.is_busy:
            os.close(self._opened.pop())

    def duplicate(self) -> list[int]:
        """Return descriptors of the directories, for the caller to close. Raises OSError."""
        duplicates: list[int] = []
        try:
            for descriptor in self._opened:
                duplicates.append(os.dup(descriptor))
        except OSError:
            for descriptor in duplicates:
                os.close(descriptor)
            raise
        return duplicates

    def objections(self) -> list[str]:
        """List in words what keeps files from being made or moved, as far as it can be told before."""
        said = [
            f"{path}: this user may not make files there"
            for path in self._paths
            if not os.access(path, os.W_OK | os.X_OK, effective_ids=True)
        ]
        owners = [os.fstat(descriptor).st_uid for descriptor in self._opened]
        if os.geteuid() == 0 and len(set(owners)) > 1:
            # The process that writes becomes the owner of the first.
            said.append(
                f"{self._paths[1]}: it has another owner than {self._paths[0]}, who may not move files out of it"
            )
        return said

    def has_leftovers(self) -> bool:
        """Tell if there is anything in the spool."""
        return self.is_spooling and bool(os.listdir(self._opened[-1]))

    def make(self, names: Sequence[bytes]) -> tuple[list[Made], bool]:
        """Make files of these names, all or none, in the spool or, without one, in the directory of recordings.

        If other directories have the paths by now, for instance mounted ones, these are used from now on, and True is
        returned. Waits for the disk no longer than `disk.WAIT_S`. Raises RecordingError.
        """
        opened, paths, identities = self._opened[-1], tuple(self._paths), tuple(self._identities)
        made = self._disk.do(lambda: _look_and_make(opened, paths, identities, names), lambda late: late.undo(names))
        for number, directory in made.changed.items():
            os.close(self._opened[number])
            self._opened[number], self._identities[number] = directory.descriptor, directory.identity
        return made.files, bool(made.changed)

    def reopen(self, name: bytes, spool_name: bytes, identity: Identity) -> tuple[Made, bool] | None:
        """Open a file again that was made here, if it is still there. True says that it was moved already."""
        places = [(name, self._opened[0], True)]
        if spool_name:
            places.insert(0, (spool_name, self._opened[-1], False))
        for one, directory, is_in_place in places:
            try:
                descriptor = os.open(one, _AGAIN, dir_fd=directory)
            except OSError:
                continue
            if _identity(descriptor) == identity:
                spool.lock(descriptor)
                return Made(descriptor, identity), is_in_place
            os.close(descriptor)
        return None


def of_config(config: Config) -> Directories | None:
    """Open the directories of a configuration; None if it names none. Raises StartError."""
    return Directories(config.record_directory, config.spool_directory) if config.record_directory else None


def _look_and_make(
    opened: int, paths: Sequence[str], identities: Sequence[Identity], names: Sequence[bytes]
) -> _Outcome:
    """Find directories that have changed, and make files in the last one; `opened` is that of before.

    For the thread of the disk: nothing that the event loop changes meanwhile is used. Raises RecordingError.
    """
    changed = _changed(paths, identities)
    last = changed.get(len(paths) - 1)
    made = _Outcome(opened if last is None else last.descriptor, changed)
    for name in names:
        try:
            made.files.append(_make(made.directory, name))
        except OSError as error:
            made.undo(names)
            raise RecordingError(f"cannot make {repr(name)[2:-1]} in {paths[-1]}: {error.strerror}") from error
    return made


def _changed(paths: Sequence[str], identities: Sequence[Identity]) -> dict[int, Made]:
    """Open the directories that have the paths by now, if these are others.

    A path that leads nowhere, or where we may not go, changes nothing.
    """
    found = {}
    for number, path in enumerate(paths):
        try:
            about = os.stat(path)
            if Identity(about.st_dev, about.st_ino) != identities[number]:
                opened = _open(path)
                found[number] = Made(opened, _identity(opened))
        except OSError:
            continue
    return found


def _make(directory: int, name: bytes) -> Made:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    descriptor = os.open(name, _NEW, _MODE, dir_fd=directory)
    spool.lock(descriptor)
    return Made(descriptor, _identity(descriptor))


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _identity(descriptor: int) -> Identity:
    found = os.fstat(descriptor)
    return Identity(found.st_dev, found.st_ino)
