"""The pid file, where operators' scripts find the process ID (protocol.md 1.7)."""

import errno
import logging
import os
import stat
from typing import BinaryIO

from rtpproxy.errors import StartError

log = logging.getLogger(__name__)

_MOST_BYTES = 4096
_REASONS = {
    errno.ENOENT: "the directory does not exist",
    errno.ENOTDIR: "part of the path is not a directory",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "it is a directory",
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "it is not a regular file",
    errno.EINVAL: "it is not a regular file",
    errno.EROFS: "the file system is read-only",
}
"""Errors that choosing another path corrects, in words."""


class PidFile:
    """A regular file with the ID of this process. What is not a regular file is left alone.

    A required pid file is one that somebody asked for: without it the relay does not start. Any other is written if it
    can be, and the log says why if it cannot.
    """

    def __init__(self, path: str, *, is_required: bool) -> None:
        self._path = path
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
        """Open the file if it is a regular one. Raises OSError.

        The opened file is looked at, not the path: whoever may write to the directory can change that at any moment.
        """
        # O_NONBLOCK: a pipe must not make the relay wait for its other end.
        number = os.open(self._path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise OSError(errno.EINVAL, "not a regular file; left alone")
        return os.fdopen(number, "wb" if flags & os.O_WRONLY else "rb")

    def _refusal(self, error: OSError) -> StartError:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            return StartError(f"pid file {self._path}: {error.strerror}")
        return StartError(f"pid file {self._path}: {reason}; name another file with -p")
