"""Keeps the kernel's forwarding entries as sessions want them, where routes allow it.

Entries that sessions want go in, rows of the port table come out. What is installed follows what is wanted (see
`entry.diff`), and the routes when they change. The owner of an entry hears when the kernel takes the stream over, and
when it gives it back: an entry whose packets keep coming up counts as given back. The parts that touch the kernel are
handed in.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rtpproxy.offload.contradictions import Contradictions
from rtpproxy.offload.entry import (
    NOT_LEARNED,
    PEER_UNKNOWN,
    ForwardingEntry,
    Ingress,
    NotOffloaded,
    Owner,
    Tier,
    diff,
)
from rtpproxy.offload.nexthop import NextHops, NoRoute, Route
from rtpproxy.rtp.statistics import RtpState, SequenceTracker

log = logging.getLogger(__name__)

PLACED_AT_ONCE = 128
"""Rows that are written before packets and commands get their turn: thousands of calls may have one peer."""
COMES_UP = "its packets reach userspace all the same"
"""The reason of a stream that has an entry and contradicts it."""


class Rows(Protocol):
    """The part of the port table that entries are written to. Ports come as keys."""

    def install(self, entry: ForwardingEntry, from_host: str, next_hop: int, ttl: int, ingress: Ingress) -> None: ...
    def withdraw(self, key: int) -> None: ...
    def hold(self, key: int) -> None: ...
    def seed(self, key: int, state: RtpState) -> None: ...


@dataclass(frozen=True, slots=True)
class _Wish:
    """An entry that is wanted, and who wants it."""

    entry: ForwardingEntry
    owner: Owner


class _Placed(NamedTuple):
    """What is in a row, and which program forwards by it."""

    entry: ForwardingEntry
    route: Route
    ingress: Ingress
    program: str


@dataclass(frozen=True, slots=True)
class Contradicted:
    """What a check of the entries found."""

    ingress: Mapping[int, bool]
    """Interfaces by which streams arrive that contradict their entries; True where that began with this check."""
    packets: int
    """Packets of such streams that came up since the check before."""


class Forwarder:
    """Installs and withdraws forwarding entries. Times are seconds, monotonic."""

    rest = "not complete or not learned yet"
    """The reason of the streams in userspace that `by_reason` does not count."""

    def __init__(self, rows: Rows, next_hops: NextHops, contradictions: Contradictions) -> None:
        self._rows = rows
        self._next_hops = next_hops
        self._contradictions = contradictions
        self._wishes: dict[int, _Wish] = {}
        self._keys_by_target: dict[tuple[str, str], set[int]] = {}
        self._installed: dict[int, _Placed] = {}
        """By key of the port."""
        self._unplaced: dict[int, None] = {}
        """Keys of ports whose routes changed, and whose rows were not written since."""
        self._reasons: dict[int, str] = {}
        """By key of the port: why a learned stream is not forwarded."""
        self._seeds: dict[int, SequenceTracker] = {}
        """By key of the port: where the kernel's statistics must go on, once there is an entry for it."""

    def apply(self, owner: Owner, wanted: Mapping[int, ForwardingEntry | NotOffloaded], now: float) -> Collection[int]:
        """Install and withdraw entries of an owner's ports as wanted. Returns the keys of ports that lost theirs."""
        entries, have = {}, {}
        for key, want in wanted.items():
            wish = self._wishes.get(key)
            if wish is not None:
                have[key] = wish.entry
            if isinstance(want, ForwardingEntry):
                entries[key] = want
            elif wish is None:
                self._note_reason(owner, key, want)
        if not entries and not have:
            return ()
        change = diff(have, entries)
        for key in change.withdraw:
            reason = str(wanted[key])
            self._forget(key, reason, now)
            self._keep_reason(key, reason)
        for entry in change.install:
            self._want(_Wish(entry, owner), now)
        return change.withdraw

    def withdraw(self, key: int, reason: str, now: float) -> None:
        """Take out the entry of a port that is given up, if there is one."""
        if key in self._wishes:
            self._forget(key, reason, now)
        self._reasons.pop(key, None)

    def is_wanted(self, key: int) -> bool:
        """Tell whether an entry is wanted for the port; it is installed only if there is a route."""
        return key in self._wishes

    def hold(self, key: int) -> None:
        """Forward nothing from the port until `seed`, because userspace is about to count a packet."""
        if key in self._installed:
            self._rows.hold(key)

    def seed(self, key: int, tracker: SequenceTracker) -> None:
        """Let the kernel count on from where the tracker stands: now, or when it gets an entry for the port."""
        if key in self._installed:
            self._rows.seed(key, tracker.state())
        else:
            self._seeds[key] = tracker

    def came_up(self, key: int, now: float) -> None:
        """Note that a packet reached userspace which the entry of its port, if there is one, should have forwarded."""
        if key in self._installed:
            self._contradictions.came_up(key, now)

    def check(self, now: float) -> Contradicted:
        """Compare the entries with the packets that came up all the same. To be called every second."""
        changes = self._contradictions.check(now)
        for key in changes.began:
            wish = self._wishes[key]
            log.info("%s: stream at port %d has an entry, but %s", wish.owner.label, wish.entry.port, COMES_UP)
            wish.owner.left_kernel(key, COMES_UP, now)
        for key in changes.ended:
            self._tell_entered(self._wishes[key], "enters the kernel again", now)
        ingress: dict[int, bool] = {}
        for key in self._contradictions:
            index = self._ingress_of(key)
            ingress[index] = ingress.get(index, False) or key in changes.began
        return Contradicted(ingress, changes.packets)

    def installed_by(self, ingress: int) -> list[int]:
        """List the ports whose entries are for packets that arrive by an interface."""
        return [key for key in self._installed if self._ingress_of(key) == ingress]

    def _ingress_of(self, key: int) -> int:
        return self._next_hops.interface(*_ingress(self._wishes[key].entry))

    def by_program(self) -> Mapping[str, int]:
        """Count the streams that the kernel forwards, by program."""
        kept_up = self._contradictions
        return Counter(placed.program for key, placed in self._installed.items() if key not in kept_up)

    def by_reason(self) -> Mapping[str, int]:
        """Count the learned streams that the kernel does not forward, by reason."""
        reasons = Counter(self._reasons.values())
        if len(self._contradictions):
            reasons[COMES_UP] = len(self._contradictions)
        return reasons

    def reroute(self, most: int, now: float) -> bool:
        """Adapt entries to the current routes of up to `most` peers; True when there is more to be done."""
        if not self._unplaced:
            for target in self._next_hops.reroute(most):
                self._unplaced.update(dict.fromkeys(self._keys_by_target.get(target, ())))
        for _ in range(min(PLACED_AT_ONCE, len(self._unplaced))):
            # One that fails does not keep the others from being placed, at the next call.
            key, _ = self._unplaced.popitem()
            if key in self._wishes:
                self._place(self._wishes[key], now)
        return bool(self._unplaced) or not self._next_hops.is_rerouted

    def _want(self, wish: _Wish, now: float) -> None:
        key = wish.entry.key
        targets = _targets(wish.entry)
        old = self._wishes.get(key)
        # New routes are acquired before old ones are released, so that a next hop row that both use stays.
        with ExitStack() as on_failure:
            for target in targets:
                self._next_hops.acquire(*target)
                on_failure.callback(self._next_hops.release, *target)
            on_failure.pop_all()
        if old is not None:
            self._release(key, old)
        self._wishes[key] = wish
        for target in targets:
            self._keys_by_target.setdefault(target, set()).add(key)
        self._place(wish, now)

    def _place(self, wish: _Wish, now: float) -> None:
        """Write the row according to the routes as they are now."""
        entry = wish.entry
        route, back = self._next_hops.current(*_egress(entry)), self._next_hops.current(*_ingress(entry))
        if isinstance(route, NoRoute):
            self._leave(wish, route.reason, now)
            return
        no_ingress = back.no_ingress if isinstance(back, NoRoute) else ""
        if isinstance(back, Route) and back.tier is Tier.USERSPACE:
            no_ingress = f"nothing is forwarded that arrives {back.description}"
        if no_ingress:
            # An entry would forward nothing, and cost a hand-over of the statistics for each packet in userspace.
            self._leave(wish, f"ingress: {no_ingress}", now)
            return
        key, placed = entry.key, _Placed(entry, route, back.ingress, _program(route, back))
        installed = self._installed.get(key)
        if installed == placed:
            return
        tracker = self._seeds.pop(key, None)
        if tracker is not None:
            self._rows.seed(key, tracker.state())
        self._next_hops.numbers.start_naming(key, route.number)
        self._rows.install(entry, route.from_host, route.number, route.ttl, back.ingress)
        self._next_hops.numbers.named(key, route.number)
        self._installed[key] = placed
        self._reasons.pop(key, None)
        had_left = self._contradictions.forget(key)
        is_news = not installed or installed.program != placed.program or had_left
        self._tell_entered(wish, "changed in the kernel" if installed else "enters the kernel", now, is_news=is_news)

    def _tell_entered(self, wish: _Wish, what: str, now: float, *, is_news: bool = True) -> None:
        """Log that the kernel forwards a stream; tell its owner if that is news."""
        entry = wish.entry
        placed = self._installed[entry.key]
        if log.isEnabledFor(logging.INFO):
            where = f"{entry.source} -> port {entry.port} -> {entry.to} {placed.route.description}"
            log.info("%s: stream %s; %s, %s", wish.owner.label, where, what, placed.program)
        if is_news:
            wish.owner.entered_kernel(entry.key, placed.program, now)

    def _leave(self, wish: _Wish, reason: str, now: float) -> None:
        """Withdraw the row of a wish that stays, or is about to be forgotten."""
        key = wish.entry.key
        if self._next_hops.numbers.is_named_by(key):
            self._rows.withdraw(key)
            self._next_hops.numbers.unnamed(key)
        was_installed = self._installed.pop(key, None) is not None
        had_left = self._contradictions.forget(key)
        self._reasons[key] = reason
        if log.isEnabledFor(logging.INFO):
            what = "leaves the kernel" if was_installed else "stays in userspace"
            log.info("%s: stream at port %d %s: %s", wish.owner.label, wish.entry.port, what, reason)
        if was_installed and not had_left:
            wish.owner.left_kernel(key, reason, now)

    def _note_reason(self, owner: Owner, key: int, reason: NotOffloaded) -> None:
        """Keep the reason why a stream that had no entry gets none; log it if it is new."""
        before = self._reasons.get(key)
        if self._keep_reason(key, reason) and before != reason:
            log.info("%s: stream at port %d stays in userspace: %s", owner.label, key & 0xFFFF, reason)

    def _keep_reason(self, key: int, reason: str) -> bool:
        """Keep a reason and return True, unless the stream is only not learned yet."""
        if reason in (NOT_LEARNED, PEER_UNKNOWN):
            self._reasons.pop(key, None)
            return False
        self._reasons[key] = reason
        return True

    def _forget(self, key: int, reason: str, now: float) -> None:
        wish = self._wishes.pop(key)
        self._seeds.pop(key, None)
        if key in self._installed or self._next_hops.numbers.is_named_by(key):
            self._leave(wish, reason, now)
        self._release(key, wish)

    def _release(self, key: int, wish: _Wish) -> None:
        for target in _targets(wish.entry):
            keys = self._keys_by_target[target]
            keys.discard(key)
            if not keys:
                del self._keys_by_target[target]
            self._next_hops.release(*target)


def _targets(entry: ForwardingEntry) -> Collection[tuple[str, str]]:
    """Return the routes that an entry depends on, as pairs of peer and local address."""
    return dict.fromkeys((_egress(entry), _ingress(entry)))


def _program(route: Route, back: Route | NoRoute) -> str:
    """Tell which program forwards a stream: that of the interface by which its packets arrive."""
    if isinstance(back, NoRoute):
        return "XDP or TC"
    return "TC" if back.tier is Tier.TC or not route.is_by_xdp else "XDP"


def _egress(entry: ForwardingEntry) -> tuple[str, str]:
    """Return the route to the peer."""
    return entry.to.host, entry.from_host


def _ingress(entry: ForwardingEntry) -> tuple[str, str]:
    """Return the route back to the sender; its packets most likely arrive by the same interface."""
    return entry.source.host, entry.local_host
