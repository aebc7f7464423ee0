"""The pid file, where operators' scripts find the process ID (protocol.md 1.7)."""

import errno
import logging
import os
import stat
from typing import BinaryIO

from rtpproxy.errors import StartError

log = logging.getLogger(__name__)

_MOST_BYTES = 4096
_MODE = 0o644
"""Whatever the umask is: who can write to the file decides which process an operator's script ends."""
_REASONS = {
    errno.ENOENT: "the directory does not exist",
    errno.ENOTDIR: "part of the path is not a directory",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "it is a directory",
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "it is not a regular file",
    errno.EROFS: "the file system is read-only",
}
"""Errors that choosing another path corrects, in words."""


class _UnfitError(OSError):
    """What is at the path must not be written to."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EINVAL, reason)


class PidFile:
    """A regular file with the ID of this process. What is not a regular file of ours is left alone.

    A required pid file is one that somebody asked for: without it the relay does not start. Any other is written if it
    can be, and the log says why if it cannot.
    """

    def __init__(self, path: str, *, is_required: bool, user: int | None = None) -> None:
        """`user` is the one that this process becomes, by number; the file may be that one's, too."""
        self._path = path
        self._owners = {0, os.geteuid()} | ({user} if user is not None else set())
        self._is_required = is_required
        self._is_ours = False

    def check(self) -> None:
        """Raise StartError if a required file clearly cannot be written. Nothing is created or changed."""
        if not self._is_required:
            return
        try:
            self._open(os.O_WRONLY).close()
        except FileNotFoundError as error:
            directory = os.path.dirname(self._path) or "."
            if not os.path.isdir(directory):
                raise self._refusal(error) from error
            if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
                raise self._refusal(PermissionError(errno.EACCES, "")) from error
        except OSError as error:
            raise self._refusal(error) from error

    def write(self) -> None:
        """Write the process ID. Raises StartError if that fails and the file is required."""
        try:
            with self._open(os.O_WRONLY | os.O_CREAT) as file:
                # A file that was there before may have been open to others.
                os.fchmod(file.fileno(), _MODE)
                file.truncate()
                file.write(f"{os.getpid()}\n".encode())
            self._is_ours = True
        except OSError as error:
            if self._is_required:
                raise self._refusal(error) from error
            log.error("pid file %s: %s", self._path, error.strerror)

    def remove(self) -> None:
        """Remove the file if this process wrote it. The user of `-u` cannot do so in a directory of root's."""
        if not self._is_ours:
            return
        try:
            with self._open(os.O_RDONLY) as file:
                is_ours = file.read(_MOST_BYTES).strip() == str(os.getpid()).encode()
            if is_ours:
                os.unlink(self._path)
        except PermissionError:
            log.info("pid file %s stays: the directory is another user's", self._path)
        except OSError as error:
            log.error("pid file %s: %s", self._path, error.strerror)

    def _open(self, flags: int) -> BinaryIO:
        """Open the file if it is a regular one, of ours, with no other name. Raises OSError.

        The opened file is looked at, not the path: whoever may write to the directory can change that at any moment.
        Where the kernel permits hard links to files of others, another name would make root write elsewhere.
        """
        # O_NONBLOCK: a pipe must not make the relay wait for its other end.
        number = os.open(self._path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, _MODE)
        try:
            self._check(os.fstat(number))
        except OSError:
            os.close(number)
            raise
        return os.fdopen(number, "wb" if flags & os.O_WRONLY else "rb")

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise _UnfitError("it is not a regular file")
        if status.st_nlink > 1:
            raise _UnfitError("it is a hard link")
        if status.st_uid not in self._owners:
            raise _UnfitError(f"it belongs to user {status.st_uid}")

    def _refusal(self, error: OSError) -> StartError:
        reason = error.strerror if isinstance(error, _UnfitError) else _REASONS.get(error.errno or 0)
        if reason is None:
            return StartError(f"pid file {self._path}: {error.strerror}")
        return StartError(f"pid file {self._path}: {reason}; name another file with -p")
