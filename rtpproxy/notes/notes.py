"""The notes of all relays that share a directory: our own, those of other living relays, and those of dead ones.

A relay keeps a byte of its note locked as long as it lives. The kernel frees the lock when the process ends, so a note
without it is that of a relay that was killed, and says what must be undone. Users other than root can neither hold
such a lock nor write such a note (see `lock` and `directory`).
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence

from rtpproxy.notes import contents, lock
from rtpproxy.notes.contents import Contents, Mark, Place
from rtpproxy.notes.dead import DeadNote
from rtpproxy.notes.directory import Directory, is_out_of_files, read
from rtpproxy.notes.ours import OurNote

log = logging.getLogger(__name__)


class Notes:
    """Our note, and access to those of others."""

    def __init__(self, paths: Sequence[str], find_place: Callable[[], Place]) -> None:
        """Open the directories, and make our note in the first where that is permitted.

        Directories that others may write to are left alone. `find_place` tells where this process runs; it may raise
        OSError. Raises OSError only if no more files may be open.
        """
        self._directories: list[Directory] = []
        self._place = Place("", "")
        why_not = ""
        try:
            self._place = find_place()
            for path in paths:
                why_not = self._open(path) or why_not
        except OSError as error:
            if is_out_of_files(error):
                raise
            why_not = f"this host does not tell where the process runs: {error.strerror}"
        self.ours = OurNote(self._directories, self._place, why_not)

    def _open(self, path: str) -> str:
        """Open a directory. Returns the reason where that is not possible, else nothing."""
        try:
            self._directories.append(Directory(path))
        except OSError as error:
            if is_out_of_files(error):
                raise
            return f"{path}: {error.strerror}"
        return ""

    def close(self) -> None:
        """Remove our note."""
        self.ours.close()
        for directory in self._directories:
            directory.close()
        self._directories.clear()

    def is_here(self, place: Place) -> bool:
        """Tell whether a relay runs, or ran, in our network namespace."""
        return place == self._place

    def living(self) -> list[Contents]:
        """Read the notes of the other relays that live, in whatever network namespace."""
        found = []
        for _, _, fd, is_alive in self._others():
            told = contents.parse(read(fd)) if is_alive else None
            os.close(fd)
            if told is not None:
                found.append(told)
        return found

    def abandoned_sockets(self) -> set[Mark]:
        """List the files of control sockets that relays left which have ended."""
        found: set[Mark] = set()
        for _, _, fd, is_alive in self._others():
            told = None if is_alive else contents.parse(read(fd))
            os.close(fd)
            if told is not None and told.place.boot == self._place.boot:
                found |= told.sockets
        return found

    def dead(self) -> list[DeadNote]:
        """Take the notes of relays that were killed, but for those that another start is working on."""
        found = []
        for directory, name, fd, is_alive in self._others():
            # Asked again: a note may have been found after it was made, and before its relay locked it.
            if is_alive or not lock.take_from_readers(fd, lock.CLEARING) or lock.is_taken(fd, lock.ALIVE):
                os.close(fd)
            else:
                found.append(DeadNote(directory, name, fd, self._place))
        return found

    def _others(self) -> Iterator[tuple[Directory, str, int, bool]]:
        """Open the notes of others: directory, name, descriptor to be closed, and whether the relay lives."""
        for directory in self._directories:
            for name in directory.names():
                if self.ours.is_in(directory, name):
                    continue
                try:
                    fd = directory.open(name)
                except OSError as error:
                    if is_out_of_files(error):
                        raise
                    log.debug("the note %s/%s is not read: %s", directory.path, name, error.strerror)
                    continue
                is_alive = lock.is_taken(fd, lock.ALIVE)
                if is_alive or os.fstat(fd).st_nlink:
                    yield directory, name, fd, is_alive
                else:
                    # It was removed meanwhile, by its relay that ended or by another successor.
                    os.close(fd)
