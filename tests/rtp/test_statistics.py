"""Sequence statistics (protocol.md 11.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.statistics import Arrival, RtpTotals, SequenceTracker


def rtp(sequence, ssrc=1, timestamp=0, payload_type=0, marker=False):
    return RtpHeader(ssrc, sequence % 65536, timestamp % 2**32, payload_type, marker)


def track(*packets):
    tracker = SequenceTracker()
    for packet in packets:
        tracker.observe(packet if packet is None or isinstance(packet, tuple) else rtp(packet), 0.0)
    return tracker


def counts(tracker):
    return tracker.sent, tracker.received, tracker.duplicates, tracker.lost


M = True
SEQUENCES = {
    "nothing": ([], (0, 0, 0, 0)),
    "one": ([7], (1, 1, 0, 0)),
    "in order": ([7, 8, 9], (3, 3, 0, 0)),
    "lost": ([7, 10], (4, 2, 0, 2)),
    "late": ([7, 10, 8], (4, 3, 0, 1)),
    "late twice": ([7, 10, 8, 8], (4, 3, 1, 1)),
    "duplicate": ([7, 7, 8, 8, 7], (2, 2, 3, 0)),
    "before the first": ([10, 8], (3, 2, 0, 1)),
    "between the first and the one before": ([10, 8, 9, 9], (3, 3, 1, 0)),
    "wrap": ([65534, 65535, 0, 1], (4, 4, 0, 0)),
    "wrap with loss": ([65534, 1], (4, 2, 0, 2)),
    "late across the wrap": ([65534, 1, 65535], (4, 3, 0, 1)),
    "before the first across the wrap": ([1, 65535], (3, 2, 0, 1)),
    "furthest jump ahead": ([100, 636], (537, 2, 0, 535)),
    "jump ahead": ([100, 637], (2, 2, 0, 0)),
    "furthest jump back": ([1000, 464], (537, 2, 0, 535)),
    "jump back": ([1000, 463], (2, 2, 0, 0)),
    "run after a jump": ([100, 101, 5000, 5002, 5002], (5, 4, 1, 1)),
    "marker ahead": ([7, rtp(9, marker=M)], (3, 2, 0, 1)),
    "marker going back": ([7, 8, 9, rtp(7, marker=M), 8], (5, 5, 0, 0)),
    "marker across the wrap": ([65535, rtp(0, marker=M)], (2, 2, 0, 0)),
    "marker repeated": ([7, rtp(7, marker=M)], (1, 1, 1, 0)),
    "another ssrc": ([7, 9, rtp(500, ssrc=2), rtp(502, ssrc=2)], (6, 4, 0, 2)),
    "ssrc zero": ([rtp(1, ssrc=0), rtp(2, ssrc=0)], (2, 2, 0, 0)),
    "not rtp between": ([7, None, 8], (2, 2, 0, 0)),
}


@pytest.mark.parametrize(("packets", "expected"), SEQUENCES.values(), ids=SEQUENCES)
def test_sequences(packets, expected):
    assert counts(track(*packets)) == expected


A = Arrival
ARRIVALS = {
    "in order": ([7, 8, 9], [A.RUN_STARTED, A.NEXT, A.NEXT]),
    "wrap": ([65535, 0], [A.RUN_STARTED, A.NEXT]),
    "late": ([7, 10, 8, 8], [A.RUN_STARTED, A.OUT_OF_ORDER, A.OUT_OF_ORDER, A.DUPLICATE]),
    "before the first": ([10, 8], [A.RUN_STARTED, A.OUT_OF_ORDER]),
    "duplicate": ([7, 7, 8, 7], [A.RUN_STARTED, A.DUPLICATE, A.NEXT, A.DUPLICATE]),
    "furthest jumps": ([1000, 1536, 1000], [A.RUN_STARTED, A.OUT_OF_ORDER, A.DUPLICATE]),
    "jump ahead": ([1000, 1537, 1538], [A.RUN_STARTED, A.RUN_STARTED, A.NEXT]),
    "jump back": ([1000, 463], [A.RUN_STARTED, A.RUN_STARTED]),
    "marker ahead": ([7, rtp(9, marker=M)], [A.RUN_STARTED, A.OUT_OF_ORDER]),
    "marker going back": ([7, 8, rtp(7, marker=M), 8], [A.RUN_STARTED, A.NEXT, A.TALK_STARTED, A.NEXT]),
    "marker repeated": ([7, rtp(7, marker=M)], [A.RUN_STARTED, A.DUPLICATE]),
    "not RTP": ([None, 7, None, 8], [A.NOT_RTP, A.RUN_STARTED, A.NOT_RTP, A.NEXT]),
    "another SSRC": (
        [rtp(1, ssrc=0), rtp(2, ssrc=0), None, rtp(3, ssrc=5), rtp(4, ssrc=5), rtp(5, ssrc=0)],
        [A.RUN_STARTED, A.NEXT, A.NOT_RTP, A.SSRC_CHANGED, A.NEXT, A.SSRC_CHANGED],
    ),
}


@pytest.mark.parametrize(("packets", "expected"), ARRIVALS.values(), ids=ARRIVALS)
def test_what_a_packet_is_among_those_before(packets, expected):
    tracker = SequenceTracker()
    arrivals = [
        tracker.observe(packet if packet is None or isinstance(packet, tuple) else rtp(packet), 0.0)
        for packet in packets
    ]
    assert arrivals == expected
    assert tracker.parse_errors == packets.count(None)


def test_longest_gap_counts_every_packet():
    tracker = SequenceTracker()
    assert tracker.longest_gap_s == 0.0
    for at, packet in [(5.0, rtp(1)), (5.02, rtp(2)), (7.0, None), (8.0, rtp(3))]:
        tracker.observe(packet, at)
    assert tracker.longest_gap_s == pytest.approx(1.98)


# What the kernel forwarded


def forward(tracker, *packets, totals=None, changed_at=0.0):
    """Let the kernel, played by another tracker, count packets given as (number, seconds), and absorb its counts.

    `changed_at` is when it saw the SSRC change.
    """
    kernel = SequenceTracker()
    kernel.absorb_forwarded(0, tracker.state(), RtpTotals())
    before = kernel.sent - kernel.received
    for packet, at in packets:
        kernel.observe(packet if packet is None or isinstance(packet, tuple) else rtp(packet), at)
    start = totals or RtpTotals()
    totals = RtpTotals(
        (start.lost + kernel.lost - before) % 2**32,
        (start.duplicates + kernel.duplicates) % 2**32,
        start.parse_errors + kernel.parse_errors,
        start.jitter_total + kernel.jitter.total,
        (start.jitter_count + kernel.jitter.count) % 2**32,
        (start.ssrc_changes + kernel.ssrc_changes) % 2**32,
    )
    tracker.absorb_forwarded(len(packets), kernel.state(), totals, changed_at)
    return totals


def test_forwarded_packets_count_as_their_own():
    tracker = track(100, 103)
    forward(tracker, (104, 1.0), (102, 1.02), (102, 1.04), (106, 1.06), (None, 1.08))
    assert counts(tracker) == (7, 5, 1, 2)
    assert tracker.parse_errors == 1
    for packet in (105, 101, 101, 107):
        tracker.observe(rtp(packet), 1.1)
    assert counts(tracker) == (8, 8, 2, 0)


def test_kernel_goes_on_from_where_it_is_told():
    tracker = track(65533, 65535)
    state = tracker.state()
    assert (state.ssrc, state.highest, state.lowest, state.missing) == (1, 65535, 65533, {65534})
    forward(tracker, (0, 0.0), (65534, 0.0))
    assert tracker.state().missing == frozenset()
    assert counts(tracker) == (4, 4, 0, 0)


def test_only_the_difference_of_the_totals_counts():
    """The totals belong to the port: they did not start with this session, and they wrap."""
    tracker = track(100)
    start = RtpTotals(2**32 - 1, 2**32 - 1, 5, 1000.0, 2**32 - 1)
    tracker.skip_forwarded(start)
    totals = forward(tracker, (103, 0.0), (103, 0.0), totals=start)
    assert (totals.lost, totals.duplicates) == (1, 0)
    assert counts(tracker) == (4, 2, 1, 2)
    tracker.absorb_forwarded(1, tracker.state()._replace(missing=frozenset({102})), totals._replace(lost=0))
    assert counts(tracker) == (4, 3, 1, 1)


def test_forwarded_change_of_ssrc_is_not_told_again():
    tracker = track(100)
    forward(tracker, (rtp(7, ssrc=2), 0.0))
    assert tracker.observe(rtp(8, ssrc=2), 0.0) is Arrival.NEXT
    assert counts(tracker) == (3, 3, 0, 0)
    assert tracker.observe(rtp(101), 0.0) is Arrival.SSRC_CHANGED


def test_forwarded_packets_that_are_not_rtp():
    tracker = SequenceTracker()
    forward(tracker, (None, 5.0))
    assert (tracker.parse_errors, tracker.ssrc, counts(tracker)) == (1, None, (0, 0, 0, 0))
    tracker.observe(None, 6.5)
    assert tracker.longest_gap_s == pytest.approx(1.5)


def test_gap_across_the_seams():
    tracker = SequenceTracker()
    tracker.observe(rtp(1), 10.0)
    forward(tracker, (2, 10.3), (3, 10.5))
    assert tracker.longest_gap_s == pytest.approx(0.3)
    tracker.observe(rtp(4), 11.0)
    assert tracker.longest_gap_s == pytest.approx(0.5)


def test_jitter_across_the_seams():
    arrivals = [0.02 * number + 0.007 * (number % 3) for number in range(60)]
    alone, tracker, totals = SequenceTracker(), SequenceTracker(), RtpTotals()
    for number, at in enumerate(arrivals):
        packet = rtp(number, timestamp=160 * number)
        alone.observe(packet, at)
        if number // 10 % 2:
            totals = forward(tracker, (packet, at), totals=totals)
        else:
            tracker.observe(packet, at)
    assert alone.jitter.last > 1
    measured = [(one.jitter.last, one.jitter.maximum, one.jitter.average) for one in (alone, tracker)]
    assert measured[1] == pytest.approx(measured[0])


def test_jitter_of_an_ssrc_that_only_the_kernel_saw():
    tracker = track(1)
    jittery = [(rtp(number, 2, 160 * number), 0.05 * number) for number in range(9)]
    forward(tracker, *jittery, (rtp(5, ssrc=3), 1.0))
    last = tracker.jitter.last
    assert last > 10
    assert tracker.jitter.maximum == pytest.approx(last)
    tracker.observe(rtp(6, 3, 160), 1.02)
    assert tracker.jitter.last == pytest.approx(0, abs=1e-6)
    assert tracker.jitter.maximum == pytest.approx(last)


def test_memory_of_ssrcs_that_only_the_kernel_saw_is_bounded():
    tracker, totals = track(1), RtpTotals()
    for ssrc in range(2, 40):
        packets = [(rtp(number, ssrc, 160 * number), 0.02 * number) for number in range(3)]
        totals = forward(tracker, *packets, (rtp(9, ssrc + 1000), 1.0), totals=totals)
    assert len(tracker.jitter._all) <= 10


# First and last packet, SSRCs and payload type


def seen(tracker):
    return tracker.first_seen_at, tracker.seen_at


def test_first_and_last_packet():
    tracker = SequenceTracker()
    assert seen(tracker) == (0.0, 0.0)
    for at, packet in [(5.0, rtp(1)), (5.02, rtp(2)), (7.0, None)]:
        tracker.observe(packet, at)
    assert seen(tracker) == (5.0, 7.0)
    forward(tracker, (rtp(9, ssrc=2), 8.0), (rtp(10, ssrc=2), 8.5), changed_at=8.0)
    assert seen(tracker) == (5.0, 8.5)
    tracker.observe(rtp(1, ssrc=3), 9.0)
    assert seen(tracker) == (5.0, 9.0)


def test_first_packet_that_is_no_rtp():
    tracker = SequenceTracker()
    tracker.observe(None, 5.0)
    tracker.observe(rtp(1), 6.0)
    assert seen(tracker) == (5.0, 6.0)


@pytest.mark.parametrize(
    ("packets", "changed_at", "expected"),
    [
        ([(1, 3.0), (2, 4.0)], 3.0, (3.0, 4.0)),
        ([(None, 4.0)], 1.0, (4.0, 4.0)),  # the SSRC changed before, in another stream of the port
        ([], 1.0, (0.0, 0.0)),
    ],
)
def test_first_packet_that_the_kernel_forwarded(packets, changed_at, expected):
    tracker = SequenceTracker()
    forward(tracker, *packets, changed_at=changed_at)
    assert seen(tracker) == expected


def test_payload_type_of_the_latest_packet():
    tracker = SequenceTracker()
    assert tracker.payload_type == -1
    for packet, expected in ((None, -1), (rtp(1, payload_type=8), 8), (rtp(1, payload_type=101), 101), (None, 101)):
        tracker.observe(packet, 1.0)
        assert tracker.payload_type == expected
    totals = forward(tracker, (None, 2.0))
    assert tracker.payload_type == 101
    forward(tracker, (rtp(2, payload_type=0), 2.0), totals=totals)
    assert tracker.payload_type == 0


def test_changes_of_the_ssrc_are_counted():
    tracker = track(rtp(1, 5), rtp(2, 5), rtp(2, 6), rtp(3, 5), None)
    assert (tracker.ssrc_changes, track(None).ssrc_changes) == (3, 0)
    start = RtpTotals(ssrc_changes=2**32 - 1)
    tracker.skip_forwarded(start)
    kernel = forward(tracker, totals=start)
    tracker.absorb_forwarded(0, tracker.state(), kernel._replace(ssrc_changes=4))
    assert tracker.ssrc_changes == 8


def model(packets):
    """The same counts from the whole list of packets, with runs as lists of extended numbers."""
    runs, last_ssrc = [], None
    for sequence, ssrc, marker in packets:
        number = None
        if runs and ssrc == last_ssrc:
            highest = max(runs[-1])
            near = [highest + step for step in range(-536, 537) if (highest + step) % 65536 == sequence]
            number = near[0] if near and not (marker and near[0] < highest) else None
        if number is None:
            runs.append([sequence])
        else:
            runs[-1].append(number)
        last_ssrc = ssrc
    sent = sum(max(run) - min(run) + 1 for run in runs)
    received = sum(len(set(run)) for run in runs)
    return sent, received, len(packets) - received, sent - received


STEPS = st.one_of(st.just(1), st.integers(-5, 5), st.integers(-600, 600), st.integers(0, 65535))


@given(
    st.integers(0, 65535),
    st.lists(st.tuples(STEPS, st.sampled_from([1, 1, 1, 1, 1, 1, 2]), st.sampled_from([False] * 9 + [True]))),
)
def test_against_a_model(sequence, steps):
    packets = []
    for step, ssrc, marker in steps:
        sequence = (sequence + step) % 65536
        packets.append((sequence, ssrc, marker))
    tracker = track(*(rtp(sequence, ssrc, marker=marker) for sequence, ssrc, marker in packets))
    assert counts(tracker) == model(packets)


def test_memory_of_losses_is_bounded():
    tracker = track(*range(0, 65536, 500))
    assert len(tracker._missing) <= 2 * 536
    assert counts(tracker) == (65501, 132, 0, 65369)
