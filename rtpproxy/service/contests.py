"""Watches streams that several sources may take (`session.contest`): logs each contest once, and how it ended."""

import logging
from collections.abc import Iterator

from rtpproxy.session.session import Session, Stream

log = logging.getLogger(__name__)


class Contests:
    """The streams of one relay that others had before. Times are seconds, monotonic."""

    def __init__(self) -> None:
        self._sessions: dict[Stream, Session] = {}
        self._contested: set[Stream] = set()
        """Those among them that are contested, as the log says."""

    def note(self, session: Session, stream: Stream) -> None:
        """Take note of a stream that may just have changed hands."""
        latch = stream.latch
        if stream in self._contested or latch.contest is None or not latch.has_rivals:
            return
        self._sessions[stream] = session
        if not latch.is_contested:
            return
        self._contested.add(stream)
        log.info(
            "%s: stream at port %d changes between %s and %s; userspace relays the session",
            *(session.label, stream.local_port, latch.remote, latch.contest.rivals[0]),
        )

    def settle(self, now: float) -> Iterator[Session]:
        """End the contests that are over, and forget who is heard no more.

        Goes over the sessions concerned, which must be planned anew.
        """
        for stream, session in list(self._sessions.items()):
            if stream.latch.settle(now):
                self._end(stream, f"stays with {stream.latch.remote}")
                yield session
            elif not stream.latch.has_rivals:  # it has forgotten everybody
                del self._sessions[stream]
                self._contested.discard(stream)

    def forget(self, session: Session) -> None:
        """Forget the streams of a session that ends."""
        for stream in [one for one in session.streams if one in self._sessions] if self._sessions else ():
            self._end(stream, "ends")

    def _end(self, stream: Stream, what: str) -> None:
        session = self._sessions.pop(stream)
        if stream not in self._contested:
            return
        self._contested.remove(stream)
        contest = stream.latch.contest
        changes = contest.changes if contest is not None else 0
        log.info(
            "%s: stream at port %d %s, after %d changes of source", *(session.label, stream.local_port, what, changes)
        )
