"""The kernel tier as the service sees it: sessions' wanted entries go in, rows of the port table come out.

It keeps what is installed, and moves it from there to what is wanted (see `entry.diff`), also when a route changes
under it. The parts that touch the kernel are handed in.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtpproxy.offload.entry import NOT_LEARNED, PEER_UNKNOWN, ForwardingEntry, NotOffloaded, PortCounters, Tier, diff
from rtpproxy.offload.nexthop import NextHops, NoRoute, Route
from rtpproxy.rtp.statistics import RtpState, SequenceTracker
from rtpproxy.session.totals import Tiers

log = logging.getLogger(__name__)


class Rows(Protocol):
    """The part of `tables.Tables` that is used here."""

    def install(self, entry: ForwardingEntry, from_host: str, next_hop: int, ttl: int) -> None: ...
    def withdraw(self, key: int) -> None: ...
    def counters(self, key: int) -> PortCounters: ...
    def forwarded(self, key: int) -> int: ...
    def seen_at(self, key: int) -> float: ...
    def total_forwarded(self) -> int: ...
    def total_dropped(self) -> int: ...
    def total_parse_errors(self) -> int: ...
    def verdicts(self) -> dict[str, int]: ...
    def last_seen(self) -> npt.NDArray[np.float64]: ...
    def row(self, key: int) -> int: ...
    def hold(self, key: int) -> None: ...
    def seed(self, key: int, state: RtpState) -> None: ...


@dataclass(frozen=True, slots=True)
class _Wish:
    """An entry that a session wants, with the session's name for the log."""

    entry: ForwardingEntry
    label: str


class Forwarder:
    """Installs and withdraws forwarding entries."""

    def __init__(self, rows: Rows, next_hops: NextHops) -> None:
        self._rows = rows
        self._next_hops = next_hops
        self._wishes: dict[int, _Wish] = {}
        self._keys_by_target: dict[tuple[str, str], set[int]] = {}
        self._installed: dict[int, tuple[ForwardingEntry, Route, str]] = {}
        """What stands in the row of a port, and which program forwards by it."""
        self._reasons: dict[int, str] = {}
        """Why learned streams are not forwarded."""
        self._seeds: dict[int, SequenceTracker] = {}
        """Trackers that the kernel has to go on from, once it gets an entry for their port."""
        self.counters = rows.counters
        self.forwarded = rows.forwarded
        self.seen_at = rows.seen_at
        self.total_forwarded = rows.total_forwarded
        self.total_dropped = rows.total_dropped
        self.last_seen = rows.last_seen
        self.row = rows.row

    def apply(self, label: str, wanted: Mapping[int, ForwardingEntry | NotOffloaded]) -> Collection[int]:
        """Make the entries of a session's ports what is wanted; the keys of those that lost theirs.

        `label` names the session in the log.
        """
        entries = {key: want for key, want in wanted.items() if isinstance(want, ForwardingEntry)}
        have = {key: self._wishes[key].entry for key in wanted if key in self._wishes}
        for key, want in wanted.items():
            if isinstance(want, NotOffloaded) and key not in have:
                self._note_reason(label, key, want)
        if not entries and not have:
            return ()
        change = diff(have, entries)
        for key in change.withdraw:
            reason = str(wanted[key])
            self._forget(key, reason)
            self._keep_reason(key, reason)
        for entry in change.install:
            self._want(_Wish(entry, label))
        return change.withdraw

    def withdraw(self, key: int, reason: str) -> None:
        """A port is given up: take its entry out, if there is one."""
        if key in self._wishes:
            self._forget(key, reason)
        self._reasons.pop(key, None)

    def is_wanted(self, key: int) -> bool:
        """Whether a session wants an entry for the port; the kernel has it as far as there is a route."""
        return key in self._wishes

    def hold(self, key: int) -> None:
        """Let the kernel forward nothing from the port until `seed`, because userspace is about to count a packet."""
        if key in self._installed:
            self._rows.hold(key)

    def seed(self, key: int, tracker: SequenceTracker) -> None:
        """Let the kernel count on from where the tracker stands: now, or when it gets an entry for the port."""
        if key in self._installed:
            self._rows.seed(key, tracker.state())
        else:
            self._seeds[key] = tracker

    def tiers(self) -> Tiers:
        """Who forwards the streams, as far as they are learned."""
        frames = {name: count for name, count in self._rows.verdicts().items() if count}
        return Tiers(
            kernel=Counter(program for _, _, program in self._installed.values()),
            userspace=Counter(self._reasons.values()),
            frames={**frames, "forwarded_though_not_rtp": self._rows.total_parse_errors()},
            rest="not complete or not learned yet",
        )

    def reroute(self, most: int) -> bool:
        """Put the entries of up to `most` peers where their routes lead now; True when there are more to look at."""
        for target in self._next_hops.reroute(most):
            for key in self._keys_by_target.get(target, ()):
                self._place(self._wishes[key])
        return not self._next_hops.is_rerouted

    def _want(self, wish: _Wish) -> None:
        key = wish.entry.key
        targets = _targets(wish.entry)
        old = self._wishes.get(key)
        # New targets are acquired before old ones are released, so that a row they share stays.
        for target in targets:
            self._next_hops.acquire(*target)
        if old is not None:
            self._release(old)
        self._wishes[key] = wish
        for target in targets:
            self._keys_by_target.setdefault(target, set()).add(key)
        self._place(wish)

    def _place(self, wish: _Wish) -> None:
        """Write the row as the routes stand."""
        entry = wish.entry
        route, back = self._next_hops.current(*_way_out(entry)), self._next_hops.current(*_way_back(entry))
        if isinstance(route, NoRoute):
            self._leave(wish, route.reason)
            return
        no_way_in = back.no_way_in if isinstance(back, NoRoute) else ""
        if isinstance(back, Route) and back.tier is Tier.USERSPACE:
            no_way_in = f"nothing is forwarded that arrives {back.description}"
        if no_way_in:
            # An entry would cost each packet that userspace relays a hand-over of the statistics, and forward none.
            self._leave(wish, f"its way in: {no_way_in}")
            return
        installed = self._installed.get(entry.key)
        program = _program(route, back)
        if installed == (entry, route, program):
            return
        tracker = self._seeds.pop(entry.key, None)
        if tracker is not None:
            self._rows.seed(entry.key, tracker.state())
        self._rows.install(entry, route.from_host, route.number, route.ttl)
        self._installed[entry.key] = entry, route, program
        self._reasons.pop(entry.key, None)
        if log.isEnabledFor(logging.INFO):
            what = "changed in" if installed else "enters"
            where = f"{entry.source} -> port {entry.port} -> {entry.to} {route.description}"
            log.info("%s: stream %s; %s the kernel, %s", wish.label, where, what, program)

    def _leave(self, wish: _Wish, reason: str) -> None:
        key, port = wish.entry.key, wish.entry.port
        if key in self._installed:
            self._rows.withdraw(key)
            del self._installed[key]
            log.info("%s: stream at port %d leaves the kernel: %s", wish.label, port, reason)
        else:
            log.info("%s: stream at port %d stays in userspace: %s", wish.label, port, reason)
        self._reasons[key] = reason

    def _note_reason(self, label: str, key: int, reason: NotOffloaded) -> None:
        """Of a stream that had no entry."""
        before = self._reasons.get(key)
        if self._keep_reason(key, reason) and before != reason:
            log.info("%s: stream at port %d stays in userspace: %s", label, key & 0xFFFF, reason)

    def _keep_reason(self, key: int, reason: str) -> bool:
        """Whether there is one to keep: that a stream is not learned yet is nothing to speak of."""
        if reason in (NOT_LEARNED, PEER_UNKNOWN):
            self._reasons.pop(key, None)
            return False
        self._reasons[key] = reason
        return True

    def _forget(self, key: int, reason: str) -> None:
        wish = self._wishes.pop(key)
        self._seeds.pop(key, None)
        if key in self._installed:
            self._leave(wish, reason)
        self._release(wish)

    def _release(self, wish: _Wish) -> None:
        for target in _targets(wish.entry):
            keys = self._keys_by_target[target]
            keys.discard(wish.entry.key)
            if not keys:
                del self._keys_by_target[target]
            self._next_hops.release(*target)


def _targets(entry: ForwardingEntry) -> Collection[tuple[str, str]]:
    """The routes that an entry depends on."""
    return dict.fromkeys((_way_out(entry), _way_back(entry)))


def _program(route: Route, back: Route | NoRoute) -> str:
    """Which program forwards a stream, told by where its sender is."""
    if isinstance(back, NoRoute):
        return "XDP or TC"
    return "TC" if back.tier is Tier.TC or not route.is_by_xdp else "XDP"


def _way_out(entry: ForwardingEntry) -> tuple[str, str]:
    return entry.to.host, entry.from_host


def _way_back(entry: ForwardingEntry) -> tuple[str, str]:
    """The route to the sender, which tells where its packets most likely arrive: a peer's way out, if it has one."""
    return entry.source.host, entry.local_host
