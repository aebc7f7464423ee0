"""Module acct_csv: writes a line for each session that ends (protocol.md 13.1)."""

import logging
import os
from collections.abc import Callable

from rtpproxy.modules.appender import Appender
from rtpproxy.modules.module import Module
from rtpproxy.modules.records import write_record
from rtpproxy.service.events import Ending
from rtpproxy.session.session import Session

log = logging.getLogger(__name__)


class AcctCsv(Module):
    """Writes to one file."""

    def __init__(self, path: str, appender: Appender, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """`path` is the appender's. `clock` is that of events; `wall` the time of day in seconds since 1970."""
        self._path = path
        self._appender = appender
        self._clock = clock
        self._wall = wall
        self._created = 0
        self._numbers: dict[Session, int] = {}
        """Those of the sessions that have not ended."""

    def created(self, session: Session, now: float) -> None:
        """Give the session a number, which nothing else in this process has."""
        self._numbers[session] = self._created
        self._created += 1

    def ended(self, session: Session, why: Ending, now: float) -> None:
        """Write its line.

        All times in it are told by the time of day of now: if that was set meanwhile, a call has its true length still.
        """
        number = self._numbers.pop(session)
        offset_s = self._wall() - self._clock()
        self._appender.append(
            write_record(session, number, os.fsencode(os.uname().nodename), os.getpid(), now, offset_s)
        )

    def start(self) -> None:
        """Start writing. Warn if a file that is moved away cannot be replaced."""
        self._appender.start()
        directory = os.path.dirname(self._path)
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            log.warning(
                "%s: this user may not make files in %s: once the file is moved away, lines wait for another one",
                *(self._path, directory),
            )

    def close(self) -> None:
        """Write what waits, or give up after a short time."""
        self._appender.close()
