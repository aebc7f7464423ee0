"""Making files in the directory of recordings and in the spool."""

import os
import stat
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rtpproxy.errors import RecordingError, StartError
from rtpproxy.recording import disk
from rtpproxy.recording.directories import UNFINISHED, Directories
from tests.waiting import DEADLINE_S, wait_for


@pytest.fixture
def places(tmp_path):
    for name in ("recordings", "spool"):
        (tmp_path / name).mkdir()
    return str(tmp_path / "recordings"), str(tmp_path / "spool")


@pytest.fixture
def directories(places):
    made = Directories(*places)
    yield made
    made.close()


def make_open(directories, name):
    (made,), _ = directories.make([name])
    return made


def make(directories, name):
    made = make_open(directories, name)
    os.close(made.descriptor)
    return made


def test_files_are_made_in_the_spool(directories, places, tmp_path):
    before = os.umask(0o027)
    try:
        make(directories, b"x")
    finally:
        os.umask(before)
    assert os.listdir(places[1]) == ["x"]
    assert os.listdir(places[0]) == []
    assert stat.S_IMODE(os.stat(f"{places[1]}/x").st_mode) == 0o640
    assert directories.spool_path == places[1]


@pytest.fixture
def own(places):
    """A relay without `-S`."""
    made = Directories(places[0], "")
    yield made
    made.close()


@pytest.fixture
def hidden(places):
    """Its spool."""
    return Path(places[0], UNFINISHED)


def entries(path):
    return sorted(os.listdir(path))


def test_without_a_spool_one_of_our_own_is_made(own, places, hidden):
    """At the start, or as soon as that is possible; the files are in it."""
    os.chmod(places[0], 0o2751)
    assert own.spool_path == str(hidden)
    assert not own.has_leftovers()
    assert len(own.duplicate()) == 1
    assert own.prepare() == []
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o2751
    made, has_changed = own.make([b"x", b"y"])
    assert not has_changed
    assert (entries(places[0]), entries(hidden)) == ([UNFINISHED], ["x", "y"])
    assert own.has_leftovers()
    for descriptor in [*own.duplicate(), *(one.descriptor for one in made)]:
        os.close(descriptor)


def test_our_own_spool_is_made_by_the_first_recording(own, hidden):
    for has_changed in (True, False):
        (made,), found = own.make([b"x"])
        os.close(made.descriptor)
        assert found == has_changed
    assert entries(hidden) == ["x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_our_own_spool_is_its_owners_who_has_the_directory(own, places, hidden):
    os.chown(places[0], 65534, 65533)
    hidden.mkdir(0o700)
    assert own.prepare() == []
    about = hidden.stat()
    assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (65534, 65533, 0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("with_spool", [True, False], ids=["-S", "-r"])
def test_a_file_is_its_owners_who_has_the_directory(places, hidden, with_spool):
    """Who writes it is that user, and has to open it by its name after a crash."""
    for place in places:
        os.chown(place, 65534, 65533)
    directories = Directories(places[0], places[1] if with_spool else "")
    make(directories, b"x")
    directories.close()
    about = Path(places[1] if with_spool else hidden, "x").stat()
    assert (about.st_uid, about.st_gid) == (65534, 0)


def test_our_own_spool_is_removed_or_replaced(own, places, hidden):
    """By somebody who removes old and empty directories."""
    make(own, b"x")
    (hidden / "x").unlink()
    hidden.rmdir()
    Path(places[0], "other").mkdir()
    assert make_open_changed(own, b"y")
    assert entries(hidden) == ["y"]
    hidden.rename(hidden.with_name("moved"))
    assert make_open_changed(own, b"z")
    assert entries(hidden) == ["z"]


def make_open_changed(directories, name):
    (made,), has_changed = directories.make([name])
    os.close(made.descriptor)
    return has_changed


def test_the_directory_of_recordings_is_replaced(own, places, hidden):
    """Both descriptors are the new one's."""
    make(own, b"x")
    os.rename(places[0], f"{places[0]}.old")
    os.mkdir(places[0])
    assert make_open_changed(own, b"y")
    assert entries(hidden) == ["y"]
    copies = own.duplicate()
    assert [os.readlink(f"/proc/self/fd/{one}") for one in copies] == [places[0], str(hidden)]
    for one in copies:
        os.close(one)


@pytest.mark.parametrize("planted", ["link", "file"])
def test_what_is_no_directory_is_not_used_for_our_own_spool(own, tmp_path, hidden, planted):
    if planted == "link":
        hidden.symlink_to(tmp_path)
    else:
        hidden.write_bytes(b"precious")
    before = entries("/proc/self/fd")
    words = f"cannot use {hidden}: Not a directory"
    assert own.prepare() == [words]
    with pytest.raises(RecordingError, match=words):
        own.make([b"x"])
    assert entries("/proc/self/fd") == before
    assert entries(tmp_path) == ["recordings", "spool"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_directory_in_a_sticky_one_is_not_used(own, places, hidden):
    """Who owns it could take recordings away, and put others there, which the sticky bit is to prevent."""
    os.chmod(places[0], 0o1777)
    hidden.mkdir()
    os.chown(hidden, 65534, 65534)
    (words,) = own.prepare()
    assert words == f"cannot use {hidden}: it is another user's, who could take recordings away"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_relay_that_is_another_user_now():
    """The directory was given to that user, and what an earlier relay made in it was not."""

    def prepare(path):
        own = Directories(path, "")
        os.seteuid(65534)
        try:
            return own.prepare()
        finally:
            os.seteuid(0)
            own.close()

    with TemporaryDirectory() as path:  # pytest's are root's
        hidden = Path(path, UNFINISHED)
        hidden.mkdir()
        os.chown(path, 65534, 65534)
        (hidden / "left").touch()
        assert prepare(path) == [f"cannot use {hidden}: this user may not make files there"]
        (hidden / "left").unlink()
        assert prepare(path) == []
        assert hidden.stat().st_uid == 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_files_get_the_group_of_a_directory_that_hands_it_on():
    """As in the directory itself, though the relay's user is not in that group."""
    groups = os.getgroups()
    with TemporaryDirectory() as path:  # pytest's are root's
        os.chown(path, 65534, 65533)
        os.chmod(path, 0o3775)
        own = Directories(path, "")
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
        try:
            assert own.prepare() == []
            make(own, b"x")
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
            own.close()
        hidden = Path(path, UNFINISHED)
        assert (hidden.stat().st_gid, (hidden / "x").stat().st_gid) == (65533, 65533)
        assert stat.S_IMODE(hidden.stat().st_mode) & 0o3700 == 0o3700


def test_an_empty_file_is_replaced_and_not_written_to(directories, places, tmp_path):
    earlier = tmp_path / "spool" / "x"
    earlier.touch()
    before = earlier.stat().st_ino
    with earlier.open("rb"):
        assert make(directories, b"x").name == b"x"
        assert earlier.stat().st_ino != before


def test_what_an_earlier_recording_left_stays(directories, places, tmp_path):
    """The log named it, as after a full disk, or the next start still has to finish it."""
    earlier = tmp_path / "spool" / "x"
    earlier.write_bytes(b"earlier")
    made = make(directories, b"x")
    assert made.name == b"x.%d" % os.getpid()
    assert entries(places[1]) == ["x", os.fsdecode(made.name)]
    assert earlier.read_bytes() == b"earlier"


def test_a_link_is_replaced_and_not_followed(directories, tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "spool" / "x").symlink_to(tmp_path / "target")
    made = make_open(directories, b"x")
    os.write(made.descriptor, b"recording")
    os.close(made.descriptor)
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "spool" / "x").is_symlink()


def test_a_file_that_another_relay_writes_to_keeps_its_name(directories, places):
    """Else that relay would move ours, in the middle of being written, and lose its own."""
    name = b"n" * 255
    theirs = make_open(directories, name)
    ours = make_open(directories, name)
    os.close(theirs.descriptor)
    also_ours = make_open(directories, name)
    assert (theirs.name, also_ours.name) == (name, name)
    suffix = b".%d" % os.getpid()
    assert ours.name == name[: -len(suffix)] + suffix
    assert sorted(os.listdir(os.fsencode(places[1]))) == sorted([name, ours.name])
    for made in (ours, also_ours):
        assert os.fstat(made.descriptor).st_nlink == 1
        os.close(made.descriptor)


def test_a_directory_in_the_way(directories, tmp_path):
    (tmp_path / "spool" / "x").mkdir()
    with pytest.raises(RecordingError, match=r"cannot make x in .*spool: Is a directory"):
        directories.make([b"x"])


def test_all_files_are_made_or_none(directories, tmp_path):
    (tmp_path / "spool" / "z").mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RecordingError, match="cannot make z"):
        directories.make([b"x", b"y", b"z"])
    assert os.listdir(tmp_path / "spool") == ["z"]
    assert os.listdir("/proc/self/fd") == before


def test_a_directory_that_is_gone(directories, tmp_path):
    (tmp_path / "spool").rmdir()
    with pytest.raises(RecordingError, match="No such file"):
        directories.make([b"x"])


def test_a_directory_that_comes_again_is_found(directories, tmp_path):
    (tmp_path / "spool").rmdir()
    # So that it gets another inode.
    (tmp_path / "other").mkdir()
    (tmp_path / "spool").mkdir()
    for has_changed in (True, False):
        (made,), found = directories.make([b"x"])
        os.close(made.descriptor)
        assert found == has_changed
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["x"]


def test_a_disk_that_hangs_holds_nobody_up_for_long(directories, tmp_path, monkeypatch):
    """The command is refused, others at once until the disk answers; then nothing is left of the file."""
    monkeypatch.setattr(disk, "WAIT_S", 0.01)
    answers = threading.Event()
    unlink = os.unlink

    def hang(*args, **kwargs):
        answers.wait(DEADLINE_S)
        unlink(*args, **kwargs)

    monkeypatch.setattr(os, "unlink", hang)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RecordingError, match=r"the disk has not answered for 0\.01 s"):
        directories.make([b"x"])
    with pytest.raises(RecordingError, match="the disk still does not answer"):
        directories.make([b"y"])
    monkeypatch.setattr(disk, "WAIT_S", DEADLINE_S)
    answers.set()
    wait_for(lambda: not directories._disk.is_busy, DEADLINE_S, "the disk")
    assert os.listdir(tmp_path / "spool") == []
    assert os.listdir("/proc/self/fd") == before
    make(directories, b"z")


def test_a_file_that_a_hanging_disk_has_is_not_waited_for_long(directories, monkeypatch):
    """A process died, and another is to go on with its files. Whoever waits is the event loop."""
    identity = make(directories, b"x").identity
    monkeypatch.setattr(disk, "WAIT_S", 0.01)
    answers = threading.Event()
    opened = os.open

    def hang(*args, **kwargs):
        answers.wait(DEADLINE_S)
        return opened(*args, **kwargs)

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "open", hang)
    for words in (r"the disk has not answered for 0\.01 s", "the disk still does not answer"):
        with pytest.raises(RecordingError, match=words):
            directories.reopen(b"x", b"x", identity)
    answers.set()
    wait_for(lambda: not directories._disk.is_busy, DEADLINE_S, "the disk")
    assert os.listdir("/proc/self/fd") == before
    monkeypatch.setattr(disk, "WAIT_S", DEADLINE_S)
    again, _ = directories.reopen(b"x", b"x", identity)
    os.close(again.descriptor)


@pytest.mark.parametrize(
    ("paths", "what"), [(("/nowhere", ""), "-r /nowhere: No such"), (("/etc", "/etc/hostname"), "-S /etc/h.*: Not a d")]
)
def test_what_cannot_be_used_is_told_at_start(paths, what):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match=what):
        Directories(*paths)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_same_directory_twice(places, tmp_path):
    """What is in the spool at start is taken for what a killed relay left."""
    (tmp_path / "link").symlink_to(places[0])
    with pytest.raises(StartError, match=r"-S .*link is the directory of -r; leave it out for a hidden spool"):
        Directories(places[0], str(tmp_path / "link"))


def test_two_file_systems(places):
    with pytest.raises(StartError, match="different file systems"):
        Directories(places[0], "/proc")


@contextmanager
def mounted(place):
    """A directory of the same file system is mounted there, as the volumes of a container are."""
    place.parent.joinpath("volume").mkdir()
    subprocess.run(["mount", "--bind", place.parent / "volume", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_two_mounts_of_one_file_system(places):
    """rename(2) moves nothing from one to the other."""
    with mounted(Path(places[1])), pytest.raises(StartError, match=r"or mounts of one: .*; leave -S out"):
        Directories(*places)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_mount_in_place_of_our_own_spool(own, hidden):
    make(own, b"x")
    words = f"cannot use {hidden}: something is mounted there: recordings could not be moved"
    before = len(os.listdir("/proc/self/fd"))
    with mounted(hidden):
        with pytest.raises(RecordingError, match=words):
            own.make([b"y"])
        assert own.prepare() == [words]
    assert len(os.listdir("/proc/self/fd")) == before
    make(own, b"y")
    assert entries(hidden) == ["x", "y"]


def test_a_file_is_found_again(directories, tmp_path):
    made = make(directories, b"x.1")
    again, is_in_place = directories.reopen(b"x", b"x.1", made.identity)
    os.close(again.descriptor)
    assert (again.identity, is_in_place) == (made.identity, False)
    (tmp_path / "spool" / "x.1").rename(tmp_path / "recordings" / "x")
    again, is_in_place = directories.reopen(b"x", b"x.1", made.identity)
    os.close(again.descriptor)
    assert is_in_place


def test_another_file_of_its_name_is_not_taken_for_it(directories, tmp_path):
    made = make_open(directories, b"x")
    (tmp_path / "spool" / "x").unlink()
    (tmp_path / "spool" / "x").touch()
    assert directories.reopen(b"x", b"x", made.identity) is None
    os.close(made.descriptor)


def test_leftovers(directories, tmp_path):
    assert not directories.has_leftovers()
    (tmp_path / "spool" / "x").touch()
    assert directories.has_leftovers()


def test_descriptors_are_duplicated(directories, places):
    copies = directories.duplicate()
    assert [os.readlink(f"/proc/self/fd/{one}") for one in copies] == list(places)
    for one in copies:
        os.close(one)


def test_nothing_is_objected_to(directories):
    assert directories.prepare() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_spool_of_another_owner_is_objected_to(directories, places):
    os.chown(places[0], 65534, 65534)
    (objection,) = directories.prepare()
    assert objection == f"{places[1]}: it has another owner than {places[0]}, who may not move files out of it"


def test_a_directory_that_this_user_may_not_write_to_is_objected_to():
    directories = Directories("/proc", "")
    said = directories.prepare()
    directories.close()
    cannot_use = f"cannot use /proc/{UNFINISHED}: No such file or directory"
    assert said == [cannot_use if os.geteuid() == 0 else "/proc: this user may not make files there"]
