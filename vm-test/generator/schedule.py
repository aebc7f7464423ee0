"""When each packet of a set of streams is sent: an even rate, with loss, reordering and jitter by a seed."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from generator.words import Numbers

NS = 1_000_000_000


@dataclass(frozen=True)
class Impairments:
    """What the network between phone and relay does: shares from 0 to 1, and the most that jitter adds, in seconds."""

    loss: float = 0.0
    reorder: float = 0.0
    jitter_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Streams that send alike: each one packet a period, from `start_ns` to `end_ns` but for `silence_ns`.

    Times are nanoseconds since the start of the media. The streams start one after the other within `spread_ns`, or
    within a period where it is shorter.
    """

    streams: int
    period_ns: int
    start_ns: int
    end_ns: int
    silence_ns: tuple[int, int] = (0, 0)
    spread_ns: int = NS

    @property
    def packets(self) -> int:
        """Places of one stream; no stream sends more packets."""
        return max(0, -((self.start_ns - self.end_ns) // self.period_ns))


class Due(NamedTuple):
    """Packets that are to be sent, in this order: which stream, which place in the stream, and when it was due."""

    streams: Numbers
    places: Numbers
    due_ns: Numbers


_NONE = np.zeros(0, dtype=np.int64)


class Schedule:
    """Hands out packets as they become due. What it hands out depends on plan, impairments and seed only."""

    def __init__(self, plan: Plan, impairments: Impairments, seed: tuple[int, ...]) -> None:
        self._plan = plan
        self._impairments = impairments
        self._seed = seed
        spread_ns = min(plan.period_ns, plan.spread_ns)
        self._phases = np.random.default_rng((*seed, 0)).permutation(plan.streams) * spread_ns // plan.streams
        self._block_places = max(1, min(NS // plan.period_ns, 1_000_000 // plan.streams))
        self._next_place = 0
        self._streams, self._places, self._due = _NONE, _NONE, _NONE
        self.withheld = np.zeros(plan.streams, dtype=np.int64)
        """By stream: packets that the impairments lost, so far."""

    @property
    def is_over(self) -> bool:
        """True if nothing is left to hand out."""
        return self._next_place >= self._plan.packets and not len(self._due)

    def take(self, now_ns: int) -> Due:
        """Take what is due by now, in the order of time."""
        while self._next_place < self._plan.packets and self._complete_until_ns() <= now_ns:
            self._add_block()
        count = int(np.searchsorted(self._due, now_ns, side="right"))
        due = Due(self._streams[:count], self._places[:count], self._due[:count])
        self._streams, self._places, self._due = self._streams[count:], self._places[count:], self._due[count:]
        return due

    def _complete_until_ns(self) -> int:
        """Before this time, no packet is missing in the queue."""
        return self._plan.start_ns + self._next_place * self._plan.period_ns

    def _add_block(self) -> None:
        plan = self._plan
        end = min(self._next_place + self._block_places, plan.packets)
        random = np.random.default_rng((*self._seed, 1 + self._next_place))
        places = np.repeat(np.arange(self._next_place, end), plan.streams)
        streams = np.tile(np.arange(plan.streams), end - self._next_place)
        nominal = plan.start_ns + places * plan.period_ns + self._phases[streams]
        is_lost = random.random(len(places)) < self._impairments.loss
        delays = self._delays(random, len(places))
        is_wanted = (nominal < plan.silence_ns[0]) | (nominal >= plan.silence_ns[1])
        np.add.at(self.withheld, streams[is_lost & is_wanted], 1)
        kept = is_wanted & ~is_lost
        due = np.concatenate([self._due, nominal[kept] + delays[kept]])
        order = np.argsort(due, kind="stable")
        self._due = due[order]
        self._streams = np.concatenate([self._streams, streams[kept]])[order]
        self._places = np.concatenate([self._places, places[kept]])[order]
        self._next_place = end

    def _delays(self, random: np.random.Generator, count: int) -> Numbers:
        """How much later each is sent: by jitter, and one period and a half where the next is to overtake it."""
        impairments = self._impairments
        overtaken = (random.random(count) < impairments.reorder) * (self._plan.period_ns * 3 // 2)
        jitter = random.random(count) * impairments.jitter_s * NS
        delays: Numbers = (overtaken + jitter).astype(np.int64)
        return delays
