"""What became of reports, as the relay counts and logs it."""

import logging

from rtpproxy.recording.collected import CollectedCounts
from rtpproxy.recording.messages import Collected, Reports


def test_counts():
    counts = CollectedCounts()
    assert counts.counts() == {}
    counts.take(Collected(Reports(5, 1, 2, 3, 4), ""))
    counts.take(Collected(Reports(-1, 2, 0, 0, 0), ""))
    assert counts.counts() == {
        "hep_sent": 4,
        "hep_lost": 3,
        "hep_malformed": 2,
        "hep_srtcp": 3,
        "hep_without_report": 4,
    }


def test_losses_are_logged_when_they_double(caplog):
    counts = CollectedCounts()
    for lost in (0, 1, 1, 1, 0, 0, 5):
        counts.take(Collected(Reports(sent=10, lost=lost), "udp:192.0.2.1:9060: Connection refused"))
    assert [record.getMessage() for record in caplog.records] == [
        f"RTCP to Homer: {lost} packets lost so far: udp:192.0.2.1:9060: Connection refused" for lost in (1, 2, 8)
    ]


def test_end(caplog):
    caplog.set_level(logging.INFO)
    counts = CollectedCounts()
    counts.log_end()
    assert caplog.records == []
    counts.take(Collected(Reports(sent=2, malformed=1), ""))
    counts.log_end()
    counts.take(Collected(Reports(lost=1), "down"))
    caplog.clear()
    counts.log_end()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "RTCP to Homer: 2 packets sent, 1 lost; of what came, 1 malformed, 0 SRTCP, 0 without a report"
    )
