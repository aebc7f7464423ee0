"""Stands in for the kernel tier where there is none: userspace relays everything."""

import logging
from collections.abc import Callable, Collection, Mapping

from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded, Owner
from rtpproxy.rtp.statistics import SequenceTracker

log = logging.getLogger(__name__)


class NoEntries:
    """Same interface as `forwarder.Forwarder`; installs nothing."""

    def __init__(self, why: str) -> None:
        """`why` says, in words for `It`, why there is no kernel tier."""
        self.rest = why

    def apply(self, owner: Owner, wanted: Mapping[int, ForwardingEntry | NotOffloaded], now: float) -> Collection[int]:
        """Return no keys: no port had an entry to lose."""
        return ()

    def withdraw(self, key: int, reason: str, now: float) -> None:
        """Do nothing."""

    def is_wanted(self, key: int) -> bool:
        """Return False for every port."""
        return False

    def hold(self, key: int) -> None:
        """Do nothing."""

    def seed(self, key: int, tracker: SequenceTracker) -> None:
        """Do nothing."""

    def came_up(self, key: int, now: float) -> None:
        """Do nothing."""

    def by_program(self) -> Mapping[str, int]:
        """Return no stream."""
        return {}

    def by_reason(self) -> Mapping[str, int]:
        """Return no stream: all have the same reason, `rest`."""
        return {}


class NoCounters:
    """Has those methods of `counters.CounterTables` that the service calls; nothing was counted."""

    def counters(self, key: int) -> None:
        """Return None: no port has counters."""

    def forwarded(self, key: int) -> int:
        """Return 0."""
        return 0

    def seen_at(self, key: int) -> float:
        """Return 0.0, which is never."""
        return 0.0

    def tee_missed(self, key: int) -> int:
        """Return 0."""
        return 0

    def tee_chosen(self, key: int) -> int:
        """Return 0."""
        return 0

    def last_seen(self) -> None:
        """Return None: there are no rows."""

    def row(self, key: int) -> int:
        """Return -1, which is no row."""
        return -1

    def total_forwarded(self) -> int:
        """Return 0."""
        return 0

    def total_dropped(self) -> int:
        """Return 0."""
        return 0

    def total_parse_errors(self) -> int:
        """Return 0."""
        return 0

    def verdicts(self) -> Mapping[str, int]:
        """Return no verdict: no program sees frames."""
        return {}


class NoKernelTier:
    """Same interface as `tier.KernelTier`, where userspace relays everything."""

    def __init__(self, why: str, on_routes: Callable[[], None]) -> None:
        """`on_routes` makes the media path ask for routes again: here nobody follows their changes."""
        self._why = why
        self._on_routes = on_routes
        self.forwarder = NoEntries(why)
        self.counters = NoCounters()

    def start(self) -> None:
        """Log that the kernel forwards nothing."""
        log.info("all interfaces: userspace (%s)", self._why)

    def load_rest(self, at_end: Callable[[], None]) -> None:
        """Call `at_end`: there are no programs for interfaces."""
        at_end()

    def tick(self) -> None:
        """Forget what is known of routes. To be called every second."""
        self._on_routes()

    def close(self) -> None:
        """Do nothing: nothing was started."""
