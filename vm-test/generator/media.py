"""The media of a run: the loop that sends what is due, takes what has arrived, and lets things happen at their time."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from generator.accounts import Account
from generator.frames import Frames, Kind
from generator.interface import Interface
from generator.judge import Judge
from generator.schedule import Due, Schedule
from generator.side import Side
from generator.words import Numbers

TICK_S = 0.002
SENT_LATE_NS = 10_000_000
"""Packets that are sent so long after they were due show that this program, or its machine, is too slow."""
LEAD_NS = 20_000_000
DRAIN_S, DRAIN_LIMIT_S = 1.0, 5.0
"""After the last packet: how long nothing may arrive until the rest is taken for lost, and the longest wait in all."""


@dataclass
class Outgoing:
    """Frames of one kind and direction that nobody expects to arrive, as they are sent: strays."""

    schedule: Schedule
    frames: Frames
    interface: Interface
    sent: int = 0

    def send(self, media_ns: int, stamp_ns: Callable[[], int]) -> int:
        """Send what is due; how many packets were due too long ago. `stamp_ns` tells the judge's time."""
        due = self.schedule.take(media_ns)
        if not len(due.streams):
            return 0
        numbers = self._number(due)
        rows = self.frames.fill(due.streams, numbers, due.places)
        self._stamp(due, numbers, stamp_ns())
        self.interface.send_rows(rows)
        self.sent += len(due.streams)
        return int((media_ns - due.due_ns > SENT_LATE_NS).sum())

    def _number(self, due: Due) -> Numbers:
        return self.sent + np.arange(len(due.streams))

    def _stamp(self, due: Due, numbers: Numbers, now_ns: int) -> None:
        """Nobody asks when a stray was sent."""


@dataclass
class Judged(Outgoing):
    """Streams of one kind and direction, whose packets are in an account."""

    account: Account = field(kw_only=True)

    def _number(self, due: Due) -> Numbers:
        return self.account.send(due.streams, due.places)

    def _stamp(self, due: Due, numbers: Numbers, now_ns: int) -> None:
        self.account.stamp(due.streams, numbers, now_ns)


@dataclass
class Media:
    """All streams of a run, the interfaces, and what is to happen when (nanoseconds since the start)."""

    outgoing: list[Outgoing]
    interfaces: list[Interface]
    sides: list[Side]
    judge: Judge
    events: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    sent_late: int = 0
    dropped: int = 0
    """Frames that arrived while this program was too slow to take them."""
    began_ns: int | None = None
    """When every stream of RTP had sent its first packet, on the monotonic clock."""
    _epoch_ns: int = 0

    @property
    def strays_sent(self) -> int:
        """How many frames were sent that must arrive nowhere."""
        return sum(one.sent for one in self.outgoing if not isinstance(one, Judged))

    def run(self, is_stopped: Callable[[], bool]) -> None:
        """Send until everything is sent, or it is stopped; then take until all has arrived, or nothing more comes."""
        events = sorted(self.events, key=lambda event: event[0])
        self._epoch_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        start_ns = time.monotonic_ns() + LEAD_NS
        tick_ns = start_ns
        for interface in self.interfaces:
            interface.dropped()  # what came before does not matter
        while not is_stopped() and not all(one.schedule.is_over for one in self.outgoing):
            now_ns = time.monotonic_ns() - start_ns
            while events and events[0][0] <= now_ns:
                events.pop(0)[1]()
            for one in self.outgoing:
                self.sent_late += one.send(now_ns, self._judge_ns)
            self._note_begin()
            pump(self.interfaces, self.sides, self.judge, self._epoch_ns)
            tick_ns = max(tick_ns + int(TICK_S * 1e9), time.monotonic_ns())
            time.sleep(max(0.0, (tick_ns - time.monotonic_ns()) / 1e9))
        for _, happen in [] if is_stopped() else events:
            happen()
        self._drain()
        self.dropped = sum(interface.dropped() for interface in self.interfaces)

    def _judge_ns(self) -> int:
        """The judge's time: that of the kernel's stamps, from the start on."""
        return time.clock_gettime_ns(time.CLOCK_REALTIME) - self._epoch_ns

    def _note_begin(self) -> None:
        if self.began_ns is None and all(account.have_all_begun() for account in self._rtp_accounts()):
            self.began_ns = time.monotonic_ns()

    def _drain(self) -> None:
        """Take what is still on its way."""
        accounts = [one.account for one in self.outgoing if isinstance(one, Judged)]
        end = time.monotonic() + DRAIN_LIMIT_S
        quiet_at = time.monotonic() + DRAIN_S
        while time.monotonic() < min(end, quiet_at):
            if pump(self.interfaces, self.sides, self.judge, self._epoch_ns):
                quiet_at = time.monotonic() + DRAIN_S
            is_complete = all((account.received() == account.sent).all() for account in accounts)
            if is_complete and len(accounts) == len(self.outgoing):
                return
            time.sleep(TICK_S)

    def _rtp_accounts(self) -> list[Account]:
        judged = [one for one in self.outgoing if isinstance(one, Judged)]
        return [one.account for one in judged if one.frames.layout.kind is Kind.RTP]


def pump(interfaces: Iterable[Interface], sides: Iterable[Side], judge: Judge, epoch_ns: int) -> int:
    """Take all that has arrived; how many frames it was."""
    count = 0
    for interface in interfaces:
        while (chunk := interface.take(epoch_ns)) is not None:
            count += len(chunk.lengths)
            for frame in judge.take(interface.name, chunk):
                for side in sides:
                    if side.interface is interface:
                        side.take(frame)
    return count
