"""What is made once, and found again."""

import multiprocessing
import signal
import threading

import pytest
from lab.cache import Cache, hash_of

from tests.waiting import DEADLINE_S, wait_for


def making(text):
    return lambda directory: (directory / "made").write_text(text)


def test_hash_tells_parts_apart():
    assert hash_of("a", "bc") != hash_of("ab", "c")
    assert hash_of("a", b"b") == hash_of("a", "b")


@pytest.fixture
def cache(tmp_path):
    with Cache(tmp_path) as opened:
        yield opened


def test_made_once(cache):
    first = cache.get("root", "1", making("first"))
    assert cache.get("root", "1", making("again")) == first
    assert (first / "made").read_text() == "first"
    assert cache.kept("root") == [first]


def test_what_fails_is_not_there_and_is_cleared(cache):
    def fail(directory):
        (directory / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.get("root", "1", fail)
    assert cache.kept("root") == []
    made = cache.get("root", "1", making("whole"))
    assert not (made / "half").exists()


def test_older_keys_go_unless_in_use(cache, tmp_path):
    with Cache(tmp_path) as other:
        old = other.get("root", "1", making("old"))
        new = cache.get("root", "2", making("new"))
        assert old.exists()
    newest = cache.get("root", "3", making("newest"))
    assert not old.exists()
    assert new.exists()  # still in use
    assert newest.exists()


def make_slowly(directory, started):
    def make(path):
        (path / "half").touch()
        started.set()
        threading.Event().wait()

    with Cache(directory) as cache:
        cache.get("root", "1", make)


def test_a_run_that_was_killed_blocks_nobody(cache, tmp_path, capsys):
    started = multiprocessing.Event()
    process = multiprocessing.Process(target=make_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(DEADLINE_S)
    made = []
    thread = threading.Thread(target=lambda: made.append(cache.get("root", "1", making("mine"))))
    thread.start()
    wait_for(lambda: "waiting for another run, which makes root" in capsys.readouterr().out, DEADLINE_S, "a line")
    process.kill()
    thread.join(DEADLINE_S)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in made[0].iterdir() if path.name != "used"] == ["made"]
