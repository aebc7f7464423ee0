"""One file while it is written: what is in it when, after which faults, and after another process."""

import errno
import os

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats
from rtpproxy.recording.file_output import BUFFER_BYTES, FileOutput, find_end, mapped
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.messages import Open
from tests.recording.packets import BEGIN_NS, packet, read_adhoc


def opened(path, kind=RecordFormat.ADHOC, *, is_continued=False, given=0):
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    output = FileOutput(
        descriptor, Open(1, kind, is_continued, given, b"x", b"", "title"), formats.make(kind, Frames(), "title")
    )
    output.begin()
    return output


def take(output, *numbers):
    for number in numbers:
        output.take(packet(number), BEGIN_NS + number)


def close(output):
    output.finish(BEGIN_NS)
    output.close()


def limit_file_size(monkeypatch, most):
    """Writes beyond so many bytes of a file fail, as on a full disk: what fits is written."""
    write = os.write

    def limited(descriptor, data):
        room = most - os.lseek(descriptor, 0, os.SEEK_CUR)
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:room])

    monkeypatch.setattr(os, "write", limited)


def test_packets_are_written_when_asked_for(tmp_path):
    output = opened(tmp_path / "x")
    take(output, 1, 2)
    assert (tmp_path / "x").stat().st_size == 0
    output.flush()
    assert [one.payload for one in read_adhoc((tmp_path / "x").read_bytes())] == [packet(1).payload, packet(2).payload]
    close(output)
    assert (output.packets, output.lost, output.why) == (2, 0, "")


def test_a_full_buffer_is_written_at_once(tmp_path):
    output = opened(tmp_path / "x")
    for number in range(BUFFER_BYTES // 30):
        output.take(packet(number, payload=b""), BEGIN_NS)
    assert (tmp_path / "x").stat().st_size == 0
    take(output, 1)
    assert (tmp_path / "x").stat().st_size >= BUFFER_BYTES
    close(output)


@pytest.mark.parametrize("kind", RecordFormat)
def test_a_file_that_is_closed_at_once_is_sound(tmp_path, kind):
    close(opened(tmp_path / "x", kind))
    data = (tmp_path / "x").read_bytes()
    assert formats.find_format(data) is kind
    assert formats.find_whole(kind, data).packets == 0


@pytest.mark.parametrize("kind", RecordFormat)
@pytest.mark.parametrize("room", [0, 10, 100, 500, 4000])
def test_a_full_disk_ends_it_after_the_last_whole_packet(tmp_path, monkeypatch, kind, room):
    output = opened(tmp_path / "x", kind)
    limit_file_size(monkeypatch, room)
    take(output, *range(20))
    output.flush()
    take(output, *range(20, 100))
    output.flush()
    assert output.is_over
    assert output.why == "No space left on device"
    data = (tmp_path / "x").read_bytes()
    whole = formats.find_whole(kind, data)
    assert len(data) == whole.kept_bytes <= room
    assert output.packets == whole.packets
    assert output.packets + output.lost == 100
    take(output, 100)
    close(output)
    assert output.packets + output.lost == 101
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.parametrize("kind", RecordFormat)
@pytest.mark.parametrize("cut", [0, 1, 31])
def test_going_on_after_another_process(tmp_path, kind, cut):
    before = opened(tmp_path / "x", kind)
    take(before, *range(5))
    before.flush()
    before.close()
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size - cut)
    output = opened(tmp_path / "x", kind, is_continued=True, given=8)
    kept = 5 if not cut else 4
    assert (output.packets, output.lost) == (kept, 8 - kept)
    take(output, 8, 9)
    close(output)
    data = (tmp_path / "x").read_bytes()
    assert formats.find_whole(kind, data)[:2] == (len(data), kept + 2)


def test_going_on_where_nothing_was_written(tmp_path):
    (tmp_path / "x").write_bytes(b"\xd4")
    output = opened(tmp_path / "x", RecordFormat.PCAP, is_continued=True)
    take(output, 1)
    close(output)
    assert formats.find_whole(RecordFormat.PCAP, (tmp_path / "x").read_bytes()).packets == 1


def test_lost_packets_stand_before_the_next_one(tmp_path):
    output = opened(tmp_path / "x", RecordFormat.PCAPNG)
    take(output, 1)
    output.miss(3)
    output.miss(4)
    take(output, 2, 3)
    close(output)
    assert output.lost == 7
    expected = formats.make(RecordFormat.PCAPNG, Frames(), "title")
    data = expected.begin + b"".join(
        expected.packet(packet(number), BEGIN_NS + number, 7 if number == 2 else 0) for number in (1, 2, 3)
    )
    assert (tmp_path / "x").read_bytes() == data + expected.end(3, 7, BEGIN_NS)


def test_content_is_mapped(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    for name, content in (("x", b"abc"), ("empty", b"")):
        descriptor = os.open(tmp_path / name, os.O_RDONLY)
        with mapped(descriptor) as data:
            assert bytes(data) == content
        os.close(descriptor)


def test_the_end_of_a_file_that_cannot_be_read():
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        find_end(writer, Open(1, RecordFormat.ADHOC, False, 0, b"x", b"", ""))
