"""Idle times of sessions: one for both directions, or one each (protocol.md 4.6)."""

import math
from collections.abc import Iterator

from rtpproxy.config import Config
from rtpproxy.service.offloading import KernelCounters
from rtpproxy.session.reaper import Activity
from rtpproxy.session.session import Leg, Session


class Timers:
    """The idle times of all sessions. They count from the later of what userspace and the kernel saw."""

    def __init__(self, config: Config, activity: Activity, counters: KernelCounters) -> None:
        """`activity` is also touched by packets."""
        self._config = config
        self._activity = activity
        self._counters = counters
        self._sessions: dict[int, Session] = {}
        """By number in `_activity`."""
        self._followed: dict[Session, list[tuple[Leg, Leg]]] = {}
        """Of fed sessions: their legs, each with that of the source."""

    def start(self, session: Session, now: float) -> None:
        """Begin the setup timeout of a new session."""
        callee = caller = self._activity.add(now, self._config.half_open_timeout_s)
        if self._config.is_independent:
            caller = self._activity.add(now, self._config.half_open_timeout_s)
        for leg, number in ((session.callee, callee), (session.caller, caller)):
            leg.rtp.activity = leg.rtcp.activity = number
            self._sessions[number] = session

    def watch(self, leg: Leg) -> None:
        """Let what the kernel sees at a leg's ports count as activity."""
        for position, stream in enumerate(leg.streams, 2 * leg.role):
            self._activity.set_row(stream.activity, position, self._counters.row(stream.key))

    def follow(self, session: Session, leg: Leg, source: Leg) -> None:
        """Let what a source's leg receives count as activity of a leg of a fed session, once that is complete."""
        self._followed.setdefault(session, []).append((leg, source))

    def unfollow(self, session: Session) -> None:
        """Let a session be idle from when its source was seen last."""
        for leg in session.legs:
            self._activity.touch(leg.activity, self._last_seen(session, leg.activity))
        self._followed.pop(session, None)

    def complete(self, session: Session) -> None:
        """Replace the setup timeout by the idle timeout, where no request set another."""
        for leg in session.legs:
            if not leg.has_own_timeout:
                self._activity.set_timeout(leg.activity, self._config.idle_timeout_s)

    def set_timeout(self, session: Session, leg: Leg, timeout_s: float, now: float) -> None:
        """Change the idle timeout of a leg's direction, from now on and for good."""
        number = leg.activity
        for one in session.legs:
            one.has_own_timeout |= one.activity == number
        self._activity.set_timeout(number, timeout_s)
        self._activity.touch(number, now)

    def touch(self, session: Session, now: float) -> None:
        """Restart the idle times of a session."""
        for leg in session.legs:
            self._activity.touch(leg.activity, now)

    def stop(self, session: Session) -> None:
        """Forget a session that ends."""
        self._followed.pop(session, None)
        for number in {leg.activity for leg in session.legs}:
            self._activity.remove(number)
            del self._sessions[number]

    def idle(self, now: float) -> Iterator[tuple[Session, float]]:
        """Yield the sessions that are idle, each with its timeout in seconds. They may be stopped meanwhile."""
        for number in self._activity.idle(now, self._counters.last_seen()):
            session = self._sessions.get(number)
            if session is None:
                continue  # it was stopped when its other direction was found idle
            timeout_s = self._activity.timeout(number)
            if session in self._followed:
                last_seen = self._last_seen(session, number)
                self._activity.touch(number, last_seen)
                if now - last_seen < timeout_s:
                    continue
            yield session, timeout_s

    def seconds_left(self, session: Session, now: float) -> int:
        """Return the seconds until the first of a session's directions is idle, rounded up."""
        return min(self._seconds_left(session, leg, now) for leg in session.legs)

    def _seconds_left(self, session: Session, leg: Leg, now: float) -> int:
        last_seen = self._last_seen(session, leg.activity)
        return max(0, math.ceil(self._activity.timeout(leg.activity) - (now - last_seen)))

    def _last_seen(self, session: Session, number: int) -> float:
        """Return when userspace or the kernel last saw what keeps a timer of a session from running out."""
        streams = [stream for stream in session.streams if stream.activity == number]
        last_seen = self._activity.last_seen(number)
        if session.is_complete:
            sources = [source for leg, source in self._followed.get(session, ()) if leg.activity == number]
            last_seen = max(last_seen, *(self._activity.last_seen(source.activity) for source in sources), 0.0)
            streams += [stream for source in sources for stream in source.streams]
        return max(last_seen, *(self._counters.seen_at(stream.key) for stream in streams if stream.local_port), 0.0)
