"""Keeps account of the streams of one kind and direction: what was sent, and what became of it.

Packets are numbered in the order that they were sent, so a number lower than the highest that arrived before is one
that was overtaken on its way.

**Transitions.** Until a stream is heard for the first time, the relay may not know yet where its packets go; the same
when the phone behind it has got another address. Packets that are sent in this time and do not arrive are counted as
`opening`, not as lost; this ends when the first one arrives, and at the latest at a limit that the caller sets.
Packets that were sent before this limit and were overtaken are counted apart, too: those that a relay's userspace still
has when the kernel takes over come out after those that the kernel forwards.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from generator.differences import Expectations, mask
from generator.frames import MAGIC, Frames, read_marks
from generator.words import Flags, Numbers, Rows, fold, put, word_sum

_TICK_NS = 10_000
"""Resolution of the times of sending that are kept: 10 µs, so that 32 bits hold 5 hours."""
MAX_RUN_S = 5 * 3600
_NEVER = np.iinfo(np.int64).max
DELAY_BIN_NS = 10_000
_DELAY_BINS = 100_000
"""Delays are counted by steps of 10 µs, up to a second."""


def ranks(keys: Numbers) -> Numbers:
    """For each key, how many of the same are before it."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    positions = np.arange(len(keys))
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = positions - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    return result


class Account:
    """Of N streams: one row for each, each with `capacity` packets at the most."""

    def __init__(
        self, name: tuple[str, str], frames: Frames, first_stream: int, capacity: int, expectations: Expectations
    ) -> None:
        """`name` is direction and kind; `frames` are those that should arrive."""
        count = len(frames)
        self.name = name
        self.first_stream = first_stream
        self.frames = frames
        self.previous: Frames | None = None
        self.expectations = expectations
        self.late_ns = 20_000_000
        self._mask = mask(frames.layout, expectations)
        self._capacity = capacity
        self._seen: NDArray[np.uint8] = np.zeros(count * capacity, dtype=np.uint8)
        self._sent_at: NDArray[np.int32] = np.zeros(count * capacity, dtype=np.int32)
        self._places: NDArray[np.int32] = np.zeros(count * capacity, dtype=np.int32)
        self.sent, self.doubled, self.reordered, self.late, self.wrong = np.zeros((5, count), dtype=np.int64)
        self.old_place, self.early_reordered = np.zeros((2, count), dtype=np.int64)
        self._highest = np.full(count, -1, dtype=np.int64)
        self._begin = np.zeros(count, dtype=np.int64)
        self._heard = np.full(count, _NEVER, dtype=np.int64)
        self._limit = np.full(count, _NEVER, dtype=np.int64)
        self._past_transitions: list[tuple[Numbers, Numbers, Numbers]] = []
        self.delays = np.zeros(_DELAY_BINS + 1, dtype=np.int64)
        self.max_delay_ns = 0
        self.faults: dict[int, Counter[str]] = {}
        """By stream: how many packets were wrong in each field."""

    # Sending

    def send(self, calls: Numbers, places: Numbers) -> Numbers:
        """Note packets that are to be sent, in this order; their numbers."""
        numbers = self.sent[calls] + ranks(calls)
        np.add.at(self.sent, calls, 1)
        at = calls * self._capacity + numbers
        self._places[at] = places
        return numbers

    def stamp(self, calls: Numbers, numbers: Numbers, now_ns: int) -> None:
        """Note when packets leave."""
        self._sent_at[calls * self._capacity + numbers] = now_ns // _TICK_NS

    def have_all_begun(self) -> bool:
        """Tell whether every stream has sent a packet."""
        return bool((self.sent > 0).all())

    # Transitions

    def start_transition(self) -> None:
        """From here on, packets may get lost until the first one arrives."""
        calls = np.arange(len(self.sent))
        ends = np.minimum(np.minimum(self._heard, self._limit), self.sent)
        self._past_transitions.append((calls, self._begin, ends))
        self._begin = self.sent.copy()
        self._heard = np.full(len(calls), _NEVER, dtype=np.int64)
        self._limit = np.full(len(calls), _NEVER, dtype=np.int64)

    def limit_transition(self, number: int) -> None:
        """From here on, every packet must arrive, if this transition is still the last; the opening is number 0."""
        if number == len(self._past_transitions):
            self._limit = np.minimum(self._limit, self.sent)

    def move(self, frames: Frames) -> None:
        """The phone has another address or port: other frames must arrive from now on. A transition starts."""
        self.previous = self.frames
        self.frames = frames
        self.start_transition()

    def is_heard(self) -> bool:
        """Tell whether the transition of every stream is over."""
        return bool((self._heard < _NEVER).all())

    # Arrivals

    def take(self, rows: Rows, times_ns: Numbers, is_unfinished: Flags) -> Flags:
        """Account for frames of the right length; which of them were right. The rest must be examined one by one."""
        layout = self.frames.layout
        magics, streams, numbers, places = read_marks(rows, layout.mark)
        calls = streams - self.first_stream
        is_right: Flags = (magics == MAGIC) & (calls >= 0) & (calls < len(self.sent))
        calls = np.where(is_right, calls, 0)
        is_right &= numbers < self.sent[calls]
        at = np.where(is_right, calls * self._capacity + numbers, 0)
        is_right &= self._places[at] == places
        known = np.flatnonzero(is_right)
        given = rows[known]
        expected = self._expected(self.frames, calls[known], numbers[known], places[known], is_unfinished[known])
        is_same = ~(((given ^ expected) & self._mask).any(axis=1))
        if layout.version == 4:
            is_same &= fold(word_sum(given, layout.ip, layout.udp)) == 0xFFFF
        is_right[known] = is_same
        right = known[is_same]
        if len(right):
            self._count(calls[right], numbers[right], times_ns[right])
        return is_right

    def expected(self, call: int, number: int, *, is_previous: bool = False) -> bytes | None:
        """The frame that should arrive for a packet that was sent; None if it was not sent."""
        frames = self.previous if is_previous else self.frames
        if frames is None or not (0 <= call < len(self.sent) and 0 <= number < self.sent[call]):
            return None
        place = self._places[call * self._capacity + number]
        calls, numbers, places = (np.array([value], dtype=np.int64) for value in (call, number, place))
        return frames.fill(calls, numbers, places).tobytes()

    def count_right(self, call: int, number: int, time_ns: int) -> None:
        """Account for a right frame that was examined."""
        self._count(np.array([call]), np.array([number]), np.array([time_ns]))

    def count_at_old_place(self, call: int, number: int, time_ns: int) -> bool:
        """Account for a frame to where the phone was before; False if the relay should have known better."""
        if number < self._begin[call]:
            self.count_right(call, number, time_ns)
        elif number < min(self._heard[call], self._limit[call]):
            self.old_place[call] += 1
        else:
            return False
        return True

    def count_wrong(self, call: int, number: int | None, fields: list[str]) -> None:
        """Account for a frame with something wrong in it; it has arrived all the same, if it is known which it is."""
        self.wrong[call] += 1
        self.faults.setdefault(call, Counter()).update(fields)
        if number is not None:
            at = call * self._capacity + number
            self._seen[at] = max(1, self._seen[at])
            if number >= self._begin[call]:
                self._note_heard(np.array([call]))

    def _expected(
        self, frames: Frames, calls: Numbers, numbers: Numbers, places: Numbers, is_unfinished: Flags
    ) -> Rows:
        rows = frames.fill(calls, numbers, places)
        if is_unfinished.any():
            open_sums = rows[is_unfinished]
            put(open_sums, frames.layout.udp + 6, 2, fold(frames.pseudo_sums[calls[is_unfinished]]))
            rows[is_unfinished] = open_sums
        return rows

    def _count(self, calls: Numbers, numbers: Numbers, times_ns: Numbers) -> None:
        at = calls * self._capacity + numbers
        is_first = np.zeros(len(at), dtype=bool)
        is_first[np.unique(at, return_index=True)[1]] = True
        is_first &= self._seen[at] == 0
        np.add.at(self.doubled, calls[~is_first], 1)
        self._seen[at] = 1
        calls, numbers, at, times_ns = calls[is_first], numbers[is_first], at[is_first], times_ns[is_first]
        if not len(calls):
            return
        self._count_order(calls, numbers)
        delays = np.maximum(0, times_ns - self._sent_at[at].astype(np.int64) * _TICK_NS)
        np.add.at(self.late, calls[delays > self.late_ns], 1)
        self.delays += np.bincount(np.minimum(delays // DELAY_BIN_NS, _DELAY_BINS), minlength=_DELAY_BINS + 1)
        self.max_delay_ns = max(self.max_delay_ns, int(delays.max()))
        is_new = numbers >= self._begin[calls]
        self._note_heard(calls[is_new])

    def _note_heard(self, calls: Numbers) -> None:
        """The first packets of these streams' transitions arrive, or later ones: what is sent from now on counts."""
        self._heard[calls] = np.minimum(self._heard[calls], self.sent[calls])

    def _count_order(self, calls: Numbers, numbers: Numbers) -> None:
        """Count packets with a lower number than one of the same stream that arrived before them."""
        order = np.argsort(calls, kind="stable")
        calls, numbers = calls[order], numbers[order]
        base = calls * (self._capacity + 1)
        highest = np.maximum.accumulate(np.maximum(numbers, self._highest[calls]) + base) - base
        is_same_call = np.r_[False, calls[1:] == calls[:-1]]
        before = np.where(is_same_call, np.r_[-1, highest[:-1]], self._highest[calls])
        is_overtaken = numbers < before
        is_early = numbers < self._limit[calls]
        np.add.at(self.reordered, calls[is_overtaken & ~is_early], 1)
        np.add.at(self.early_reordered, calls[is_overtaken & is_early], 1)
        np.maximum.at(self._highest, calls, numbers)

    # Outcome

    def received(self) -> Numbers:
        """By stream: different packets that arrived."""
        counted: Numbers = self._seen.reshape(-1, self._capacity).sum(axis=1, dtype=np.int64)
        return counted

    def opening(self) -> Numbers:
        """By stream: packets that did not arrive, and had not to."""
        excused = np.zeros(len(self.sent), dtype=np.int64)
        current = (np.arange(len(self.sent)), self._begin, np.minimum(self._heard, self._limit))
        for calls, begins, ends in (*self._past_transitions, current):
            for call, begin, end in zip(calls, begins, np.minimum(ends, self.sent), strict=True):
                start = call * self._capacity
                excused[call] += int((self._seen[start + begin : start + end] == 0).sum())
        return excused
