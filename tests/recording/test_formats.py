"""Formats are told apart, and what is whole of a file is found, wherever it was cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats
from rtpproxy.recording.frames import Frames
from tests.recording.packets import BEGIN_NS, packet


def written(kind, count, *, is_ended=True):
    """A file of so many packets, and where each of them ends."""
    form = formats.make(kind, Frames(), "title")
    data, ends = form.begin, []
    for number in range(count):
        data += form.packet(packet(number, is_ipv6=number % 3 == 0), BEGIN_NS + number, number % 2)
        ends.append(len(data))
    return (data + form.end(count, 1, BEGIN_NS) if is_ended else data), ends


@pytest.mark.parametrize("kind", RecordFormat)
def test_formats_are_told_apart(kind):
    data, _ = written(kind, 3)
    assert formats.find_format(data) is kind


def test_something_else():
    assert formats.find_format(b"RIFF....WAVEfmt " + bytes(100)) is None
    assert formats.find_format(b"") is RecordFormat.ADHOC


@pytest.mark.parametrize("kind", RecordFormat)
def test_whole_file(kind):
    data, _ = written(kind, 5)
    assert formats.find_whole(kind, data) == (len(data), 5, kind is RecordFormat.PCAPNG)


@pytest.mark.parametrize("kind", RecordFormat)
@given(cut=st.integers(0, 400))
def test_a_file_that_was_cut(kind, cut):
    data, ends = written(kind, 5, is_ended=False)
    length = max(0, len(data) - cut)
    begin = len(formats.make(kind, Frames(), "title").begin)
    whole = formats.find_whole(kind, memoryview(data)[:length])
    kept = [end for end in ends if end <= length]
    assert whole.packets == len(kept)
    assert whole.kept_bytes == (kept[-1] if kept else begin if length >= begin else 0)
    assert not whole.is_ended
