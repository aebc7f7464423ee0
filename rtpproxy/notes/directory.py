"""The directory that holds the notes of relays. Nobody but root and the user who runs the relay can write there.

What is in it is opened relative to the directory's own descriptor and without following links, and looked at once it
is open: so nobody can put another file in the place of the one that was looked at.
"""

import errno
import os
import stat

from rtpproxy.trust import mistrust

_MODE, _NOTE_MODE = 0o755, 0o644
_SUFFIX = ".note"
_MOST_BYTES = 1 << 18


class Directory:
    """An open directory, checked for owner and mode."""

    def __init__(self, path: str) -> None:
        """Open a directory, or make it. Raises OSError, which is a PermissionError if strangers may write to it."""
        self.path = path
        is_made = _make(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(self._fd)
            why = mistrust(status, (0, os.geteuid()))
            if why:
                raise PermissionError(errno.EPERM, why)
            if is_made:
                # Whatever the umask is: other users' relays read the claims of ports.
                os.fchmod(self._fd, _MODE)
        except OSError:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Close it. Nothing may be done with it afterwards."""
        os.close(self._fd)

    def names(self) -> list[str]:
        """List the names of notes. Raises OSError."""
        return [name for name in os.listdir(self._fd) if name.endswith(_SUFFIX)]

    def create(self) -> tuple[str, int]:
        """Make an empty note that only this user can open. Returns its name and descriptor. Raises OSError."""
        name = f"{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return name, os.open(name, flags, 0o600, dir_fd=self._fd)

    def publish(self, fd: int) -> None:
        """Let everybody read a note. Raises OSError."""
        os.fchmod(fd, _NOTE_MODE)

    def open(self, name: str) -> int:
        """Open a note, for writing too if permitted. Raises OSError, a PermissionError if the note is a stranger's."""
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, os.O_RDWR | flags, dir_fd=self._fd)
        except PermissionError:
            fd = os.open(name, os.O_RDONLY | flags, dir_fd=self._fd)
        status = os.fstat(fd)
        why = mistrust(status, (0, os.geteuid())) or (
            "" if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 else "it is no note"
        )
        if why:
            os.close(fd)
            raise PermissionError(errno.EPERM, why)
        return fd

    def remove(self, name: str) -> None:
        """Remove a note. Raises OSError."""
        os.unlink(name, dir_fd=self._fd)


def read(fd: int) -> str:
    """Read a note from its beginning. Raises OSError."""
    return os.pread(fd, _MOST_BYTES, 0).decode(errors="replace")


def is_out_of_files(error: OSError) -> bool:
    """Tell whether a file was not opened because too many are open."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def _make(path: str) -> bool:
    try:
        os.mkdir(path, _MODE)
    except FileExistsError:
        return False
    return True
