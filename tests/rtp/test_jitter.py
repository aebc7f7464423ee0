"""Jitter (RFC 3550 6.4.1) as a `SequenceTracker` measures it."""

import pytest

from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.statistics import SequenceTracker


def rtp(sequence, ssrc=1, timestamp=0, payload_type=0, marker=False):
    return RtpHeader(ssrc, sequence % 65536, timestamp % 2**32, payload_type, marker)


def jitter(*arrivals, payload_type=0, ssrc=1):
    """Track packets given as (arrival in ms, timestamp)."""
    tracker = SequenceTracker()
    for sequence, (arrival_ms, timestamp) in enumerate(arrivals):
        tracker.observe(rtp(sequence, ssrc, timestamp, payload_type), 1000 + arrival_ms / 1000)
    return tracker.jitter.last, tracker.jitter.maximum, tracker.jitter.average


def test_no_jitter_on_time():
    assert jitter((0, 0), (20, 160), (40, 320)) == pytest.approx((0, 0, 0), abs=1e-6)
    assert jitter((0, 0)) == (0, 0, 0)


def test_jitter_is_filtered_by_sixteen():
    first = 80 / 16
    second = first + (80 - first) / 16
    third = second + (0 - second) / 16
    expected = (third, second, (first + second + third) / 3)
    assert jitter((0, 0), (30, 160), (40, 320), (60, 480)) == pytest.approx(expected)


def test_jitter_uses_the_clock_of_the_payload_type():
    assert jitter((0, 0), (30, 320), payload_type=6)[0] == pytest.approx(160 / 16)
    assert jitter((0, 0), (30, 160), payload_type=18)[0] == pytest.approx(80 / 16)


@pytest.mark.parametrize("payload_type", [1, 2, 19, 31, 96, 101, 127])
def test_no_jitter_without_a_known_clock(payload_type):
    assert jitter((0, 0), (30, 160), (31, 320), payload_type=payload_type) == (0, 0, 0)


def test_repeated_timestamps_are_ignored():
    assert jitter((0, 0), (15, 0), (30, 160)) == pytest.approx((5, 5, 5))


def test_timestamps_wrap():
    assert jitter((0, 2**32 - 80), (30, 80)) == pytest.approx((5, 5, 5))
    assert jitter((0, 80), (1, -80)) == pytest.approx((168 / 16,) * 3)


@pytest.mark.parametrize("timestamp", [2_000_000, 2**31 + 5_000])
def test_timestamps_set_anew_are_no_jitter(timestamp):
    arrivals = (0, 5000), (20, timestamp), (50, timestamp + 160)
    assert jitter(*arrivals) == pytest.approx((5, 5, 5))


def test_duplicates_and_backward_markers_are_no_jitter():
    tracker = SequenceTracker()
    for packet, at in [
        (rtp(10, timestamp=0), 0.0),
        (rtp(10, timestamp=999), 0.001),
        (rtp(5, timestamp=4000, marker=True), 0.02),
        (rtp(6, timestamp=4160), 0.05),
    ]:
        tracker.observe(packet, at)
    assert tracker.jitter.last == pytest.approx(5)


def test_jitter_is_kept_by_ssrc():
    tracker = SequenceTracker()
    for sequence in range(20):
        for ssrc in (1, 2):
            tracker.observe(rtp(sequence, ssrc, 160 * sequence + 10**6 * ssrc), sequence * 0.02)
    assert (tracker.jitter.last, tracker.jitter.maximum) == pytest.approx((0, 0), abs=1e-6)


def test_sums_of_the_oldest_ssrc_survive():
    tracker = SequenceTracker()
    for ssrc in range(25):
        late_s = 0.03 if ssrc == 0 else 0.02
        tracker.observe(rtp(1, ssrc, 0), float(ssrc))
        tracker.observe(rtp(2, ssrc, 160), ssrc + late_s)
    assert tracker.jitter.maximum == pytest.approx(5)
    assert tracker.jitter.average == pytest.approx(5 / 25)
    assert tracker.jitter.last == pytest.approx(0, abs=1e-6)
