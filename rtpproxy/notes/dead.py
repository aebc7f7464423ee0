"""The note of a relay that was killed, for its successor."""

import logging
import os

from rtpproxy.notes import contents, lock
from rtpproxy.notes.contents import Contents, Place
from rtpproxy.notes.directory import Directory, read

log = logging.getLogger(__name__)


class DeadNote:
    """A note that no living relay has locked. It must be either removed or kept."""

    def __init__(self, directory: Directory, name: str, fd: int, place: Place) -> None:
        """Read the note that is open as `fd`, at `place`. What is of before this boot needs no undoing."""
        self._directory = directory
        self._name = name
        self._fd = fd
        text = read(fd)
        self._is_empty = not text
        found = contents.parse(text)
        self.contents: Contents | None = found if found is not None and found.place.boot == place.boot else None
        """None where nothing is left to undo."""

    def keep(self) -> None:
        """Leave the note to a later start."""
        os.close(self._fd)

    def remove(self) -> None:
        """Remove the note, where that is permitted: everything is undone."""
        try:
            if not self._is_empty:
                # First of all: from now on nobody takes it for more than an empty note.
                os.ftruncate(self._fd, 0)
            # Not a note that another relay has just made, and has not written yet.
            if lock.take_from_readers(self._fd, lock.ALIVE) and not os.fstat(self._fd).st_size:
                self._directory.remove(self._name)
        except OSError as error:
            log.info("the note %s/%s of a killed relay stays: %s", self._directory.path, self._name, error.strerror)
        os.close(self._fd)
