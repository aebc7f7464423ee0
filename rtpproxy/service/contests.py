"""Watches streams that several sources take in turn (`session.contest`): logs each contest once, and how it ended."""

import logging
from collections.abc import Iterator

from rtpproxy.session.session import Session, Stream

log = logging.getLogger(__name__)


class Contests:
    """The contested streams of one relay. Times are seconds, monotonic."""

    def __init__(self) -> None:
        self._sessions: dict[Stream, Session] = {}

    def note(self, session: Session, stream: Stream) -> None:
        """Take note of a stream that has just changed hands."""
        contest = stream.latch.contest
        if contest is None or not contest.is_on or stream in self._sessions:
            return
        self._sessions[stream] = session
        log.info(
            "%s: stream at port %d changes between %s and %s; userspace relays the session",
            *(session.label, stream.local_port, stream.latch.remote, contest.rivals[0]),
        )

    def settle(self, now: float) -> Iterator[Session]:
        """End the contests that are over, and go over their sessions, which must be planned anew."""
        for stream, session in list(self._sessions.items()):
            if stream.latch.settle(now):
                self._log_end(stream, session, f"stays with {stream.latch.remote}")
                yield session
            elif not stream.latch.is_contested:  # it has forgotten everybody
                del self._sessions[stream]

    def forget(self, session: Session) -> None:
        """Forget the streams of a session that ends."""
        for stream in [one for one in session.streams if one in self._sessions] if self._sessions else ():
            self._log_end(stream, session, "ends")

    def _log_end(self, stream: Stream, session: Session, what: str) -> None:
        del self._sessions[stream]
        contest = stream.latch.contest
        changes = contest.changes if contest is not None else 0
        log.info(
            "%s: stream at port %d %s, after %d changes of source", *(session.label, stream.local_port, what, changes)
        )
