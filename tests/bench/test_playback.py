"""Gaps and drift of prompts are worked out from what was heard."""

import pytest

from tests.bench.playback import Heard, timing
from tests.bench.runs import MeasuringError


def heard(*packets):
    """Stream, sequence number and milliseconds of each packet."""
    made = Heard()
    for stream, sequence, ms in packets:
        made.streams.append(stream)
        made.sequences.append(sequence)
        made.times_ns.append(round(ms * 1e6))
    return made


def test_streams_are_told_apart_and_numbers_wrap():
    found = timing(heard((1, 65535, 0), (2, 7, 5), (1, 0, 20), (2, 8, 25), (1, 1, 44), (2, 9, 45)))
    assert (found.packets, found.lost) == (6, 0)
    assert (found.p50_ms, found.max_ms, found.within) == (20, 24, 0.75)
    assert found.drift_ms == 4


def test_a_lost_packet_is_no_gap_and_no_drift():
    found = timing(heard((1, 1, 0), (1, 2, 20), (1, 4, 60), (1, 5, 80)))
    assert (found.packets, found.lost, found.max_ms, found.drift_ms) == (4, 1, 20, 0)


def test_silence():
    with pytest.raises(MeasuringError, match="no prompt was heard"):
        timing(heard((1, 1, 0)))
