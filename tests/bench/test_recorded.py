"""What should be in the files of recorded calls is known to the packet, and what is there is counted."""

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats
from rtpproxy.recording.frames import Frames
from tests.bench.recorded import _take_files, sent_in_turn
from tests.bench.runs import MeasuringError
from tests.recording.packets import BEGIN_NS, packet


@pytest.mark.parametrize("streams", [1, 3, 7])
def test_packets_of_a_stream_that_sends_in_turn(streams):
    turns = [number % streams for number in range(40)]
    for before in range(20):
        for after in range(before, 40):
            counts = [sent_in_turn(place, streams, before, after) for place in range(streams)]
            assert counts == [turns[before:after].count(place) for place in range(streams)]


def content(kind, packets):
    form = formats.make(kind, Frames(), "title")
    return form.begin + b"".join(form.packet(packet(number), BEGIN_NS, 0) for number in range(packets))


@pytest.mark.parametrize("kind", RecordFormat)
def test_files_are_counted_by_call_and_removed(tmp_path, kind):
    for name, packets in (("call7=f.o.rtp", 3), ("call7=f.a.rtp", 2), ("call12=f.pcap", 5), ("call3=f.a.rtcp", 0)):
        (tmp_path / name).write_bytes(content(kind, packets))
    assert _take_files(tmp_path, kind) == {7: 5, 12: 5, 3: 0}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", RecordFormat)
def test_a_torn_file_is_no_recording(tmp_path, kind):
    (tmp_path / "call7=f.o.rtp").write_bytes(content(kind, 3)[:-1])
    with pytest.raises(MeasuringError, match=r"call7=f\.o\.rtp is no whole recording"):
        _take_files(tmp_path, kind)
