"""The kernel tier of a relay that has none: everything stays in userspace."""

from collections.abc import Collection, Mapping

from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded
from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.session.totals import Tiers


class NoOffload:
    """Same interface as `forwarder.Forwarder`; forwards nothing and has counted nothing."""

    def __init__(self, reason: str) -> None:
        """`reason` is why."""
        self._reason = reason

    def apply(self, label: str, wanted: Mapping[int, ForwardingEntry | NotOffloaded]) -> Collection[int]:
        """No port had an entry to lose."""
        return ()

    def withdraw(self, key: int, reason: str) -> None:
        """Do nothing."""

    def is_wanted(self, key: int) -> bool:
        """Nothing is."""
        return False

    def hold(self, key: int) -> None:
        """Do nothing."""

    def seed(self, key: int, tracker: SequenceTracker) -> None:
        """Do nothing."""

    def counters(self, key: int) -> None:
        """Nothing was counted."""

    def forwarded(self, key: int) -> int:
        """No packet."""
        return 0

    def seen_at(self, key: int) -> float:
        """Never."""
        return 0.0

    def tiers(self) -> Tiers:
        """Userspace relays everything."""
        return Tiers({}, {}, {}, self._reason)

    def total_forwarded(self) -> int:
        """No packet."""
        return 0

    def total_dropped(self) -> int:
        """No packet."""
        return 0

    def last_seen(self) -> None:
        """Never, at any port."""

    def row(self, key: int) -> int:
        """No row belongs to a port."""
        return -1
