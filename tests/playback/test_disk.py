"""Work on disks in threads."""

import asyncio
import threading
import time

import pytest

from rtpproxy.errors import PlaybackError
from rtpproxy.playback import disk
from rtpproxy.playback.disk import MAX_OF_DIRECTORY, MAX_THREADS, Disk, directory_of
from tests.waiting import DEADLINE_S, wait_for

DIRECTORIES = [b"/%d" % (number // MAX_OF_DIRECTORY) for number in range(MAX_THREADS)]
"""Of work that takes all threads."""


def outcomes(*works, before=lambda ours: None):
    """Do some work in a loop of our own, in directories one after the other.

    What `on_done` got, each as a value or an error.
    """
    found = []

    async def serve():
        loop = asyncio.get_running_loop()
        ours = Disk(loop, time.monotonic)
        all_done = asyncio.Event()

        def on_done(outcome):
            assert asyncio.get_running_loop() is loop
            try:
                found.append(outcome())
            except (OSError, PlaybackError) as error:
                found.append(error)
            if len(found) == len(works):
                all_done.set()

        for number, work in enumerate(works):
            ours.do(DIRECTORIES[number % MAX_THREADS], work, on_done)
        before(ours)
        await asyncio.wait_for(all_done.wait(), DEADLINE_S)

    asyncio.run(serve())
    return found


def has_ended():
    return "rtpproxy-prompts" not in {one.name for one in threading.enumerate()}


def raising(error):
    raise error


def test_work_is_done_elsewhere_and_told_of_in_the_loop():
    assert outcomes(threading.current_thread) != [threading.current_thread()]


def test_errors():
    gone, refused = FileNotFoundError(2, "No such file"), PlaybackError("no")
    assert outcomes(lambda: raising(gone)) == [gone]
    assert outcomes(lambda: raising(refused)) == [refused]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_ends_the_job_all_the_same():
    for found in outcomes(*[lambda: raising(ValueError("a mistake"))] * (MAX_THREADS + 1), lambda: PlaybackError()):
        assert isinstance(found, PlaybackError)
    wait_for(has_ended, DEADLINE_S, "its end")


def test_more_work_than_threads():
    together = threading.Barrier(MAX_THREADS + 1)

    def meet():
        together.wait(DEADLINE_S)
        return "met"

    found = outcomes(*[meet] * MAX_THREADS, lambda: "later", before=lambda ours: together.wait(DEADLINE_S))
    assert sorted(found) == ["later", *["met"] * MAX_THREADS]


class Told:
    """Counts what the loop is told of."""

    def __init__(self, most):
        self.count = 0
        self.most = most
        self.all = asyncio.Event()

    def __call__(self, outcome):
        self.count += 1
        if self.count == self.most:
            self.all.set()

    async def wait(self):
        await asyncio.wait_for(self.all.wait(), DEADLINE_S)


def test_a_directory_that_hangs_leaves_threads_to_others():
    answers = threading.Event()

    async def serve():
        ours, told = Disk(asyncio.get_running_loop(), time.monotonic), Told(2 * MAX_THREADS)
        for _ in range(2 * MAX_THREADS):
            ours.do(b"/hangs", lambda: answers.wait(DEADLINE_S), told)
        for _ in range(2 * MAX_THREADS):
            assert ours.do(b"/answers", lambda: 7, lambda outcome: None).wait(DEADLINE_S)
        assert told.count == 0
        answers.set()
        await told.wait()

    asyncio.run(serve())
    wait_for(has_ended, DEADLINE_S, "its end")


def test_directories_take_turns_for_a_thread(monkeypatch):
    """Not all that waits in one before anything in another."""
    monkeypatch.setattr(disk, "MAX_THREADS", 1)
    gate = threading.Event()
    done = []

    async def serve():
        ours, told = Disk(asyncio.get_running_loop(), time.monotonic), Told(5)
        ours.do(b"/held", lambda: gate.wait(DEADLINE_S), told)
        for number in range(3):
            ours.do(b"/crowded", lambda number=number: done.append(number), told)
        ours.do(b"/lonely", lambda: done.append("lonely"), told)
        gate.set()
        await told.wait()

    asyncio.run(serve())
    assert done == [0, "lonely", 1, 2]
    wait_for(has_ended, DEADLINE_S, "its end")


def test_what_the_disk_took():
    """With the wait for other work, without the start of a thread."""
    now = 5.0
    answers = threading.Event()

    def work():
        nonlocal now
        now += 0.25
        answers.wait(DEADLINE_S)

    async def serve():
        nonlocal now
        told = Told(MAX_OF_DIRECTORY + 1)
        ours = Disk(asyncio.get_running_loop(), lambda: now)
        jobs = [ours.do(b"/x", answers.wait, told) for _ in range(MAX_OF_DIRECTORY)]
        queued = ours.do(b"/x", lambda: None, told)
        assert queued.took_s is None
        now += 2
        answers.set()
        await told.wait()
        assert queued.took_s == 2
        assert {job.took_s for job in jobs} <= {0, 2}, "as the thread began before or after that"
        at_once = ours.do(b"/y", work, lambda outcome: None)
        assert at_once.wait(DEADLINE_S)
        assert at_once.took_s == 0.25

    asyncio.run(serve())


def test_directories():
    assert directory_of(b"/prompts/sub/moh") == directory_of(b"/prompts/sub/moh.0") == b"/prompts/sub"
    assert directory_of(b"moh") == b""


def test_work_that_is_waited_for_is_told_of_once():
    told = []

    async def serve():
        job = Disk(asyncio.get_running_loop(), time.monotonic).do(
            b"/x", lambda: 7, lambda outcome: told.append(outcome())
        )
        assert job.wait(DEADLINE_S)
        assert told == [7]
        wait_for(has_ended, DEADLINE_S, "its end")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(serve())
    assert told == [7]


def test_work_that_hangs_is_not_waited_for_and_holds_up_nobody():
    answers = threading.Event()
    told = []

    async def serve():
        ours = Disk(asyncio.get_running_loop(), time.monotonic)
        hanging = ours.do(b"/y", lambda: answers.wait(DEADLINE_S), lambda outcome: told.append(outcome()))
        assert not hanging.wait(0.001)
        assert ours.do(b"/x", lambda: 7, lambda outcome: told.append(outcome())).wait(DEADLINE_S)
        assert told == [7]

    asyncio.run(serve())
    # The loop has ended; the thread ends, too, and tells nobody.
    answers.set()
    wait_for(has_ended, DEADLINE_S, "its end")
    assert told == [7]


def test_too_much_work_is_refused(monkeypatch):
    monkeypatch.setattr(disk, "MAX_WAITING", 2)
    answers = threading.Event()

    async def serve():
        ours = Disk(asyncio.get_running_loop(), time.monotonic)
        for directory in (*DIRECTORIES, b"/one", b"/other"):
            ours.do(directory, lambda: answers.wait(DEADLINE_S), lambda outcome: None)
        with pytest.raises(PlaybackError, match="has not answered"):
            ours.do(b"/x", lambda: None, lambda outcome: None)
        answers.set()

    asyncio.run(serve())
    wait_for(has_ended, DEADLINE_S, "their end")


def test_no_thread_can_be_started(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    async def serve():
        ours = Disk(asyncio.get_running_loop(), time.monotonic)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(2 * MAX_THREADS):
                with pytest.raises(PlaybackError, match="no thread can be started: can't start new thread"):
                    ours.do(b"/x", lambda: 7, lambda outcome: None)
        assert ours.do(b"/x", lambda: 7, lambda outcome: None).wait(DEADLINE_S)

    asyncio.run(serve())
