"""The pid file is written if it can be, refused if it was asked for and cannot be; other files are left alone."""

import logging
import os

import pytest

from rtpproxy.errors import StartError
from rtpproxy.process.pid_file import PidFile

OURS = f"{os.getpid()}\n"
NOBODY = 65534


def make_directory(path):
    path.mkdir()


def make_link(path):
    (path.parent / "target").write_text(OURS)
    path.symlink_to(path.parent / "target")


def make_dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


def make_pipe(path):
    os.mkfifo(path)


def make_hard_link(path):
    (path.parent / "target").write_text(OURS)
    path.hardlink_to(path.parent / "target")


IN_PLACE = [
    (make_directory, "it is a directory"),
    (make_link, "it is a symbolic link"),
    (make_dangling_link, "it is a symbolic link"),
    (make_pipe, "it is not a regular file"),
    (make_hard_link, "it is a hard link"),
]


def listing(directory):
    return sorted((path.name, path.lstat().st_mode, path.lstat().st_size) for path in directory.iterdir())


@pytest.mark.parametrize("is_required", [False, True])
@pytest.mark.parametrize("before", ["", "1234567890123\n"])
def test_number_is_written_and_removed(tmp_path, is_required, before):
    path = tmp_path / "pid"
    if before:
        path.write_text(before)
    pid_file = PidFile(str(path), is_required=is_required)
    pid_file.check()
    assert listing(tmp_path) == ([("pid", path.lstat().st_mode, len(before))] if before else [])
    pid_file.write()
    assert path.read_text() == OURS
    pid_file.remove()
    assert not path.exists()


@pytest.mark.parametrize(("make", "reason"), IN_PLACE)
def test_required_file_is_refused_for_what_is_in_its_place(tmp_path, make, reason):
    path = tmp_path / "pid"
    make(path)
    before = listing(tmp_path)
    pid_file = PidFile(str(path), is_required=True)
    for attempt in (pid_file.check, pid_file.write):
        with pytest.raises(StartError, match=f"^pid file {path}: {reason}; name another file with -p$"):
            attempt()
    pid_file.remove()
    assert listing(tmp_path) == before


@pytest.mark.root
def test_file_of_another_user_is_left_alone(tmp_path):
    """That user could write to it, and so have another process ended."""
    path = tmp_path / "pid"
    path.write_text("7\n")
    os.chown(path, NOBODY, NOBODY)
    pid_file = PidFile(str(path), is_required=True)
    for attempt in (pid_file.check, pid_file.write):
        with pytest.raises(StartError, match=f"^pid file {path}: it belongs to user {NOBODY}; name another file"):
            attempt()
    assert path.read_text() == "7\n"
    PidFile(str(path), is_required=True, user=NOBODY).write()
    assert path.read_text() == OURS


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("before", [None, 0o666, 0o600])
def test_nobody_else_may_write_to_it(tmp_path, umask, before):
    path = tmp_path / "pid"
    if before is not None:
        path.touch()
        path.chmod(before)
    umask_before = os.umask(umask)
    try:
        PidFile(str(path), is_required=True).write()
    finally:
        os.umask(umask_before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_required_file_needs_its_directory(tmp_path):
    path = tmp_path / "missing" / "pid"
    pid_file = PidFile(str(path), is_required=True)
    for attempt in (pid_file.check, pid_file.write):
        with pytest.raises(StartError, match=f"^pid file {path}: the directory does not exist; name another"):
            attempt()
    assert listing(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs software: /dev/full")
def test_device_is_no_pid_file():
    """It is not removed, either; the C RTPproxy removes /dev/null."""
    for path in ("/dev/null", "/dev/full"):
        with pytest.raises(StartError, match=f"^pid file {path}: "):
            PidFile(path, is_required=True).check()
        assert os.path.exists(path)


@pytest.mark.parametrize(("make", "reason"), IN_PLACE)
def test_default_file_that_cannot_be_written_is_one_line_in_the_log(tmp_path, caplog, make, reason):
    path = tmp_path / "pid"
    make(path)
    before = listing(tmp_path)
    pid_file = PidFile(str(path), is_required=False)
    pid_file.check()
    assert caplog.records == []
    pid_file.write()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.startswith(f"pid file {path}: ")
    pid_file.remove()
    assert listing(tmp_path) == before
    assert len(caplog.records) == 1


@pytest.mark.root
def test_ordinary_users_see_that_the_default_file_cannot_be_written(tmp_path, caplog):
    """At the default log level, which is ERR."""
    os.seteuid(NOBODY)
    try:
        PidFile(str(tmp_path / "pid"), is_required=False).write()
    finally:
        os.seteuid(0)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, f"pid file {tmp_path}/pid: Permission denied")
    ]


def test_file_of_another_process_is_left_alone(tmp_path):
    path = tmp_path / "pid"
    pid_file = PidFile(str(path), is_required=True)
    pid_file.write()
    path.write_text("1\n")
    pid_file.remove()
    assert path.read_text() == "1\n"


@pytest.mark.parametrize("make", [make_link, make_pipe])
def test_what_took_its_place_is_left_alone(tmp_path, caplog, make):
    path = tmp_path / "pid"
    pid_file = PidFile(str(path), is_required=True)
    pid_file.write()
    path.unlink()
    make(path)
    pid_file.remove()
    assert os.path.lexists(path)
    assert f"pid file {path}: " in caplog.text


def test_file_that_is_gone_is_one_line_in_the_log(tmp_path, caplog):
    path = tmp_path / "pid"
    pid_file = PidFile(str(path), is_required=True)
    pid_file.write()
    path.unlink()
    pid_file.remove()
    assert caplog.messages == [f"pid file {path}: No such file or directory"]
