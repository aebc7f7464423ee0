"""Players between files and outlets, with a clock and a timer that a test moves."""

import logging
import os
import random
from types import SimpleNamespace

import pytest
from scapy.layers.rtp import RTP

from rtpproxy.errors import PlaybackError
from rtpproxy.playback.budget import MOST_S
from rtpproxy.playback.files import Files
from rtpproxy.playback.player import BLOCK_BYTES
from rtpproxy.playback.players import PATIENCE_S, Players
from tests.playback.descriptors import open_files
from tests.playback.work import FakeDisk


class Outlet:
    """A party that can be reached or not."""

    def __init__(self, title):
        self.title = title
        self.is_open = True
        self.packets = []
        self.times = []
        self.ends = 0
        self.clock = None

    def send(self, packet):
        assert not self.ends
        if self.is_open:
            self.packets.append(packet)
            self.times.append(self.clock())
        return self.is_open

    def ended(self, now):
        assert now == self.clock()
        self.ends += 1

    @property
    def payload(self):
        return b"".join(packet[12:] for packet in self.packets)


class Stage:
    """A relay's players; time stands still until told. The timer of the loop comes exactly when it is due."""

    def __init__(self, directory):
        self.directory = directory
        self.now = 5000.0
        self.disk = FakeDisk(self._pass)
        self.timers = []
        self.players = Players(
            SimpleNamespace(call_later=self._call_later), lambda: self.now, Files(""), self.disk, random.Random(1)
        )

    def _pass(self, seconds):
        self.now += seconds

    def _call_later(self, delay, callback):
        timer = SimpleNamespace(at=self.now + delay, callback=callback)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def make(self, size=800, name="moh", payload_type=0):
        data = random.Random(size).randbytes(size)
        (self.directory / f"{name}.{payload_type}").write_bytes(data)
        return data

    def play(self, passes=1, *, packet_ms=20, payload_types=(0,), name="moh", title="call"):
        outlet = Outlet(title)
        outlet.clock = lambda: self.now
        path = os.fsencode(self.directory / name)
        outlet.playing = self.players.play(path, payload_types, packet_ms, passes, outlet)
        assert not outlet.packets
        return outlet

    def run(self, seconds):
        """Let time pass; the disk answers at once, unless it hangs."""
        until = self.now + seconds
        while True:
            if not self.disk.hangs:
                self.disk.answer()
            due = min(self.timers, key=lambda timer: timer.at, default=None)
            if due is None or due.at > until:
                break
            assert len(self.timers) == 1, "one timer is enough for all"
            self.now = max(self.now, due.at)
            self.timers.remove(due)
            due.callback()
        self.now = until

    def tick(self):
        self.players.tick(self.now)
        if not self.disk.hangs:
            self.disk.answer()


@pytest.fixture
def stage(tmp_path):
    before = open_files()
    made = Stage(tmp_path)
    yield made
    made.players.close()
    made.disk.hangs = False
    made.disk.answer()
    assert made.timers == []
    assert open_files() == before


def test_a_prompt_from_its_first_packet_to_its_end(stage, caplog):
    caplog.set_level(logging.INFO)
    data = stage.make()
    outlet = stage.play()
    stage.run(1)
    assert outlet.payload == data
    assert outlet.ends == 1
    headers = [RTP(packet[:12]) for packet in outlet.packets]
    assert [header.marker for header in headers] == [1, 0, 0, 0, 0]
    assert headers[0].timestamp % 2 == 0
    gaps = [round((other - one) * 1000, 3) for one, other in zip(outlet.times, outlet.times[1:], strict=False)]
    assert gaps == [20] * 4
    assert stage.timers == []
    assert "call: plays" in caplog.text


def test_numbers_are_not_those_of_another_player(stage):
    stage.make()
    outlets = [stage.play() for _ in range(20)]
    stage.run(1)
    for member in ("sourcesync", "sequence", "timestamp"):
        assert len({getattr(RTP(outlet.packets[0][:12]), member) for outlet in outlets}) == 20


def test_a_file_is_read_once_for_all_players(stage):
    data = stage.make(3 * BLOCK_BYTES)
    outlets = [stage.play() for _ in range(50)]
    assert len(stage.players._prompts) == 1
    reads = []
    do = stage.disk.do
    stage.disk.do = lambda *job: reads.append(job) or do(*job)
    stage.run(13)
    assert [outlet.payload for outlet in outlets] == [data] * 50
    assert len(reads) <= 4, "three blocks at most, and the end"
    assert stage.players._prompts == {}


def test_no_file(stage):
    with pytest.raises(PlaybackError, match=r"moh\.0: No such file"):
        stage.play()
    with pytest.raises(PlaybackError, match="no payload type is named"):
        stage.play(payload_types=())
    assert stage.players._prompts == {}


def test_a_payload_type_whose_frames_are_not_known(stage):
    stage.make(payload_type=97)
    outlet = stage.play(None, payload_types=(97, 0))
    stage.run(1)
    assert (outlet.packets, outlet.ends) == ([], 1)


def test_a_player_is_stopped(stage):
    stage.make()
    outlet, other = stage.play(None), stage.play(None)
    stage.run(1)
    outlet.playing.stop()
    count = len(outlet.packets)
    stage.run(1)
    assert len(outlet.packets) == count
    assert outlet.ends == 0
    assert len(other.packets) in (99, 100)
    other.playing.stop()
    stage.run(1)
    assert stage.timers == []


def test_a_party_that_cannot_be_reached_yet(stage):
    data = stage.make()
    outlet = stage.play()
    outlet.is_open = False
    stage.run(10)
    assert stage.timers == [], "it is not tried again and again"
    outlet.playing.wake()
    stage.run(1)
    assert outlet.packets == []
    outlet.is_open = True
    outlet.playing.wake()
    outlet.playing.wake()
    stage.run(1)
    assert outlet.payload == data
    assert RTP(outlet.packets[0][:12]).marker == 1


def test_a_party_that_cannot_be_reached_any_more_misses_nothing(stage):
    data = stage.make()
    outlet = stage.play()
    stage.run(0.05)
    outlet.is_open = False
    stage.run(0.1)
    outlet.is_open = True
    outlet.playing.wake()
    stage.run(1)
    assert outlet.payload == data
    numbers = [RTP(packet[:12]).sequence for packet in outlet.packets]
    assert numbers == [(numbers[0] + n) & 0xFFFF for n in range(5)]


def test_a_slow_disk(stage):
    """The command succeeds all the same, and so do others after it without waiting; then the prompts begin."""
    data = stage.make()
    stage.disk.hangs = True
    outlets = [stage.play(), stage.play()]
    stage.run(1)
    assert stage.timers == []
    stage.disk.hangs = False
    stage.run(1)
    assert [outlet.payload for outlet in outlets] == [data, data]


def test_a_disk_that_hangs_lets_the_other_prompts_fail_as_they_should(stage):
    """The command for a file that is not there gets its error, however long the open of another one hangs."""
    stage.disk.hangs = True
    stage.play()
    stage.disk.hangs = False
    stage.now += 1
    with pytest.raises(PlaybackError, match=r"none\.0: No such file"):
        stage.play(name="none")
    data = stage.make(name="other")
    outlet = stage.play(name="other")
    assert outlet.playing.state.name == "DUE"
    stage.run(1)
    assert outlet.payload == data


def test_a_slow_disk_holds_nobody_up_for_long(stage):
    data = [stage.make(160 + number, name=str(number))[:160] for number in range(100)]
    stage.disk.takes = 0.015
    begun_at = stage.now
    outlets = [stage.play(name=str(number)) for number in range(100)]
    assert 0.9 * MOST_S < stage.now - begun_at < 1.1 * MOST_S
    stage.run(1)
    assert [outlet.payload for outlet in outlets] == data


def test_a_slow_disk_is_asked_once_for_each_prompt(stage):
    """So that those who ask again and again take no thread from others."""
    data = stage.make()
    stage.disk.hangs = True
    outlets = [stage.play() for _ in range(100)]
    outlets[0].playing.stop()
    assert len(stage.disk.jobs) == 1
    stage.disk.hangs = False
    stage.run(1)
    assert [outlet.payload for outlet in outlets[1:]] == [data] * 99
    assert outlets[0].packets == []


def test_a_slow_disk_that_has_no_such_file(stage, caplog):
    stage.disk.hangs = True
    outlet, stopped = stage.play(), stage.play(title="other")
    stopped.playing.stop()
    stage.disk.hangs = False
    stage.run(1)
    assert (outlet.ends, stopped.ends) == (1, 0)
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        f"call: not played: {stage.directory}/moh.0: No such file or directory"
    ]


def test_a_file_that_is_open_too_late(stage):
    stage.make()
    stage.disk.hangs = True
    outlet = stage.play()
    outlet.playing.stop()
    stage.disk.hangs = False
    stage.run(1)
    assert (outlet.packets, outlet.ends) == ([], 0)


def test_a_disk_that_does_not_answer_at_all(stage, caplog):
    stage.make()
    stage.disk.hangs = True
    outlet = stage.play()
    stage.run(PATIENCE_S - MOST_S - 0.1)
    stage.tick()
    assert outlet.ends == 0
    stage.run(0.2)
    stage.tick()
    assert outlet.ends == 1
    assert "call: not played any more: the disk has not answered for 5 s" in caplog.text


def test_nothing_is_kept_of_those_who_gave_up_on_a_disk(stage):
    stage.disk.hangs = True
    for _ in range(20):
        outlets = [stage.play() for _ in range(10)]
        outlets[0].playing.stop()
        stage.run(PATIENCE_S + 1)
        stage.tick()
        assert [outlet.ends for outlet in outlets] == [0] + [1] * 9
    ((_, askers),) = stage.players._openings._queues[os.fsencode(stage.directory / "moh")].items()
    assert askers == []
    assert not stage.players._waiting
    assert len(stage.disk.jobs) == 1


def test_a_disk_that_hangs_while_a_prompt_is_played(stage, caplog):
    """What was read before is played; then the player waits, and ends."""
    data = stage.make(3 * BLOCK_BYTES)
    outlet = stage.play()
    stage.run(0.1)
    stage.disk.hangs = True
    for _ in range(20):
        stage.run(0.5)
        stage.tick()
    assert outlet.payload == data[: 2 * BLOCK_BYTES]
    assert outlet.ends == 0
    for _ in range(10):
        stage.run(0.5)
        stage.tick()
    assert outlet.ends == 1
    assert "call: not played any more: the disk has not answered for 5 s" in caplog.text


def test_what_is_awaited_comes_in_time(stage):
    data = stage.make(2 * BLOCK_BYTES)
    stage.disk.hangs = True
    outlet = stage.play()
    for _ in range(100):
        stage.run(0.2)
        stage.disk.answer()
    assert outlet.payload == data
    assert outlet.ends == 1


def put(path, content):
    """Put new content in the place of a file, as mv does."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").rename(path)


def put_in_a_directory(path):
    path.unlink()
    path.parent.rename(path.parent.with_name("old"))
    path.parent.write_bytes(b"no directory")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), "it is gone: No such file or directory"),
        (lambda path: path.rename(path.with_suffix(".old")), "it is gone: No such file or directory"),
        (put_in_a_directory, "it is gone: Not a directory"),
        (lambda path: (path.unlink(), path.symlink_to("nothing")), "it is gone: No such file or directory"),
        (lambda path: os.truncate(path, 799), "it has been cut short"),
    ],
)
def test_a_file_that_is_gone_or_shorter_ends_its_players_at_the_next_tick(stage, caplog, change, why):
    (stage.directory / "sub").mkdir()
    stage.make(name="sub/moh")
    stage.make(name="other")
    outlets, other = [stage.play(None, name="sub/moh") for _ in range(2)], stage.play(None, name="other")
    stage.run(1)
    stage.tick()
    assert [outlet.ends for outlet in outlets] == [0, 0]
    change(stage.directory / "sub" / "moh.0")
    stage.run(1)
    assert [outlet.ends for outlet in outlets] == [0, 0]
    stage.tick()
    assert [outlet.ends for outlet in (*outlets, other)] == [1, 1, 0]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        f"prompt {stage.directory}/sub/moh.0: {why}; players that end: 2"
    ]
    stage.tick()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: put(path, b"x"),
        lambda path: put(path, bytes(100 * BLOCK_BYTES)),
        lambda path: os.utime(path),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to(path.name)),
    ],
    ids=["replaced by a short one", "by a long one", "touched", "longer", "a FIFO", "a directory", "a circle of links"],
)
def test_what_is_open_is_played_on_whatever_has_its_name(stage, caplog, change):
    """Through all blocks, some of which are read after that."""
    data = stage.make(3 * BLOCK_BYTES)
    outlet = stage.play(2)
    stage.run(0.1)
    change(stage.directory / "moh.0")
    for _ in range(30):
        stage.run(1)
        stage.tick()
    assert outlet.payload == 2 * data
    assert outlet.ends == 1
    assert "ERROR" not in {record.levelname for record in caplog.records}


def test_what_was_replaced_ends_when_the_name_is_gone(stage):
    stage.make()
    old = stage.play(None)
    stage.run(0.5)
    put(stage.directory / "moh.0", bytes(1600))
    new = stage.play(None)
    stage.tick()
    assert (old.ends, new.ends) == (0, 0)
    (stage.directory / "moh.0").unlink()
    stage.tick()
    assert (old.ends, new.ends) == (1, 1)


def test_a_file_that_is_cut_short_before_the_tick(stage, caplog):
    stage.make(3 * BLOCK_BYTES)
    outlet = stage.play()
    stage.run(1)
    os.truncate(stage.directory / "moh.0", 2 * BLOCK_BYTES)
    stage.run(20)
    assert outlet.ends == 1
    assert "it has been cut short; players that end: 1" in caplog.text


def test_a_new_version_is_played_to_those_who_come_later(stage):
    data = stage.make(1600)
    old = stage.play(None)
    stage.run(0.5)
    put(stage.directory / "moh.0", bytes(1600))
    stage.tick()
    new = stage.play()
    stage.run(1)
    stage.tick()
    assert new.payload == bytes(1600)
    assert old.payload == data * 7 + data[: len(old.payload) % 1600]
    assert old.ends == 0


def test_files_are_not_looked_at_while_the_disk_hangs(stage):
    stage.make()
    stage.play(None)
    stage.run(1)
    stage.disk.hangs = True
    for _ in range(5):
        stage.tick()
    assert len(stage.disk.jobs) == 1


def test_a_directory_that_hangs_keeps_none_from_being_looked_at(stage):
    for name in ("one", "other"):
        (stage.directory / name).mkdir()
        stage.make(name=f"{name}/moh")
    hangs = stage.play(None, name="one/moh")
    stage.run(1)
    stage.disk.hangs = True
    stage.tick()
    (job,) = stage.disk.jobs
    stage.disk.jobs.clear()  # it does not answer
    stage.disk.hangs = False
    outlet = stage.play(None, name="other/moh")
    stage.run(1)
    for name in ("one", "other"):
        (stage.directory / name / "moh.0").unlink()
    stage.tick()
    assert (hangs.ends, outlet.ends) == (0, 1)
    stage.disk.jobs.append(job)
    stage.disk.answer()
    assert hangs.ends == 1


def test_a_disk_that_is_too_busy(stage, caplog):
    stage.make(2 * BLOCK_BYTES)
    stage.disk.refuses = True
    with pytest.raises(PlaybackError):
        stage.play()
    stage.disk.refuses = False
    outlet = stage.play()
    stage.disk.refuses = True
    stage.run(1)
    assert outlet.ends == 1
    assert "call: not played any more: the disk has not answered for long" in caplog.text
    stage.disk.refuses = False


def test_a_hundred_players_for_a_minute(stage):
    data = stage.make(8000)
    outlets = [stage.play(None) for _ in range(100)]
    stage.run(60)
    for outlet in outlets:
        assert 2998 <= len(outlet.packets) <= 3000
        assert abs(outlet.times[-1] - outlet.times[0] - 0.02 * (len(outlet.times) - 1)) < 0.001
        assert outlet.payload[:8000] == data
