"""Which stream is in which file, from when to when, in which order. Files are real, the clock is not."""

import os

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats
from rtpproxy.recording.files import EARLY_NS, FLUSH_NS, WINDOW_NS, Files
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.messages import Close, Join, Leave, Lost, Open
from rtpproxy.recording.output import Output
from rtpproxy.recording.packet import Place
from tests.recording.packets import BEGIN_NS, packet, read_adhoc

MS = 1_000_000
THERE, HERE = Place(bytes((9, 9, 9, 9)), 9), Place(bytes((8, 8, 8, 8)), 8)


class Stage:
    """Files in a directory, and those that ended."""

    def __init__(self, directory, kind=RecordFormat.ADHOC):
        self.directory = directory
        self.ended = []
        self.files = Files(lambda at_ns: BEGIN_NS + at_ns, self.ended.append)
        self._kind = kind

    def open(self, number, *streams, name=None):
        name = name or f"file{number}"
        descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CREAT)
        about = Open(number, self._kind, False, 0, name.encode(), b"", "title")
        self.files.open(Output(descriptor, about, formats.make(self._kind, Frames(), "title")))
        for stream in streams:
            self.files.note(Join(stream, number, 0))

    def packets(self, stream, *numbers):
        for number in numbers:
            self.files.packet(stream, packet(number, arrived_ns=number * MS))

    def in_file(self, number):
        data = (self.directory / f"file{number}").read_bytes()
        return [int(one.payload[:6]) for one in read_adhoc(data)]

    def teed(self, stream, *numbers):
        for number in numbers:
            self.files.teed(stream, packet(number, arrived_ns=number * MS))


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_each_stream_has_its_file(stage):
    stage.open(1, 11)
    stage.open(2, 12)
    stage.packets(11, 1, 3)
    stage.packets(12, 2, 4)
    stage.packets(13, 5)
    stage.files.finish(100 * MS)
    assert (stage.in_file(1), stage.in_file(2)) == ([1, 3], [2, 4])
    assert [output.packets for output in stage.ended] == [2, 2]
    assert len(stage.files) == 0


def test_streams_of_one_file_are_in_the_order_of_arrival(stage):
    stage.open(1, 11, 12)
    stage.packets(12, 2, 5, 9)
    stage.packets(11, 1, 3, 7)
    stage.files.finish(100 * MS)
    assert stage.in_file(1) == [1, 2, 3, 5, 7, 9]


def test_packets_are_held_back_for_the_window(stage):
    stage.open(1, 11)
    stage.packets(11, 10)
    stage.files.work(10 * MS + WINDOW_NS - 1)
    assert stage.files.due_ns(0) == WINDOW_NS
    stage.packets(11, 9)
    stage.files.work(10 * MS + WINDOW_NS)
    stage.files.finish(11 * MS + WINDOW_NS)
    assert stage.in_file(1) == [9, 10]


def test_an_end_is_in_order_too(stage):
    """Packets that arrived before it are in the file though they come later, and none that arrived after it."""
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.files.note(Close(1, 5 * MS))
    stage.packets(11, 7, 3, 5)
    stage.files.work(8 * MS + WINDOW_NS)
    assert stage.in_file(1) == [1, 3]
    assert [(output.about.file, output.packets) for output in stage.ended] == [(1, 2)]
    stage.packets(11, 8)
    stage.files.finish(100 * MS)
    assert stage.in_file(1) == [1, 3]


def test_a_stream_leaves_and_its_file_goes_on(stage):
    stage.open(1, 11, 12)
    stage.packets(11, 1, 2, 3)
    stage.packets(12, 1, 2, 3)
    stage.files.note(Leave(11, 2 * MS))
    stage.files.work(9 * MS + WINDOW_NS)
    stage.files.finish(100 * MS)
    assert sorted(stage.in_file(1)) == [1, 1, 2, 2, 3]


def test_files_are_written_every_second(stage):
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.files.work(FLUSH_NS)
    assert stage.in_file(1) == [1]
    stage.packets(11, 1001)
    stage.files.work(1001 * MS + WINDOW_NS)
    assert stage.in_file(1) == [1]
    assert stage.files.due_ns(1001 * MS + WINDOW_NS) == 999 * MS - WINDOW_NS
    stage.files.work(2 * FLUSH_NS)
    assert stage.in_file(1) == [1, 1001]
    assert stage.files.due_ns(2 * FLUSH_NS) is None


def test_packets_may_be_shown_as_leaving(tmp_path):
    stage = Stage(tmp_path, RecordFormat.PCAP)
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.files.note(Join(11, 1, 20 * MS, (HERE, THERE)))
    stage.packets(11, 20)
    stage.files.finish(100 * MS)
    form = formats.make(RecordFormat.PCAP, Frames(), "")
    first, second = packet(1, arrived_ns=MS), packet(20, arrived_ns=20 * MS)._replace(source=HERE, to=THERE)
    expected = form.begin + form.packet(first, BEGIN_NS + MS, 0) + form.packet(second, BEGIN_NS + 20 * MS, 0)
    assert (tmp_path / "file1").read_bytes() == expected


def test_lost_packets_are_counted(stage):
    stage.open(1, 11)
    stage.files.note(Lost(11, 1 * MS, 4))
    stage.files.note(Lost(99, 1 * MS, 4))
    stage.packets(11, 2)
    stage.files.note(Close(1, 3 * MS))
    stage.files.note(Close(1, 4 * MS))
    stage.files.note(Lost(11, 5 * MS, 4))
    stage.files.finish(100 * MS)
    assert [(output.packets, output.lost) for output in stage.ended] == [(1, 4)]


def test_a_file_that_cannot_be_written_ends_and_others_go_on(stage, monkeypatch):
    stage.open(1, 11)
    stage.open(2, 12)
    (bad,) = [output for output in stage.files._outputs.values() if output.about.file == 1]
    stage.packets(11, 1)
    stage.packets(12, 1)
    os.close(bad._descriptor)
    read_only = os.open(stage.directory / "file1", os.O_RDONLY)
    assert read_only == bad._descriptor
    stage.files.work(FLUSH_NS)
    assert [output.about.file for output in stage.ended] == [1]
    assert stage.ended[0].why.startswith("Bad file descriptor")
    stage.packets(11, 1100)
    stage.packets(12, 1100)
    stage.files.finish(2 * FLUSH_NS)
    assert [output.about.file for output in stage.ended] == [1, 2]
    assert stage.in_file(2) == [1, 1100]


def test_joining_a_file_that_has_ended_is_nothing(stage):
    stage.files.note(Join(11, 5, 0))
    stage.packets(11, 1)
    stage.files.finish(100 * MS)
    assert stage.ended == []


# The ring


def test_packets_of_both_ways_are_in_one_order_and_those_of_the_ring_are_counted(stage):
    stage.open(1, 11)
    stage.packets(11, 1, 2, 6)
    stage.teed(11, 3, 4, 5)
    stage.files.finish(100 * MS)
    assert stage.in_file(1) == [1, 2, 3, 4, 5, 6]
    assert [(output.packets, output.teed) for output in stage.ended] == [(6, 3)]


def test_a_packet_of_the_ring_may_come_before_the_message_about_its_stream(stage):
    stage.teed(11, 1, 2)
    stage.teed(12, 1)
    stage.files.work(50 * MS)
    stage.open(1, 11)
    stage.teed(11, 3)
    stage.files.finish(100 * MS)
    assert stage.in_file(1) == [1, 2, 3]


def test_what_the_ring_has_of_streams_that_ended_is_forgotten(stage):
    stage.open(1, 11)
    stage.files.note(Leave(11, 5 * MS))
    stage.files.note(Close(1, 5 * MS))
    stage.files.work(10 * MS + WINDOW_NS)
    stage.teed(11, 6)
    assert stage.files._early
    stage.files.work(6 * MS + EARLY_NS + 1)
    assert not stage.files._early
    assert stage.in_file(1) == []


def test_what_waits_in_the_ring_is_not_done_without(stage):
    """A reader that is behind does not end a stream before it has read what came before."""
    stage.open(1, 11)
    stage.files.note(Leave(11, 50 * MS))
    stage.files.note(Close(1, 50 * MS))
    stage.teed(11, 10)
    stage.files.work(1000 * MS, read_ns=10 * MS)
    stage.teed(11, 40)
    stage.files.work(1000 * MS, read_ns=1000 * MS)
    assert stage.in_file(1) == [10, 40]


def test_a_dead_process_lost_what_it_had_read_of_the_ring_and_no_more(stage):
    """Eight packets were given, and seven teed; it wrote one, and two of those in the ring were not read."""
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.files.finish(2 * MS)
    again = Stage(stage.directory)
    again.teed(11, 20, 21)
    descriptor = os.open(stage.directory / "file1", os.O_RDWR)
    about = Open(1, RecordFormat.ADHOC, True, 8, b"file1", b"", "title", teed=7, streams=(11,))
    again.files.open(Output(descriptor, about, formats.make(RecordFormat.ADHOC, Frames(), "title")))
    again.files.note(Join(11, 1, 0))
    again.files.finish(100 * MS)
    assert again.in_file(1) == [1, 20, 21]
    assert [(output.packets, output.teed, output.lost) for output in again.ended] == [(3, 7, 12)]
