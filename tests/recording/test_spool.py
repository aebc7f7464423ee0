"""What a killed relay left in the spool is finished, or named."""

import os

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats, spool
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.messages import Found
from tests.recording.packets import BEGIN_NS, packet


def content(kind, count=3):
    form = formats.make(kind, Frames(), "title")
    return form.begin + b"".join(form.packet(packet(number), BEGIN_NS, 0) for number in range(count))


@pytest.fixture
def places(tmp_path):
    """The spool and the directory of recordings."""
    for name in ("spool", "recordings"):
        (tmp_path / name).mkdir()
    return tmp_path / "spool", tmp_path / "recordings"


def finish(places):
    descriptors = [os.open(place, os.O_RDONLY | os.O_DIRECTORY) for place in places]
    try:
        return list(spool.finish_all(*descriptors))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("kind", RecordFormat)
def test_a_cut_file_is_finished(places, kind):
    inside, outside = places
    data = content(kind)
    (inside / "x").write_bytes(data[:-2])
    assert finish(places) == [Found(b"x", 2, True, "")]
    assert not list(inside.iterdir())
    left = (outside / "x").read_bytes()
    assert data.startswith(left)
    assert formats.find_whole(kind, left).packets == 2


def test_names_are_any_bytes(places):
    inside, outside = places
    name = b"\xff=\x80.o.rtp"
    with open(os.path.join(os.fsencode(inside), name), "wb") as file:
        file.write(content(RecordFormat.ADHOC))
    assert finish(places) == [Found(name, 3, True, "")]
    assert os.listdir(os.fsencode(outside)) == [name]


def test_what_is_being_written_is_left_alone(places):
    inside, _ = places
    (inside / "x").write_bytes(content(RecordFormat.ADHOC))
    held = os.open(inside / "x", os.O_RDWR)
    assert spool.lock(held)
    assert finish(places) == []
    os.close(held)
    assert finish(places) == [Found(b"x", 3, True, "")]


def test_whether_a_file_is_needed(places):
    inside, _ = places
    (inside / "x").touch()
    (inside / "link").symlink_to("x")
    (inside / "directory").mkdir()
    descriptor = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    names = (b"x", b"link", b"directory", b"none")
    held = os.open(inside / "x", os.O_RDWR)
    before = len(os.listdir("/proc/self/fd"))
    assert [spool.is_needed(name, descriptor) for name in names] == [False] * 4
    assert spool.lock(held)
    assert [spool.is_needed(name, descriptor) for name in names] == [True, False, False, False]
    assert len(os.listdir("/proc/self/fd")) == before
    os.write(held, b"data")
    os.close(held)
    assert spool.is_needed(b"x", descriptor)
    os.close(descriptor)


def test_no_recording_is_replaced(places):
    inside, outside = places
    (inside / "x").write_bytes(content(RecordFormat.ADHOC))
    (outside / "x").write_bytes(b"precious")
    assert finish(places) == [Found(b"x", 3, False, "there is a recording of that name already")]
    assert (outside / "x").read_bytes() == b"precious"
    assert (inside / "x").exists()


def test_something_else_is_named(places):
    inside, _ = places
    (inside / "x.wav").write_bytes(b"RIFF" + bytes(100))
    assert finish(places) == [Found(b"x.wav", 0, False, "it is no recording")]
    assert (inside / "x.wav").stat().st_size == 104


def test_links_and_directories_are_not_touched(places):
    inside, outside = places
    (inside / "link").symlink_to("/etc/hostname")
    (inside / "directory").mkdir()
    os.mkfifo(inside / "fifo")
    found = {one.name: one.why for one in finish(places)}
    assert found == {b"link": "Too many levels of symbolic links", b"directory": "Is a directory"}
    assert sorted(path.name for path in inside.iterdir()) == ["directory", "fifo", "link"]
    assert not list(outside.iterdir())


def test_a_directory_that_takes_nothing(places):
    inside, outside = places
    (inside / "x").write_bytes(content(RecordFormat.ADHOC))
    descriptors = [os.open(place, os.O_RDONLY | os.O_DIRECTORY) for place in places]
    outside.rmdir()
    assert list(spool.finish_all(*descriptors)) == [Found(b"x", 0, False, "No such file or directory")]
    assert (inside / "x").exists()
