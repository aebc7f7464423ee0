"""A directory that strangers may not write to, and files in it that strangers did not make."""

import os
import stat

import pytest

from rtpproxy.notes.directory import Directory, read
from tests.notes.conftest import NOBODY


@pytest.fixture
def directory(path):
    opened = Directory(str(path))
    yield opened
    opened.close()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o027, 0o077])
def test_directory_is_made_whatever_the_umask(path, umask):
    before = os.umask(umask)
    try:
        Directory(str(path)).close()
    finally:
        os.umask(before)
    assert mode(path) == 0o755


@pytest.mark.parametrize(("bits", "why"), [(0o775, "0775"), (0o757, "0757"), (0o1777, "1777")])
def test_directory_that_others_may_write_to_is_refused(path, bits, why):
    path.mkdir()
    path.chmod(bits)
    with pytest.raises(PermissionError, match=rf"users other than its owner may write to it \(mode {why}\)"):
        Directory(str(path))
    assert mode(path) == bits


@pytest.mark.root
def test_directory_of_another_user_is_refused(path):
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=f"it belongs to user {NOBODY}"):
        Directory(str(path))


@pytest.mark.parametrize("is_dangling", [True, False])
def test_link_in_its_place_is_not_followed(public, path, is_dangling):
    target = public / "elsewhere"
    if not is_dangling:
        target.mkdir()
    path.symlink_to(target)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels of symbolic links"):
        Directory(str(path))
    assert target.exists() == (not is_dangling)


def test_file_in_its_place(path):
    path.write_text("precious")
    with pytest.raises(OSError, match="Not a directory"):
        Directory(str(path))
    assert path.read_text() == "precious"


def test_note_is_ours_alone_until_it_is_published(path, directory):
    before = os.umask(0)
    try:
        name, fd = directory.create()
    finally:
        os.umask(before)
    assert mode(path / name) == 0o600
    directory.publish(fd)
    assert mode(path / name) == 0o644
    os.write(fd, b"one\n")
    os.write(fd, b"two\n")
    assert read(fd) == "one\ntwo\n"
    assert directory.names() == [name]
    directory.remove(name)
    assert directory.names() == []
    os.close(fd)


def test_other_files_are_no_notes(path, directory):
    for name in ("note", "c92bbd8b-4026531840.reserved", ".note.swp", "x.note~"):
        (path / name).touch()
    assert directory.names() == []


def make_link(place):
    (place.parent / "target").write_text("precious")
    place.symlink_to("target")


def make_dangling_link(place):
    place.symlink_to("target")


def make_second_name(place):
    (place.parent / "target").write_text("precious")
    place.hardlink_to(place.parent / "target")


def make_strangers(place):
    place.touch()
    os.chown(place, NOBODY, NOBODY)


def make_open(place):
    place.touch()
    place.chmod(0o666)


def make_pipe(place):
    os.mkfifo(place)


def make_directory(place):
    place.mkdir()


MAKERS = [make_link, make_dangling_link, make_second_name, make_strangers, make_open, make_pipe, make_directory]


@pytest.mark.root
@pytest.mark.parametrize("make", MAKERS)
def test_what_strangers_could_have_put_there_is_not_opened(path, directory, make):
    before = set(os.listdir("/proc/self/fd"))
    make(path / "1-0.note")
    held = {one.name: one.read_text() for one in path.iterdir() if one.is_file()}
    with pytest.raises(OSError, match=r"\w"):
        directory.open("1-0.note")
    assert {one.name: one.read_text() for one in path.iterdir() if one.is_file()} == held
    assert set(os.listdir("/proc/self/fd")) == before
