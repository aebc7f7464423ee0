"""The note of this relay. It is written before what it tells is done: so no kill leaves what no note tells of."""

import errno
import logging
import os
from collections.abc import Collection, Sequence
from contextlib import suppress

from rtpproxy.notes import contents, lock
from rtpproxy.notes.contents import Claim, Mark, Place
from rtpproxy.notes.directory import Directory, is_out_of_files

log = logging.getLogger(__name__)

_TRIES = 16


class OurNote:
    """The note of this relay. Where none can be kept, nothing is written, and `why_not` says why."""

    def __init__(self, directories: Sequence[Directory], place: Place, why_not: str) -> None:
        """Make a note in the first directory where that is permitted; `why_not` tells why there are fewer directories.

        Raises OSError only if no more files may be open.
        """
        self.why_not = why_not
        self._directory: Directory | None = None
        self._name, self._fd = "", -1
        for directory in directories:
            try:
                self._name, self._fd = _create(directory)
            except OSError as error:
                if is_out_of_files(error):
                    raise
                self.why_not = f"{directory.path}: {error.strerror}"
                continue
            self._directory, self.why_not = directory, ""
            break
        if self._directory is not None:
            self._add(contents.head_line(os.getpid(), place))
            self._directory.publish(self._fd)

    def is_in(self, directory: Directory, name: str) -> bool:
        """Tell whether a name in a directory is that of this note."""
        return directory is self._directory and name == self._name

    def claim(self, claim: Claim) -> None:
        """Say that we have these ports."""
        self._add(contents.claim_line(claim))

    def unclaim(self, host: str) -> None:
        """Say that we have no ports on an address any more."""
        self._add(contents.unclaim_line(host))

    def reserve(self, ranges: str) -> None:
        """Say what we are about to add to the kernel's list of reserved ports; empty once it is out of the list."""
        self._add(contents.reserved_line(ranges))

    def attach(self, programs: Collection[int]) -> None:
        """Say which programs, by ID, we are about to attach to interfaces."""
        self._add(contents.programs_line(frozenset(programs)))

    def listen(self, socket_file: Mark) -> None:
        """Say that we made the file of a control socket."""
        self._add(contents.socket_line(socket_file))

    def close(self) -> None:
        """Remove the note: everything is undone.

        Where the directory is another user's (after `-u`), note and socket files stay. Then the note goes on to say
        which these are, and the next start removes it.
        """
        if self._directory is None:
            return
        try:
            self._directory.remove(self._name)
        except OSError:
            self.attach(())
        os.close(self._fd)
        self._directory = None

    def _add(self, line: str) -> None:
        if self._directory is None:
            return
        data = f"{line}\n".encode()
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                # Else the next line would be the rest of this one.
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                os.lseek(self._fd, 0, os.SEEK_END)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            log.warning(
                "the note %s/%s cannot be written: %s; should this relay be killed, the next one will not find all "
                "that it leaves",
                *(self._directory.path, self._name, error.strerror),
            )


def _create(directory: Directory) -> tuple[str, int]:
    """Make a note and lock it before anybody takes it for that of a dead relay. Raises OSError."""
    for _ in range(_TRIES):
        name, fd = directory.create()
        try:
            is_ours = lock.take(fd, lock.ALIVE) and not lock.is_taken(fd, lock.CLEARING)
            if is_ours and os.fstat(fd).st_nlink:
                return name, fd
        except OSError:
            directory.remove(name)
            os.close(fd)
            raise
        # Another relay that starts at this moment has found it without a lock, and may have removed it.
        with suppress(FileNotFoundError):
            directory.remove(name)
        os.close(fd)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
