"""Work on disks in threads."""

import asyncio
import threading

import pytest

from rtpproxy.errors import PlaybackError
from rtpproxy.playback import disk
from rtpproxy.playback.disk import MAX_THREADS, Disk
from tests.waiting import DEADLINE_S, wait_for


def outcomes(*works, before=lambda ours: None):
    """Do some work in a loop of our own; what `on_done` got, each as a value or an error."""
    found = []

    async def serve():
        loop = asyncio.get_running_loop()
        ours = Disk(loop)
        all_done = asyncio.Event()

        def on_done(outcome):
            assert asyncio.get_running_loop() is loop
            try:
                found.append(outcome())
            except (OSError, PlaybackError) as error:
                found.append(error)
            if len(found) == len(works):
                all_done.set()

        for work in works:
            ours.do(work, on_done)
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


def test_work_that_is_waited_for_is_told_of_once():
    told = []

    async def serve():
        job = Disk(asyncio.get_running_loop()).do(lambda: 7, lambda outcome: told.append(outcome()))
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
        ours = Disk(asyncio.get_running_loop())
        hanging = ours.do(lambda: answers.wait(DEADLINE_S), lambda outcome: told.append(outcome()))
        assert not hanging.wait(0.001)
        assert ours.do(lambda: 7, lambda outcome: told.append(outcome())).wait(DEADLINE_S)
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
        ours = Disk(asyncio.get_running_loop())
        for _ in range(MAX_THREADS + 2):
            ours.do(lambda: answers.wait(DEADLINE_S), lambda outcome: None)
        with pytest.raises(PlaybackError, match="has not answered"):
            ours.do(lambda: None, lambda outcome: None)
        answers.set()

    asyncio.run(serve())
    wait_for(has_ended, DEADLINE_S, "their end")


def test_no_thread_can_be_started(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    async def serve():
        ours = Disk(asyncio.get_running_loop())
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(2 * MAX_THREADS):
                with pytest.raises(PlaybackError, match="no thread can be started: can't start new thread"):
                    ours.do(lambda: 7, lambda outcome: None)
        assert ours.do(lambda: 7, lambda outcome: None).wait(DEADLINE_S)

    asyncio.run(serve())
