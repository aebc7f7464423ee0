"""The directory of recordings and the spool, in which the relay makes files, so that those in the first are complete.

Without a directory for it, the spool is one of our own, hidden in the directory of recordings (`UNFINISHED`).

A name is checked before it comes here (`names`). Files are made by descriptors of the directories, so that they are in
them whatever happens to the path, and anew: a link of that name is replaced and not followed, and a file that has
something in it keeps its name.
"""

import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rtpproxy.config import Config
from rtpproxy.errors import RecordingError, StartError
from rtpproxy.recording import names, spool
from rtpproxy.recording.disk import Disk

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AGAIN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MODE = 0o666
"""Permission bits, as far as the umask leaves them (protocol.md 8.2)."""
_INHERITED = 0o1777
"""Permission bits that our own spool is made with; it has that of the group (S_ISGID) by itself then (mkdir(2))."""
UNFINISHED = ".unfinished"
"""Name of our own spool. No recording can have it (`names.check`)."""


class Identity(NamedTuple):
    """Tells a file from another one that has its name later."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Made:
    """A file that was made or opened again; the holder closes the descriptor."""

    descriptor: int
    identity: Identity
    name: bytes = b""
    """Of a file that was made, in the spool."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was found and made on the disk."""

    spool: int
    """Descriptor of the spool, which the files are in."""
    changed: Mapping[int, Made]
    """Directories that have taken the place of those of before, open: of recordings (0), the spool (1)."""
    files: list[Made] = field(default_factory=list)

    def undo(self) -> None:
        """Remove the files, and close everything."""
        for file in self.files:
            with suppress(OSError):
                os.unlink(file.name, dir_fd=self.spool)
            os.close(file.descriptor)
        _close(self.changed.values())


class Directories:
    """The two directories of one relay."""

    def __init__(self, directory: str, spool_directory: str) -> None:
        """Both are absolute paths; the second is empty for a spool of our own, which is made later.

        Raises StartError if one cannot be used.
        """
        self._paths = [path for path in (directory, spool_directory) if path]
        self._disk = Disk()
        self._opened: list[Made] = []
        """The directory of recordings; the spool, once it is there."""
        try:
            for path in self._paths:
                self._opened.append(_open(path))
        except OSError as error:
            flag = ("-r", "-S")[len(self._opened)]
            self.close()
            raise StartError(f"{flag} {path}: {error.strerror}") from error
        identities = [one.identity for one in self._opened]
        if len(set(identities)) < len(identities):
            self.close()
            raise StartError(f"-S {spool_directory} is the directory of -r; leave it out for a hidden spool in there")
        if len({(one.identity.device, _mount(one.descriptor)) for one in self._opened}) > 1:
            self.close()
            raise StartError(
                f"-S {spool_directory} and -r {directory} are on different file systems, or mounts of one: "
                "recordings could not be moved; leave -S out for a hidden spool in the directory of recordings"
            )

    @property
    def spool_path(self) -> str:
        """The path of the spool."""
        return self._paths[1] if len(self._paths) > 1 else os.path.join(self._paths[0], UNFINISHED)

    def close(self) -> None:
        """Let go of the directories, unless the disk hangs: then the end of the process does so."""
        while self._opened and not self._disk.is_busy:
            os.close(self._opened.pop().descriptor)

    def duplicate(self) -> list[int]:
        """Return descriptors of the directory of recordings and, if it is there, of the spool. Raises OSError.

        The caller closes them.
        """
        duplicates: list[int] = []
        try:
            for one in self._opened:
                duplicates.append(os.dup(one.descriptor))
        except OSError:
            for descriptor in duplicates:
                os.close(descriptor)
            raise
        return duplicates

    def prepare(self) -> list[str]:
        """Make our own spool, and list in words what keeps files from being made or moved, as far as it shows now.

        To be called once the process is the user that it will be.
        """
        said = [f"{path}: this user may not make files there" for path in self._paths if not _may_write(path)]
        if not said:
            try:
                self._use(_look(self._opened, self._paths))
            except RecordingError as error:
                return [str(error)]
        owners = [os.fstat(one.descriptor).st_uid for one in self._opened]
        if os.geteuid() == 0 and len(set(owners)) > 1:
            # The process that writes becomes the owner of the first.
            said.append(
                f"{self.spool_path}: it has another owner than {self._paths[0]}, who may not move files out of it"
            )
        return said

    def has_leftovers(self) -> bool:
        """Tell if there is anything in the spool."""
        return len(self._opened) > 1 and bool(os.listdir(self._opened[1].descriptor))

    def make(self, wanted: Sequence[bytes]) -> tuple[list[Made], bool]:
        """Make files of these names in the spool, or of others where these are needed there; all or none.

        If other directories have the paths by now, for instance mounted ones, these are used from now on, and True is
        returned. Waits for the disk no longer than `disk.WAIT_S`. Raises RecordingError.
        """
        opened, paths = tuple(self._opened), tuple(self._paths)
        made = self._disk.do(lambda: _look_and_make(opened, paths, wanted), _Outcome.undo)
        self._use(made.changed)
        return made.files, bool(made.changed)

    def _use(self, changed: Mapping[int, Made]) -> None:
        for number, directory in sorted(changed.items()):
            if number < len(self._opened):
                os.close(self._opened[number].descriptor)
            self._opened[number : number + 1] = [directory]

    def reopen(self, name: bytes, spool_name: bytes, identity: Identity) -> tuple[Made, bool] | None:
        """Open a file again that was made here, if it is still there. True says that it was moved already.

        Waits for the disk no longer than `disk.WAIT_S`. Raises RecordingError.
        """
        places = [(name, self._opened[0].descriptor, True)]
        if spool_name:
            places.insert(0, (spool_name, self._opened[-1].descriptor, False))
        return self._disk.do(lambda: _find(places, identity), _let_go)


def of_config(config: Config) -> Directories | None:
    """Open the directories of a configuration; None if it names none. Raises StartError."""
    return Directories(config.record_directory, config.spool_directory) if config.record_directory else None


def _look_and_make(opened: Sequence[Made], paths: Sequence[str], wanted: Sequence[bytes]) -> _Outcome:
    """Find directories that have changed, and make files in the spool; `opened` are those of before.

    For the thread of the disk: nothing that the event loop changes meanwhile is used. Raises RecordingError.
    """
    changed = _look(opened, paths)
    made = _Outcome((changed.get(1) or opened[1]).descriptor, changed)
    writer = os.fstat((changed.get(0) or opened[0]).descriptor).st_uid
    for name in wanted:
        try:
            made.files.append(_make(made.spool, name, writer))
        except OSError as error:
            made.undo()
            where = paths[1] if len(paths) > 1 else os.path.join(paths[0], UNFINISHED)
            raise RecordingError(f"cannot make {repr(name)[2:-1]} in {where}: {error.strerror}") from error
    return made


def _look(opened: Sequence[Made], paths: Sequence[str]) -> dict[int, Made]:
    """Open the directories that have the paths by now, if these are others, and our own spool, if there is to be one.

    A path that leads nowhere, or where we may not go, changes nothing. Raises RecordingError.
    """
    found = {}
    for number, path in enumerate(paths):
        try:
            about = os.stat(path)
            if _identity(about) != opened[number].identity:
                found[number] = _open(path)
        except OSError:
            continue
    if len(paths) > 1:
        return found
    known = opened[1].identity if len(opened) > 1 else None
    try:
        own = _own_spool((found.get(0) or opened[0]).descriptor, known)
    except OSError as error:
        _close(found.values())
        raise RecordingError(f"cannot use {os.path.join(paths[0], UNFINISHED)}: {error.strerror}") from error
    return found if own is None else {**found, 1: own}


def _own_spool(directory: int, known: Identity | None) -> Made | None:
    """Open our own spool in a directory, and make it if need be; None if it is the known one. Raises OSError."""
    with suppress(FileNotFoundError):
        if _identity(os.stat(UNFINISHED, dir_fd=directory, follow_symlinks=False)) == known:
            return None
        if not _may_write(UNFINISHED, directory):
            # The directory of recordings has been given to us since this was made. If it is empty, it goes.
            with suppress(OSError):
                os.rmdir(UNFINISHED, dir_fd=directory)
    with suppress(FileExistsError):
        os.mkdir(UNFINISHED, os.fstat(directory).st_mode & _INHERITED, dir_fd=directory)
    made = _open(UNFINISHED, directory)
    try:
        if not _may_write(UNFINISHED, directory):
            raise OSError(errno.EACCES, "this user may not make files there")
        _check_own_spool(os.fstat(made.descriptor), os.fstat(directory))
        if _mount(made.descriptor) != _mount(directory):
            raise OSError(errno.EXDEV, "something is mounted there: recordings could not be moved")
        _liken(made.descriptor, os.fstat(directory))
    except OSError:
        os.close(made.descriptor)
        raise
    return made


def _check_own_spool(about: os.stat_result, directory: os.stat_result) -> None:
    """Raise OSError unless recordings are as safe there as in the directory that they are for."""
    if about.st_dev != directory.st_dev:
        raise OSError(errno.EXDEV, "it is on another file system: recordings could not be moved")
    owners = (os.geteuid(), 0, directory.st_uid)
    if directory.st_mode & stat.S_ISVTX and about.st_uid not in owners:
        raise OSError(errno.EPERM, "it is another user's, who could take recordings away")


def _liken(descriptor: int, directory: os.stat_result) -> None:
    """Give a directory the owner, the group and the permissions of another, as far as this user and the disk let us.

    Where they do not, and files cannot be made or moved, that is told.
    """
    for owner, group in ((directory.st_uid, -1), (-1, directory.st_gid)):
        with suppress(OSError):
            os.fchown(descriptor, owner, group)
    has_group_id = bool(os.fstat(descriptor).st_mode & directory.st_mode & stat.S_ISGID)
    if has_group_id and os.geteuid() != 0 and directory.st_gid not in (os.getegid(), *os.getgroups()):
        # chmod(2) of a user who is not in the group takes that bit away, by which files get the group.
        return
    with suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(directory.st_mode))


def _find(places: Sequence[tuple[bytes, int, bool]], identity: Identity) -> tuple[Made, bool] | None:
    for name, directory, is_in_place in places:
        try:
            descriptor = os.open(name, _AGAIN, dir_fd=directory)
        except OSError:
            continue
        if _identity(os.fstat(descriptor)) == identity:
            spool.lock(descriptor)
            return Made(descriptor, identity), is_in_place
        os.close(descriptor)
    return None


def _let_go(found: tuple[Made, bool] | None) -> None:
    if found is not None:
        os.close(found[0].descriptor)


def _make(directory: int, name: bytes, writer: int) -> Made:
    """Make a file, which becomes that of the user who writes it, if we are root.

    What is in the spool already keeps its name: what another relay writes, and what an earlier recording left there.
    """
    chosen, number = name, os.getpid()
    while spool.is_needed(chosen, directory):
        chosen, number = names.numbered(name, number), number + 1
    with suppress(FileNotFoundError):
        os.unlink(chosen, dir_fd=directory)
    descriptor = os.open(chosen, _NEW, _MODE, dir_fd=directory)
    spool.lock(descriptor)
    if os.geteuid() == 0 and writer:
        # So that it can be opened by name, too, to finish it after a crash. Network file systems may say no to root.
        with suppress(OSError):
            os.fchown(descriptor, writer, -1)
    return Made(descriptor, _identity(os.fstat(descriptor)), chosen)


def _open(path: str, directory: int | None = None) -> Made:
    """Open a directory by its path, or by its name in another one; a link is not followed there."""
    descriptor = os.open(path, _DIRECTORY if directory is None else _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    return Made(descriptor, _identity(os.fstat(descriptor)))


def _may_write(path: str, directory: int | None = None) -> bool:
    """Tell if this user may make files in a directory, which is named by its path, or by its name in another one."""
    return os.access(path, os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True)


def _close(opened: Iterable[Made]) -> None:
    for one in opened:
        os.close(one.descriptor)


def _mount(descriptor: int) -> int:
    """Number of the mount that an open file is on. No file can be moved to another, of the same file system either."""
    info = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    (number,) = (line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:"))
    return int(number)


def _identity(about: os.stat_result) -> Identity:
    return Identity(about.st_dev, about.st_ino)
