"""Finds prompt files and opens them (protocol.md 9.1). Everything here may wait for a disk: it is for a thread.

Only regular files are opened. A name is first opened as a mere reference (O_PATH), so that nothing happens to a device,
and nobody waits at a FIFO, whatever is behind it.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from rtpproxy.errors import PlaybackError, StartError

_REFERENCE = os.O_PATH | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_OPENAT2 = 437
"""Number of openat2(2), the same on all architectures. Python has no function for it."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
CUT_SHORT = "it has been cut short"
"""What is said of a file that ends before it did when it was opened."""
_RACES = 32
"""How many times a name is looked up again that is being renamed meanwhile (EAGAIN of openat2)."""


class Version(NamedTuple):
    """Tells a file from another one, and from itself after it was written to."""

    device: int
    inode: int
    size: int
    """Bytes."""
    changed_ns: int


class Found(NamedTuple):
    """A file that was opened; the holder closes the descriptor."""

    path: bytes
    payload_type: int
    version: Version
    descriptor: int


class Files:
    """The files that can be played: all that the relay may read, or those in one directory."""

    def __init__(self, directory: str) -> None:
        """`directory` is absolute, or empty for all files. Raises StartError if it cannot be used."""
        self._directory = os.fsencode(directory)
        if not directory:
            return
        try:
            os.close(self._refer(b"."))
        except OSError as error:
            hint = "; it needs Linux 5.6, and a container that allows openat2" if _is_unknown(error) else ""
            raise StartError(f"--prompt-directory {directory}: {error.strerror}{hint}") from error

    def open(self, prompt: bytes, payload_types: Sequence[int]) -> Found:
        """Open the file of the first payload type that has one. Raises PlaybackError that names what was tried."""
        tried: list[str] = []
        for payload_type in payload_types:
            path = prompt + b".%d" % payload_type
            try:
                return self._open(path, payload_type)
            except OSError as error:
                tried.append(f"{_written(path)}: {error.strerror}")
        raise PlaybackError("; ".join(tried[:3]) + (" and others" if len(tried) > 3 else ""))

    def version(self, path: bytes) -> Version:
        """Look at what has a path now. Raises OSError."""
        reference = self._refer(path)
        try:
            return _version(reference)
        finally:
            os.close(reference)

    def _open(self, path: bytes, payload_type: int) -> Found:
        reference = self._refer(path)
        try:
            version = _version(reference)
            return Found(path, payload_type, version, os.open(f"/proc/self/fd/{reference}", _READ))
        finally:
            os.close(reference)

    def _refer(self, path: bytes) -> int:
        if not self._directory:
            return os.open(path, _REFERENCE)
        inside = path.removeprefix(self._directory.rstrip(b"/") + b"/")
        directory = os.open(self._directory, _REFERENCE | os.O_DIRECTORY)
        try:
            for _ in range(_RACES):
                try:
                    return _open_beneath(directory, inside)
                except BlockingIOError:
                    continue
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise OSError(errno.EXDEV, "it is outside of --prompt-directory") from error
            raise
        finally:
            os.close(directory)


def read_block(descriptor: int, position: int, size: int) -> bytes:
    """Read a part of a file. Raises PlaybackError where it ends before that, OSError for a disk that fails."""
    parts: list[bytes] = []
    while size:
        part = os.pread(descriptor, size, position)
        if not part:
            raise PlaybackError(CUT_SHORT)
        parts.append(part)
        position += len(part)
        size -= len(part)
    return b"".join(parts)


def _version(descriptor: int) -> Version:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return Version(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class _How(ctypes.Structure):
    """The argument of openat2(2), `struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _open_beneath(directory: int, path: bytes) -> int:
    """Open a reference to what is in a directory. Raises OSError: EXDEV where links or `..` lead out of it."""
    how = _How(_REFERENCE, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    arguments = ctypes.c_int(directory), ctypes.c_char_p(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    opened: int = _syscall(ctypes.c_long(_OPENAT2), *arguments)
    if opened < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return opened


def _is_unknown(error: OSError) -> bool:
    return error.errno in (errno.ENOSYS, errno.EPERM)


def _written(path: bytes) -> str:
    return repr(path)[2:-1]
