"""A prompt in memory: read once for all, in blocks, and forgotten when nobody holds it."""

import gc
import os

import pytest

from rtpproxy.errors import PlaybackError
from rtpproxy.playback import prompt as prompt_module
from rtpproxy.playback.files import Files
from rtpproxy.playback.player import BLOCK_BYTES
from rtpproxy.playback.prompt import Prompt
from tests.playback.descriptors import open_files
from tests.playback.work import FakeDisk


class Listener:
    """Keeps what it is told, and the blocks, if it is to."""

    def __init__(self, *, keeps=True):
        self.keeps = keeps
        self.blocks = {}
        self.numbers = []

    def has_read(self, number, block):
        self.numbers.append(number)
        if self.keeps:
            self.blocks[number] = block

    def has_failed(self):
        raise AssertionError("the prompt itself tells nobody")


class Stage:
    def __init__(self, tmp_path, size=2 * BLOCK_BYTES + 100):
        self.path = tmp_path / "moh.0"
        self.data = os.urandom(size)
        self.path.write_bytes(self.data)
        self.disk = FakeDisk()
        self.failures = []
        found = Files("").open(os.fsencode(tmp_path / "moh"), (0,))
        self.prompt = Prompt(found, self.disk, lambda prompt, why: self.failures.append((prompt, why)))

    def listener(self, **how):
        made = Listener(**how)
        self.prompt.users.add(made)
        return made


@pytest.fixture
def stage(tmp_path):
    before = open_files()
    made = Stage(tmp_path)
    yield made
    made.prompt.close()
    made.disk.answer()
    assert open_files() == before


def test_a_block_is_read_once_for_all(stage):
    one, other = stage.listener(), stage.listener()
    assert stage.prompt.block(1) is None
    assert stage.prompt.block(1) is None
    assert len(stage.disk.jobs) == 1
    stage.disk.answer()
    assert one.blocks[1] is other.blocks[1]
    assert one.blocks[1].data == stage.data[BLOCK_BYTES : 2 * BLOCK_BYTES]
    assert stage.prompt.block(1) is one.blocks[1]
    assert stage.disk.jobs == []


def test_the_last_block_is_shorter(stage):
    one = stage.listener()
    stage.prompt.block(2)
    stage.disk.answer()
    assert one.blocks[2].data == stage.data[2 * BLOCK_BYTES :]


def test_a_block_that_nobody_holds_is_forgotten(stage):
    one = stage.listener(keeps=False)
    stage.prompt.block(0)
    stage.disk.answer()
    gc.collect()
    assert one.numbers == [0]
    assert stage.prompt.block(0) is None
    stage.disk.answer()
    assert one.numbers == [0, 0]


def test_a_file_that_is_cut_short(stage):
    one = stage.listener()
    os.truncate(stage.path, BLOCK_BYTES + 1)
    stage.prompt.block(1)
    stage.disk.answer()
    assert stage.failures == [(stage.prompt, "it has been cut short")]
    assert one.numbers == []


def test_a_disk_that_fails(stage, monkeypatch):
    def fail(descriptor, position, size):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(prompt_module, "read_block", fail)
    stage.prompt.block(0)
    stage.disk.answer()
    assert stage.failures == [(stage.prompt, "it cannot be read: Input/output error")]


def test_no_block_is_read_of_a_disk_that_is_too_busy(stage):
    stage.disk.refuses = True
    for _ in range(2):
        with pytest.raises(PlaybackError):
            stage.prompt.block(0)
    stage.disk.refuses = False
    one = stage.listener()
    stage.prompt.block(0)
    stage.disk.answer()
    assert one.numbers == [0]


def test_a_file_is_closed_when_what_is_read_has_been_read(tmp_path):
    before = open_files()
    stage = Stage(tmp_path)
    one = stage.listener()
    stage.prompt.block(0)
    stage.prompt.close()
    assert len(stage.disk.jobs) == 1, "it is not closed while it is read"
    stage.disk.answer()
    assert open_files() == before
    assert one.numbers == []
    assert stage.prompt.block(1) is None
    assert stage.disk.jobs == []


def test_a_file_is_closed_at_once_where_there_is_no_thread(tmp_path):
    before = open_files()
    stage = Stage(tmp_path)
    stage.disk.refuses = True
    stage.prompt.close()
    assert open_files() == before
