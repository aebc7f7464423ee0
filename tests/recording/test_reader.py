"""The process that writes, run in this one: its clocks, and what it answers. test_recorder runs the real one."""

import os
import select
import socket
from types import SimpleNamespace

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording import reader as module
from rtpproxy.recording.messages import (
    Aim,
    Close,
    Directories,
    Ended,
    Found,
    Join,
    NoDirectory,
    Open,
    OpenCopy,
    Packets,
    Progress,
    Sent,
    Teed,
    To,
    decode,
    encode,
)
from rtpproxy.recording.reader import RECORDS, RING_NS, Reader
from tests.recording.packets import packet, read_adhoc

S = 1_000_000_000
WALL_NS = 1_790_000_000 * S


class Clocks:
    """Takes the place of the module `time`."""

    def __init__(self):
        self.monotonic, self.wall = 10_000 * S, WALL_NS

    def monotonic_ns(self):
        return self.monotonic

    def time_ns(self):
        return self.wall

    def go_on(self, seconds, *, step=0):
        self.monotonic += int(seconds * S)
        self.wall += int((seconds + step) * S)


class FakeSteps:
    """Tells of steps of the clock by a pipe."""

    def __init__(self):
        self._reading, self._writing = os.pipe()

    def fileno(self):
        return self._reading

    def tell(self):
        os.write(self._writing, b"x")

    def take(self):
        assert os.read(self._reading, 1) == b"x"

    def close(self):
        os.close(self._reading)
        os.close(self._writing)


class Stage:
    """A reader, the relay's end of its socket, and what it has done to this process instead of giving up privileges."""

    def __init__(self, directory, monkeypatch, clock_offset_ns=0):
        self.clocks = Clocks()
        self.gave_up = []
        self.directory = directory
        monkeypatch.setattr(module, "time", self.clocks)
        monkeypatch.setattr(module, "_give_up_privileges", self.gave_up.append)
        monkeypatch.chdir(directory)
        self.relay, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.relay.setblocking(False)
        self.steps = FakeSteps()
        self.reader = Reader(self.theirs, clock_offset_ns, self.steps)

    def close(self):
        self.reader._outputs.finish(self.clocks.monotonic)
        for descriptor in self.reader._directories.descriptors:
            os.close(descriptor)
        self.relay.close()
        self.theirs.close()
        self.steps.close()

    def send(self, message, *descriptors):
        socket.send_fds(self.relay, [encode(message)], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def open(self, number=1):
        self.send(Directories(has_spool=False, finishes=True), os.open(self.directory, os.O_RDONLY))
        descriptor = os.open(self.directory / "file", os.O_RDWR | os.O_CREAT)
        self.send(Open(number, RecordFormat.ADHOC, False, 0, b"file", b"", ""), descriptor)
        self.send(Join(1, number, 0))
        self.send(Teed(1, (1,)))

    def packet(self, number, at_ns):
        self.send(Packets(((1, packet(number, arrived_ns=at_ns)),)))

    def wait(self, meanwhile):
        """Let the process wait until something happened, which has to end the wait."""
        poll = self.reader._poll

        def wait(_):
            meanwhile()
            ready = poll.poll(0)
            assert ready
            return ready

        self.reader._poll = SimpleNamespace(poll=wait)
        self.reader.wait()
        self.reader._poll = poll

    def turn(self):
        """One turn of the process, but for waiting; False if the relay is gone."""
        self.reader._look_at_clocks()
        return self.reader.turn()

    def answers(self):
        found = []
        while True:
            try:
                found.append(decode(self.relay.recv(1 << 16)))
            except BlockingIOError:
                return found

    def arrivals(self):
        return [round((one.arrived - WALL_NS / S) * 1000) for one in read_adhoc((self.directory / "file").read_bytes())]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    made = Stage(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.mark.parametrize("step", [3600, -3600])
def test_packets_keep_the_time_of_day_that_it_was_when_they_arrived(stage, step):
    """Somebody steps the clock while packets are recorded."""
    stage.open()
    begin_ns = stage.clocks.monotonic
    stage.packet(1, begin_ns)
    stage.turn()
    stage.clocks.go_on(0.010)
    stage.turn()
    stage.clocks.go_on(0.010, step=step)
    stage.packet(2, begin_ns + 5_000_000)
    stage.packet(3, begin_ns + 15_000_000)
    stage.turn()
    stage.clocks.go_on(2)
    stage.turn()
    stage.relay.shutdown(socket.SHUT_WR)
    assert not stage.turn()
    assert stage.arrivals() == [0, 5, 15 + 1000 * step]


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_ends_a_wait_and_is_known_to_the_moment(stage, step):
    """However long ago the clocks were looked at before."""
    stage.open()
    stage.turn()
    begin_ns = stage.clocks.monotonic

    def step_the_clock():
        stage.clocks.go_on(0.009)
        stage.clocks.go_on(0, step=step)
        stage.steps.tell()

    stage.wait(step_the_clock)
    assert not select.select([stage.steps], [], [], 0)[0]
    for number, after_ms in enumerate((1, 8, 10)):
        stage.packet(number, begin_ns + after_ms * 1_000_000)
    stage.clocks.go_on(0.002)
    stage.turn()
    stage.wait(lambda: stage.packet(3, begin_ns + 11_000_000))
    stage.turn()
    stage.relay.shutdown(socket.SHUT_WR)
    assert not stage.turn()
    assert stage.arrivals() == [1, 8, 10 + 1000 * step, 11 + 1000 * step]


def test_the_clock_of_another_time_namespace(tmp_path, monkeypatch):
    """Packets bear the kernel's clock, which is an hour behind this process'."""
    stage = Stage(tmp_path, monkeypatch, clock_offset_ns=3600 * S)
    stage.open()
    stage.packet(1, stage.clocks.monotonic - 3600 * S)
    stage.turn()
    stage.relay.shutdown(socket.SHUT_WR)
    assert not stage.turn()
    assert stage.arrivals() == [0]
    stage.close()


class HalfWritten:
    """A ring whose only record a processor has not finished yet."""

    consumed, produced = 0, 264

    def __init__(self, arrived_ns):
        host = bytes((10, 0, 1, 2))
        headers = b"\x45" + bytes(11) + host + host + (4000).to_bytes(2) + (20000).to_bytes(2) + bytes(4)
        self._record = arrived_ns, 1, memoryview(headers + b"late")
        self.is_finished = False

    def records(self, most):
        if self.is_finished and self.consumed < self.produced:
            self.consumed = self.produced
            yield self._record


def test_a_record_that_takes_long_is_waited_for(stage):
    """The processor was held up while it wrote; what arrived before the end of a recording is in the file."""
    stage.open()
    begin_ns = stage.clocks.monotonic
    ring = stage.reader._ring = HalfWritten(begin_ns + 1_000_000)
    stage.send(Close(1, begin_ns + 2_000_000))
    for is_finished in (False, True):
        ring.is_finished = is_finished
        stage.clocks.go_on(0.5)
        stage.turn()
        assert stage.answers() == ([Ended(1, 1, True, "", 1)] if is_finished else [])
    assert stage.arrivals() == [1]


@pytest.mark.parametrize("is_finished", [False, True])
def test_an_end_does_not_wait_for_ever_for_a_record(stage, monkeypatch, capfd, is_finished):
    """The processor never goes on, or does after a while; files are finished in any case, and what is amiss is told."""
    stage.open()
    begin_ns = stage.clocks.monotonic
    stage.packet(1, begin_ns)
    stage.turn()
    ring = stage.reader._ring = HalfWritten(begin_ns + 1_000_000)
    monkeypatch.setattr(stage.clocks, "time_ns", lambda: pass_time(stage, ring, begin_ns, is_finished))
    stage.relay.shutdown(socket.SHUT_WR)
    assert not stage.turn()
    assert stage.arrivals() == [0, 1] if is_finished else [0]
    assert stage.answers() == [Ended(1, 1 + is_finished, True, "", int(is_finished))]
    text = "recordings: 264 bytes of the ring wait for a packet that is not finished\n"
    assert capfd.readouterr().err == ("" if is_finished else text)


def pass_time(stage, ring, begin_ns, is_finished):
    """Each look at the clocks takes 10 ms; the processor goes on after half a second, if it does."""
    stage.clocks.go_on(0.01)
    ring.is_finished = is_finished and stage.clocks.monotonic - begin_ns > S // 2
    return stage.clocks.wall


def test_a_file_is_moved_where_it_was_made(stage, tmp_path):
    """Whatever directories are used meanwhile; and none stays open without need."""
    made = []
    for name in ("old", "new"):
        directory = tmp_path / name
        (directory / "spool").mkdir(parents=True)
        descriptors = [os.open(path, os.O_RDONLY) for path in (directory, directory / "spool")]
        stage.send(Directories(has_spool=True, finishes=False), *descriptors)
        file = directory / "spool" / "file.1"
        made.append((directory, Open(len(made) + 1, RecordFormat.ADHOC, False, 0, b"file", b"file.1", "")))
        stage.send(made[-1][1], os.open(file, os.O_RDWR | os.O_CREAT))
        stage.turn()
    for directory, about in made:
        assert os.listdir(directory) == ["spool"]
        stage.send(Close(about.output, stage.clocks.monotonic))
        stage.turn()
        stage.clocks.go_on(1)
        stage.turn()
        assert stage.answers() == [Ended(about.output, 0, True, "")]
        assert sorted(os.listdir(directory)) == ["file", "spool"]
        assert os.listdir(directory / "spool") == []
    opened = [os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")]
    assert [path for path in opened if path.startswith(str(tmp_path))] == [
        str(tmp_path / "new"),
        str(tmp_path / "new/spool"),
    ]


def test_files_that_go_on_are_no_leftovers(stage, tmp_path):
    """For a process that takes the place of a dead one; they have no lock then."""
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "x").write_bytes(b"")
    for finishes in (False, True):
        descriptors = [os.open(path, os.O_RDONLY) for path in (tmp_path, spool)]
        stage.send(Directories(True, finishes), *descriptors)
        stage.turn()
        assert stage.answers() == ([Found(b"x", 0, True, "")] if finishes else [])
        assert (spool / "x").exists() != finishes


def test_privileges_are_given_up_once(stage):
    for _ in range(2):
        stage.send(Directories(has_spool=False, finishes=True), os.open(stage.directory, os.O_RDONLY))
    stage.turn()
    assert len(stage.gave_up) == 1


def test_a_file_without_a_descriptor_is_answered(stage):
    stage.send(Open(7, RecordFormat.ADHOC, False, 0, b"file", b"", ""))
    stage.turn()
    assert stage.answers() == [Ended(7, 0, True, "Too many open files")]


def test_closing_is_answered(stage):
    stage.open(5)
    stage.packet(1, stage.clocks.monotonic)
    stage.send(Close(5, stage.clocks.monotonic))
    stage.turn()
    assert stage.answers() == []
    stage.clocks.go_on(1)
    stage.turn()
    assert stage.answers() == [Ended(5, 1, True, "")]


def test_a_relay_that_is_gone_hears_nothing(stage):
    stage.open()
    stage.turn()
    stage.relay.close()
    assert not stage.turn()
    assert (stage.directory / "file").read_bytes() == b""


class Ring:
    """A ring in which so many packets wait, of a stream that no file has."""

    consumed = 0

    def __init__(self, waiting):
        self.waiting = waiting

    @property
    def produced(self):
        return self.waiting

    def records(self, most):
        for _ in range(min(most, self.waiting)):
            self.waiting -= 1
            yield 5, 99, memoryview(b"\x45" + bytes(27))


def test_the_ring_is_looked_into_at_times_and_not_without_a_pause(stage):
    """Packets that come while others are written wait for the next look, unless there are so many that it is behind."""
    stage.open()
    stage.turn()
    reader, now_ns = stage.reader, stage.clocks.monotonic
    reader._ring = Ring(RECORDS + 3)
    assert reader._read_ring(now_ns) < now_ns
    assert reader._read_ring(now_ns) == now_ns
    reader._ring.waiting = 3
    stage.clocks.go_on(2)
    stage.turn()
    assert reader._due_ns(stage.clocks.monotonic) == RING_NS


def test_a_process_that_is_behind_does_not_pause(stage):
    """It looks again at once while there are more packets than it reads in one turn."""
    stage.open()
    pauses = []

    def poll(pause_ms):
        pauses.append(pause_ms)
        if len(pauses) == 4:
            stage.relay.shutdown(socket.SHUT_WR)
        return []

    stage.reader._poll = SimpleNamespace(poll=poll)
    stage.reader._ring = Ring(2 * RECORDS + 3)
    stage.reader.run()
    assert pauses[0] is None
    assert pauses[1:3] == [0, 0]
    assert pauses[3] > 0


# Copies


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as opened:
        opened.bind(("127.0.0.1", 0))
        yield opened


def aim(stage, receiver, output=1):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    stage.send(Aim(output, To(*receiver.getsockname(), 0), True), sender.detach())


def test_a_relay_without_recordings_needs_no_directory(stage):
    stage.send(NoDirectory())
    stage.turn()
    assert stage.gave_up == [None]
    assert os.getcwd() == "/"


def test_copies_are_sent_and_the_relay_is_told_how_many(stage, receiver):
    stage.send(OpenCopy(1))
    aim(stage, receiver)
    stage.send(Join(1, 1, 0))
    stage.packet(1, stage.clocks.monotonic)
    stage.turn()
    stage.clocks.go_on(1)
    stage.turn()
    assert receiver.recv(100) == packet(1).payload
    assert stage.answers() == [Progress((Sent(1, 1, 0),))]
    stage.send(Close(1, stage.clocks.monotonic))
    stage.clocks.go_on(1)
    stage.turn()
    assert stage.answers() == [Ended(1, 1, True, "")]


def test_packets_of_the_ring_go_to_all_who_share_its_number(stage, receiver):
    stage.open(1)
    stage.send(OpenCopy(2))
    aim(stage, receiver, 2)
    stage.send(Join(2, 2, 0))
    stage.send(Teed(7, (1, 2)))
    stage.turn()
    stage.reader._outputs.teed(7, packet(5, arrived_ns=stage.clocks.monotonic))
    stage.clocks.go_on(1)
    stage.turn()
    assert receiver.recv(100) == packet(5).payload
    assert stage.arrivals() == [0]


def test_a_copy_without_a_descriptor_ends(stage):
    stage.send(OpenCopy(7))
    stage.send(Aim(7, To("127.0.0.1", 9, 0), True))
    stage.turn()
    assert stage.answers() == [Ended(7, 0, True, "Too many open files")]
    stage.send(Aim(7, None, False))
    stage.turn()
    assert stage.answers() == []
