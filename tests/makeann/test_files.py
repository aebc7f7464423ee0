"""Files are complete or absent, also where the disk is full or whoever writes gives up."""

import os
from pathlib import Path

import pytest

from rtpproxy.errors import NoPromptError
from rtpproxy.makeann.files import all_or_none


@pytest.fixture
def paths(tmp_path):
    return [tmp_path / "hold.0", tmp_path / "hold.8"]


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_they_get_their_names_when_all_are_complete(tmp_path, paths):
    paths[0].write_bytes(b"old")
    with all_or_none(paths) as files:
        for number, file in enumerate(files):
            file.write(b"new %d" % number)
            file.flush()
        assert {name: data for name, data in contents(tmp_path).items() if not name.startswith(".")} == {
            "hold.0": b"old"
        }
    assert contents(tmp_path) == {"hold.0": b"new 0", "hold.8": b"new 1"}


@pytest.mark.parametrize("reason", [ValueError, KeyboardInterrupt, NoPromptError])
def test_nothing_is_left_of_an_attempt(tmp_path, paths, reason):
    paths[0].write_bytes(b"old")

    def fail():
        with all_or_none(paths) as files:
            files[0].write(b"half")
            raise reason

    with pytest.raises(reason):
        fail()
    assert contents(tmp_path) == {"hold.0": b"old"}


def test_a_full_disk_is_told(paths, tmp_path):
    """Such as it is behind /dev/full: what is written to it later fails, too."""

    def fill():
        with all_or_none(paths) as files:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, files[1].fileno())
            os.close(full)
            files[1].write(bytes(100))

    with pytest.raises(NoPromptError, match=f"cannot write to {tmp_path}: No space left on device"):
        fill()
    assert contents(tmp_path) == {}


def test_a_directory_with_the_name_is_told_before_anything_is_written(tmp_path, paths):
    paths[1].mkdir()
    with pytest.raises(NoPromptError, match=r"cannot write .*/hold.8: a directory has this name"), all_or_none(paths):
        pytest.fail("opened")
    assert [path.name for path in tmp_path.iterdir()] == ["hold.8"]


@pytest.mark.parametrize("stem", ["nowhere/hold", "file/hold"])
def test_a_directory_that_is_not_there_is_told(tmp_path, stem):
    (tmp_path / "file").touch()
    with pytest.raises(NoPromptError, match=r"cannot write to .*: N"), all_or_none([tmp_path / f"{stem}.0"]):
        pytest.fail("opened")


def test_a_link_is_replaced_and_not_followed(tmp_path, paths):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"old")
    paths[0].symlink_to(elsewhere)
    with all_or_none(paths[:1]) as (file,):
        file.write(b"new")
    assert contents(tmp_path) == {"hold.0": b"new", "elsewhere": b"old"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_others_may_read_them_as_the_umask_says(paths, umask, mode):
    """Because the relay is another user (`-u`)."""
    before = os.umask(umask)
    try:
        with all_or_none(paths):
            pass
    finally:
        os.umask(before)
    assert Path(paths[0]).stat().st_mode & 0o777 == mode
