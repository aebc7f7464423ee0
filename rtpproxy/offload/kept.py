"""Compiled programs in files, for the next start: a compiler takes longer than everything else that a start does.

They are used only where they would be compiled the same way: `key_of` covers the sources, the macros, the kernel, how
we compile and which bcc Python finds; the file tells the compiler. What runs in the kernel must be root's, so directory
and files are looked at once they are open, and nobody else's are used.
"""

import contextlib
import errno
import hashlib
import importlib.util
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from rtpproxy.offload import compiled
from rtpproxy.offload.compiled import Compiled, Stamp
from rtpproxy.trust import mistrust

log = logging.getLogger(__name__)

MOST_FILES = 64
"""One for each set of options; of some 140 kB. The oldest go first."""
_MODE, _FILE_MODE = 0o755, 0o644
_MOST_BYTES = 1 << 24
TYPES_OF_KERNEL = Path("/sys/kernel/btf/vmlinux")
_KERNEL_NOTES = Path("/sys/kernel/notes")
"""The build ID of the running kernel is among them."""
_HOW_WE_COMPILE = tuple(
    Path(__file__).with_name(f"{name}.py") for name in ("compiler", "compiled", "btf", "layout", "syscall")
)
"""All that makes what is kept; a newer version of the relay may do it in another way."""


def key_of(sources: Path, macros: Mapping[str, str], *, is_strict: bool) -> str:
    """Tell what is compiled: equal only for equal sources, macros and flags, on the same build of the kernel.

    Raises OSError.
    """
    kernel = os.uname()
    told = [f"{kernel.release}\n{kernel.version}\n{kernel.machine}\n{is_strict}\n".encode()]
    with contextlib.suppress(OSError):
        told.append(_KERNEL_NOTES.read_bytes())
    told += [f"{name}={value}".encode() for name, value in sorted(macros.items())]
    for path in sorted(path for path in sources.rglob("*") if path.is_file()):
        told += [str(path.relative_to(sources)).encode(), path.read_bytes()]
    told += [path.read_bytes() for path in _HOW_WE_COMPILE]
    told.append(str(TYPES_OF_KERNEL.exists()).encode())
    found = importlib.util.find_spec("bcc")
    told.append(str(found and found.origin).encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in told)).hexdigest()


def stamp(path: str) -> Stamp:
    """Tell which version of a file this is. Raises OSError."""
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


class KeptPrograms:
    """The directory of compiled programs. Without it, everything works as with an empty one."""

    def __init__(self, path: str) -> None:
        """The directory need not be there; root's relay makes it."""
        self._path = path

    def read(self, key: str) -> Compiled | None:
        """The programs that were kept under a key; None if there are none, or if they may not be used."""
        try:
            with self._open() as directory_fd:
                found = compiled.parse(_read(directory_fd, key))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s: kept BPF programs are not used: %s", self._path, _reason(error))
            return None
        if not all(_is_as_it_was(one) for one in found.compiler):
            log.debug("%s: kept BPF programs are of another compiler", self._path)
            return None
        return found

    def write(self, key: str, programs: Compiled) -> None:
        """Keep programs, and remove the oldest ones where there are too many. Only root's relay can."""
        if os.geteuid() != 0:
            return
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path, _MODE)
            with self._open() as directory_fd:
                _write(directory_fd, key, compiled.serialize(programs))
                _prune(directory_fd)
        except OSError as error:
            log.info("%s: compiled BPF programs are not kept for the next start: %s", self._path, _reason(error))

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _trust(fd)
            yield fd
        finally:
            os.close(fd)


def _trust(fd: int) -> os.stat_result:
    """Return the status of an open file or directory. Raises PermissionError where others than root may change it."""
    status = os.fstat(fd)
    why = mistrust(status, (0,))
    if why:
        raise PermissionError(errno.EPERM, why)
    return status


def _read(directory_fd: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
    with open(fd, "rb") as file:
        status = _trust(fd)
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError(errno.EPERM, "it is no plain file")
        data = file.read(_MOST_BYTES)
        with contextlib.suppress(OSError):
            os.utime(fd)  # so that what is used stays; an ordinary user may not tell
    return data


def _write(directory_fd: int, name: str, data: bytes) -> None:
    """Write a file as a whole, or not at all."""
    # Relays in two containers may have the same process ID.
    unfinished = f"{name}.{os.urandom(4).hex()}"
    fd = _create(directory_fd, unfinished)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, _FILE_MODE)
            file.write(data)
        os.rename(unfinished, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished, dir_fd=directory_fd)
        raise


def _create(directory_fd: int, name: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, _FILE_MODE, dir_fd=directory_fd)


def _prune(directory_fd: int) -> None:
    """Remove the oldest files, among them what killed relays left unfinished."""
    ages = []
    for name in os.listdir(directory_fd):
        with contextlib.suppress(FileNotFoundError):  # another relay has just removed it
            status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                ages.append((status.st_mtime_ns, name))
    for _, name in sorted(ages, reverse=True)[MOST_FILES:]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory_fd)


def _is_as_it_was(known: Stamp) -> bool:
    try:
        return stamp(known[0]) == known
    except OSError:
        return False


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
