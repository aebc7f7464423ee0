"""Which stream is in which file, from when to when, in which order. Outputs are real, the clock is not."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats
from rtpproxy.recording.file_output import FileOutput
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.messages import Close, Join, Leave, Lost, Open, OpenCopy, Teed
from rtpproxy.recording.outputs import EARLY_NS, FLUSH_NS, WINDOW_NS, Outputs
from rtpproxy.recording.packet import Place
from tests.recording.packets import BEGIN_NS, packet, read_adhoc

MS = 1_000_000
THERE, HERE = Place(bytes((9, 9, 9, 9)), 9), Place(bytes((8, 8, 8, 8)), 8)


def tee_of(stream):
    """The number in the ring of packets that are for one stream."""
    return 60 + stream


class Stage:
    """Outputs in a directory, and those that ended."""

    def __init__(self, directory, kind=RecordFormat.ADHOC):
        self.directory = directory
        self.ended = []
        self.outputs = Outputs(lambda at_ns: BEGIN_NS + at_ns, self.ended.append)
        self._kind = kind

    def open(self, number, *streams, name=None):
        name = name or f"file{number}"
        descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CREAT)
        about = Open(number, self._kind, False, 0, name.encode(), b"", "title")
        self.outputs.open(FileOutput(descriptor, about, formats.make(self._kind, Frames(), "title")))
        for stream in streams:
            self.outputs.note(Join(stream, number, 0))
            self.outputs.tee(Teed(tee_of(stream), (stream,)))

    def packets(self, stream, *numbers):
        for number in numbers:
            self.outputs.packet(stream, packet(number, arrived_ns=number * MS))

    def in_file(self, number):
        data = (self.directory / f"file{number}").read_bytes()
        return [int(one.payload[:6]) for one in read_adhoc(data)]

    def teed(self, tee, *numbers):
        for number in numbers:
            self.outputs.teed(tee, packet(number, arrived_ns=number * MS))


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_each_stream_has_its_file(stage):
    stage.open(1, 11)
    stage.open(2, 12)
    stage.packets(11, 1, 3)
    stage.packets(12, 2, 4)
    stage.packets(13, 5)
    stage.outputs.finish(100 * MS)
    assert (stage.in_file(1), stage.in_file(2)) == ([1, 3], [2, 4])
    assert [output.packets for output in stage.ended] == [2, 2]
    assert len(stage.outputs) == 0


def test_streams_of_one_file_are_in_the_order_of_arrival(stage):
    stage.open(1, 11, 12)
    stage.packets(12, 2, 5, 9)
    stage.packets(11, 1, 3, 7)
    stage.outputs.finish(100 * MS)
    assert stage.in_file(1) == [1, 2, 3, 5, 7, 9]


def test_packets_are_held_back_for_the_window(stage):
    stage.open(1, 11)
    stage.packets(11, 10)
    stage.outputs.work(10 * MS + WINDOW_NS - 1)
    assert stage.outputs.due_ns(0) == WINDOW_NS
    stage.packets(11, 9)
    stage.outputs.work(10 * MS + WINDOW_NS)
    stage.outputs.finish(11 * MS + WINDOW_NS)
    assert stage.in_file(1) == [9, 10]


def test_an_end_is_in_order_too(stage):
    """Packets that arrived before it are in the file though they come later, and none that arrived after it."""
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.outputs.note(Close(1, 5 * MS))
    stage.packets(11, 7, 3, 5)
    stage.outputs.work(8 * MS + WINDOW_NS)
    assert stage.in_file(1) == [1, 3]
    assert [(output.about.output, output.packets) for output in stage.ended] == [(1, 2)]
    stage.packets(11, 8)
    stage.outputs.finish(100 * MS)
    assert stage.in_file(1) == [1, 3]


def test_a_stream_leaves_and_its_file_goes_on(stage):
    stage.open(1, 11, 12)
    stage.packets(11, 1, 2, 3)
    stage.packets(12, 1, 2, 3)
    stage.outputs.note(Leave(11, 2 * MS))
    stage.outputs.work(9 * MS + WINDOW_NS)
    stage.outputs.finish(100 * MS)
    assert sorted(stage.in_file(1)) == [1, 1, 2, 2, 3]


def test_files_are_written_every_second(stage):
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.outputs.work(FLUSH_NS)
    assert stage.in_file(1) == [1]
    stage.packets(11, 1001)
    stage.outputs.work(1001 * MS + WINDOW_NS)
    assert stage.in_file(1) == [1]
    assert stage.outputs.due_ns(1001 * MS + WINDOW_NS) == 999 * MS - WINDOW_NS
    stage.outputs.work(2 * FLUSH_NS)
    assert stage.in_file(1) == [1, 1001]
    assert stage.outputs.due_ns(2 * FLUSH_NS) is None


def test_packets_may_be_shown_as_leaving(tmp_path):
    stage = Stage(tmp_path, RecordFormat.PCAP)
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.outputs.note(Join(11, 1, 20 * MS, (HERE, THERE)))
    stage.packets(11, 20)
    stage.outputs.finish(100 * MS)
    form = formats.make(RecordFormat.PCAP, Frames(), "")
    first, second = packet(1, arrived_ns=MS), packet(20, arrived_ns=20 * MS)._replace(source=HERE, to=THERE)
    expected = form.begin + form.packet(first, BEGIN_NS + MS, 0) + form.packet(second, BEGIN_NS + 20 * MS, 0)
    assert (tmp_path / "file1").read_bytes() == expected


def test_lost_packets_are_counted(stage):
    stage.open(1, 11)
    stage.outputs.note(Lost(11, 1 * MS, 4))
    stage.outputs.note(Lost(99, 1 * MS, 4))
    stage.packets(11, 2)
    stage.outputs.note(Close(1, 3 * MS))
    stage.outputs.note(Close(1, 4 * MS))
    stage.outputs.note(Lost(11, 5 * MS, 4))
    stage.outputs.finish(100 * MS)
    assert [(output.packets, output.lost) for output in stage.ended] == [(1, 4)]


def test_a_file_that_cannot_be_written_ends_and_others_go_on(stage, monkeypatch):
    stage.open(1, 11)
    stage.open(2, 12)
    (bad,) = [output for output in stage.outputs._outputs.values() if output.about.output == 1]
    stage.packets(11, 1)
    stage.packets(12, 1)
    os.close(bad._descriptor)
    read_only = os.open(stage.directory / "file1", os.O_RDONLY)
    assert read_only == bad._descriptor
    stage.outputs.work(FLUSH_NS)
    assert [output.about.output for output in stage.ended] == [1]
    assert stage.ended[0].why.startswith("Bad file descriptor")
    stage.packets(11, 1100)
    stage.packets(12, 1100)
    stage.outputs.finish(2 * FLUSH_NS)
    assert [output.about.output for output in stage.ended] == [1, 2]
    assert stage.in_file(2) == [1, 1100]


def test_joining_a_file_that_has_ended_is_nothing(stage):
    stage.outputs.note(Join(11, 5, 0))
    stage.packets(11, 1)
    stage.outputs.finish(100 * MS)
    assert stage.ended == []


# The ring


def test_packets_of_both_ways_are_in_one_order_and_those_of_the_ring_are_counted(stage):
    stage.open(1, 11)
    stage.packets(11, 1, 2, 6)
    stage.teed(71, 3, 4, 5)
    stage.outputs.finish(100 * MS)
    assert stage.in_file(1) == [1, 2, 3, 4, 5, 6]
    assert [(output.packets, output.teed) for output in stage.ended] == [(6, 3)]


def test_a_packet_of_the_ring_may_come_before_the_message_about_its_stream(stage):
    stage.teed(71, 1, 2)
    stage.teed(72, 1)
    stage.outputs.work(50 * MS)
    stage.open(1, 11)
    stage.teed(71, 3)
    stage.outputs.finish(100 * MS)
    assert stage.in_file(1) == [1, 2, 3]


def test_what_the_ring_has_of_streams_that_ended_is_forgotten(stage):
    stage.open(1, 11)
    stage.outputs.note(Leave(11, 5 * MS))
    stage.outputs.note(Close(1, 5 * MS))
    stage.outputs.work(10 * MS + WINDOW_NS)
    stage.teed(71, 6)
    assert stage.outputs._early
    stage.outputs.work(6 * MS + EARLY_NS + 1)
    assert not stage.outputs._early
    assert stage.in_file(1) == []


def test_what_waits_in_the_ring_is_not_done_without(stage):
    """A reader that is behind does not end a stream before it has read what came before."""
    stage.open(1, 11)
    stage.outputs.note(Leave(11, 50 * MS))
    stage.outputs.note(Close(1, 50 * MS))
    stage.teed(71, 10)
    stage.outputs.work(1000 * MS, read_ns=10 * MS)
    stage.teed(71, 40)
    stage.outputs.work(1000 * MS, read_ns=1000 * MS)
    assert stage.in_file(1) == [10, 40]


def test_a_dead_process_lost_what_it_had_read_of_the_ring_and_no_more(stage):
    """Eight packets were given, and seven teed; it wrote one, and two of those in the ring were not read."""
    stage.open(1, 11)
    stage.packets(11, 1)
    stage.outputs.finish(2 * MS)
    again = Stage(stage.directory)
    again.teed(71, 20, 21)
    descriptor = os.open(stage.directory / "file1", os.O_RDWR)
    about = Open(1, RecordFormat.ADHOC, True, 8, b"file1", b"", "title", teed=7, tees=(71,))
    again.outputs.open(FileOutput(descriptor, about, formats.make(RecordFormat.ADHOC, Frames(), "title")))
    again.outputs.note(Join(11, 1, 0))
    again.outputs.tee(Teed(71, (11,)))
    again.outputs.finish(100 * MS)
    assert again.in_file(1) == [1, 20, 21]
    assert [(output.packets, output.teed, output.lost) for output in again.ended] == [(3, 7, 12)]


def test_packets_of_the_ring_are_for_all_streams_of_their_number(stage):
    """A second witness comes, and the first one leaves: another number each time, and nothing is lost or doubled."""
    stage.open(1, 11)
    stage.teed(71, 1, 2)
    stage.teed(80, 3, 4)
    stage.open(2, 12)
    stage.outputs.tee(Teed(80, (11, 12)))
    stage.outputs.note(Leave(11, 5 * MS))
    stage.outputs.note(Close(1, 5 * MS))
    stage.teed(81, 6, 7)
    stage.outputs.tee(Teed(81, (12,)))
    stage.outputs.finish(100 * MS)
    assert (stage.in_file(1), stage.in_file(2)) == ([1, 2, 3, 4], [3, 4, 6, 7])
    assert [output.teed for output in stage.ended] == [4, 4]


def test_numbers_are_forgotten_with_the_last_of_their_streams(stage):
    stage.open(1, 11)
    stage.open(2, 12)
    stage.outputs.tee(Teed(80, (11, 12)))
    for number, left in ((1, {72, 80}), (2, set())):
        stage.outputs.note(Close(number, number * MS))
        stage.outputs.work(number * MS + WINDOW_NS)
        assert set(stage.outputs._tees) == left
    assert not stage.outputs._tees_of


# All of it at random


class Collected:
    """An output that remembers what it took."""

    is_over = False

    def __init__(self, number):
        self.about = OpenCopy(number)
        self.packets, self.teed = [], 0

    def begin(self, unread):
        assert not unread

    def take(self, packet, wall_ns):
        self.packets.append(packet.arrived_ns)

    def finish(self, wall_ns):
        pass

    def flush(self):
        pass

    def close(self):
        pass


STEP_NS = 3 * MS
steps = st.lists(
    st.tuples(st.sampled_from(["kernel", "kernel", "userspace", "toggle"]), st.integers(0, 2), st.integers(0, 15)),
    max_size=60,
)


@given(steps)
def test_each_output_has_just_what_arrived_while_it_was_a_witness(steps):
    """Each step takes 3 ms: a packet by one of the tiers, or a witness that comes or goes.

    Messages are read up to 15 ms after they were sent, and the ring at once.
    """
    outputs = Outputs(lambda at_ns: at_ns, lambda output: None)
    on_the_way, ring, witnesses, expected, collected = [], [], {}, {}, []
    tee = last_stream = 0
    for number, (kind, which, delay_ms) in enumerate(steps, 1):
        at_ns = number * STEP_NS
        if kind == "toggle":
            tee += 1
            if which in witnesses:
                stream = witnesses.pop(which)
                left = [Teed(tee, tuple(witnesses.values()))] if witnesses else []
                messages = [*left, Leave(stream, at_ns), Close(stream, at_ns)]
            else:
                last_stream += 1
                witnesses[which] = last_stream
                expected[last_stream] = []
                collected.append(Collected(last_stream))
                messages = [collected[-1], Join(last_stream, last_stream, 0), Teed(tee, tuple(witnesses.values()))]
        else:
            one = packet(number, arrived_ns=at_ns)
            for stream in witnesses.values():
                expected[stream].append(at_ns)
            messages = [(stream, one) for stream in witnesses.values()] if kind == "userspace" else []
            if kind == "kernel" and witnesses:
                ring.append((tee, one))
        on_the_way += messages
        if delay_ms * MS < STEP_NS:
            deliver(outputs, on_the_way)
        for record in ring:
            outputs.teed(*record)
        ring.clear()
        if number % 5 == 0:
            # None was sent more than 15 ms before.
            deliver(outputs, on_the_way)
        outputs.work(at_ns)
    deliver(outputs, on_the_way)
    outputs.finish((len(steps) + 1) * STEP_NS)
    assert {one.about.output: one.packets for one in collected} == expected


def deliver(outputs, messages):
    for message in messages:
        match message:
            case Collected():
                outputs.open(message)
            case Teed():
                outputs.tee(message)
            case (stream, one):
                outputs.packet(stream, one)
            case _:
                outputs.note(message)
    messages.clear()
