"""Events in the life of sessions, and the observers that are told of them.

An observer watches sessions without taking part in them: totals, timeout notification, and whatever else derives from
`Observer` and is in the list that `instance.py` hands to the service. For each session, `created` comes first and
`ended` last. Observers are told one after the other, in the turn of the event loop in which the event happens, so they
must not wait, and must neither change what they are given nor call the service. Sessions that a relay still has when it
stops get an `ended` if there is a module that may want it, and none if the relay is killed.
"""

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeVarTuple

from rtpproxy.session.session import Session, Stream

log = logging.getLogger(__name__)

Event = TypeVarTuple("Event")


class Ending(Enum):
    """Why a session ended."""

    DELETED = "deleted"
    """A request dropped the last reference to it."""
    ALL_DELETED = "all sessions deleted"
    """A request deleted every session."""
    TIMED_OUT = "timed out"
    """It was idle for too long."""
    STOPPED = "the relay stops"


class Observer:
    """Base of all observers: override the events to be told of; the others cost nothing.

    `now` is seconds, monotonic. Counters of streams include what the kernel forwarded only up to the last reading; at
    `ended` they are complete.
    """

    def created(self, session: Session, now: float) -> None:
        """Hear that a request made a session; the leg towards the callee has ports."""

    def completed(self, session: Session, now: float) -> None:
        """Hear that both legs have ports, so that packets flow; told before `changed` of the same request."""

    def changed(self, session: Session, now: float) -> None:
        """Hear that a request changed an existing session: ports, signalled endpoints, timers, TOS, references."""

    def learned(self, session: Session, stream: Stream, now: float) -> None:
        """Hear that packets changed where `stream.latch` points, locked or unlocked it, or changed `stream.local_host`.

        Also told when it forgot its endpoint, because nothing may be sent there any more. With RTP, the latch of the
        leg's RTCP may have changed, too. What the kernel saw is told when it is read.
        """

    def entered_kernel(self, session: Session, stream: Stream, program: str, now: float) -> None:
        """Hear that a program forwards what the stream receives: "XDP", "TC", or "XDP or TC" when either may.

        Told again when another program does.
        """

    def left_kernel(self, session: Session, stream: Stream, reason: str, now: float) -> None:
        """Hear that the kernel does not forward any more what the stream receives; `reason` is in words."""

    def timed_out(self, session: Session, timeout_s: float, now: float) -> None:
        """Hear that a session was idle for its timeout and has given up its ports; `ended` follows."""

    def ended(self, session: Session, why: Ending, now: float) -> None:
        """Hear that a session has given up its ports and is forgotten."""


class Observers(Observer):
    """Tells every event to a sequence of observers, in their order.

    An observer that raises an exception loses that event and nothing else: neither the session nor the observers after
    it notice. Its first failure is logged as an error with the traceback, later ones at debug level.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._failed: set[int] = set()
        """Observers, by `id`: they need not be hashable, and equal ones fail each for itself."""
        self._created = [one.created for one in _overriding(observers, "created")]
        self._completed = [one.completed for one in _overriding(observers, "completed")]
        self._changed = [one.changed for one in _overriding(observers, "changed")]
        self._learned = [one.learned for one in _overriding(observers, "learned")]
        self._entered_kernel = [one.entered_kernel for one in _overriding(observers, "entered_kernel")]
        self._left_kernel = [one.left_kernel for one in _overriding(observers, "left_kernel")]
        self._timed_out = [one.timed_out for one in _overriding(observers, "timed_out")]
        self._ended = [one.ended for one in _overriding(observers, "ended")]

    def created(self, session: Session, now: float) -> None:
        """Pass on."""
        if self._created:
            self._tell(self._created, session, now)

    def completed(self, session: Session, now: float) -> None:
        """Pass on."""
        if self._completed:
            self._tell(self._completed, session, now)

    def changed(self, session: Session, now: float) -> None:
        """Pass on."""
        if self._changed:
            self._tell(self._changed, session, now)

    def learned(self, session: Session, stream: Stream, now: float) -> None:
        """Pass on."""
        if self._learned:
            self._tell(self._learned, session, stream, now)

    def entered_kernel(self, session: Session, stream: Stream, program: str, now: float) -> None:
        """Pass on."""
        if self._entered_kernel:
            self._tell(self._entered_kernel, session, stream, program, now)

    def left_kernel(self, session: Session, stream: Stream, reason: str, now: float) -> None:
        """Pass on."""
        if self._left_kernel:
            self._tell(self._left_kernel, session, stream, reason, now)

    def timed_out(self, session: Session, timeout_s: float, now: float) -> None:
        """Pass on."""
        if self._timed_out:
            self._tell(self._timed_out, session, timeout_s, now)

    def ended(self, session: Session, why: Ending, now: float) -> None:
        """Pass on."""
        if self._ended:
            self._tell(self._ended, session, why, now)

    def _tell(self, hearers: Sequence[Callable[[*Event], None]], *event: *Event) -> None:
        for hear in hearers:
            try:
                hear(*event)
            except Exception:  # an observer may fail in any way; the session goes on
                self._log_failure(hear)

    def _log_failure(self, hear: Callable[..., None]) -> None:
        """Log the exception that is being handled."""
        observer = getattr(hear, "__self__", hear)
        level = logging.DEBUG if id(observer) in self._failed else logging.ERROR
        self._failed.add(id(observer))
        log.log(level, "observer %s failed and missed an event", type(observer).__name__, exc_info=True)


def _overriding(observers: Sequence[Observer], event: str) -> list[Observer]:
    """Return the observers that want to be told of an event."""
    return [one for one in observers if getattr(type(one), event) is not getattr(Observer, event)]
