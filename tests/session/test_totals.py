"""Totals after sessions have ended: protocol.md 4.7, 11.2, 11.3."""

from dataclasses import asdict

import pytest

from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.session.session import Component
from rtpproxy.session.totals import Totals
from tests.fakes import make_session


def ended(*, is_complete=True, rtp=(0, 0), rtcp=(0, 0), trackers=(None, None), created_at=0.0, now=0.0):
    """Return the totals after one session; pairs are of callee and caller."""
    session = make_session(created_at=created_at)
    session.is_complete = is_complete
    for leg, rtp_packets, rtcp_packets, tracker in zip(session.legs, rtp, rtcp, trackers, strict=True):
        leg.rtp.received_packets, leg.rtcp.received_packets = rtp_packets, rtcp_packets
        leg.rtp.tracker = tracker
    totals = Totals(sessions_created=1)
    totals.add_ended(session, now)
    return totals


@pytest.mark.parametrize(
    ("counts", "without", "one_way"),
    [((0, 0), 1, 0), ((1, 0), 0, 1), ((0, 7), 0, 1), ((1, 1), 0, 0), ((500, 2), 0, 0)],
)
@pytest.mark.parametrize("component", Component)
def test_ways_that_media_went(component, counts, without, one_way):
    totals = ended(rtp=counts) if component is Component.RTP else ended(rtcp=counts)
    rtp = totals.sessions_without_rtp, totals.sessions_with_one_way_rtp
    rtcp = totals.sessions_without_rtcp, totals.sessions_with_one_way_rtcp
    assert (rtp, rtcp)[component] == (without, one_way)
    assert (rtcp, rtp)[component] == (1, 0)


def test_incomplete_session_counts_as_ended_only():
    totals = ended(is_complete=False, created_at=5.0, now=7.5)
    expected = Totals(sessions_created=1, sessions_destroyed=1, total_duration_s=2.5)
    assert asdict(totals) == asdict(expected)


def test_active_are_those_that_did_not_end():
    totals = Totals(sessions_created=3, sessions_destroyed=1)
    assert totals.active_sessions == 2
    totals.add_ended(make_session(), 0.0)
    assert totals.active_sessions == 1


def test_durations_add_up():
    totals = ended(created_at=10.0, now=11.5)
    totals.add_ended(make_session(created_at=11.0), 13.25)
    assert totals.total_duration_s == 3.75


def tracker_of(*sequences, errors=0):
    tracker = SequenceTracker()
    for sequence in sequences:
        tracker.observe(RtpHeader(1, sequence, 0, 0, False), 0.0)
    for _ in range(errors):
        tracker.observe(None, 0.0)
    return tracker


def test_sequence_statistics_of_both_parties_are_added():
    totals = ended(trackers=(tracker_of(1, 2, 2, 5, errors=2), tracker_of(10, 12)), rtp=(6, 2))
    found = totals.sent, totals.received, totals.duplicates, totals.lost, totals.parse_errors
    assert found == (5 + 3, 3 + 2, 1, 2 + 1, 2)
    totals.add_ended(make_session(), 0.0)
    assert totals.sent == 8
