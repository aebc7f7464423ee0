"""The thread that asks the kernel where answers may take long."""

import asyncio
import gc
import threading

import pytest

from rtpproxy.network.background import Background
from tests.waiting import DEADLINE_S


def run(test):
    async def main():
        background = Background(asyncio.get_running_loop())
        try:
            await test(background)
        finally:
            background.close()

    asyncio.run(main())


async def outcome(background, work):
    """Do work in the thread, and return what is told in the event loop."""
    told = asyncio.get_running_loop().create_future()
    background.run(work, told.set_result)
    async with asyncio.timeout(DEADLINE_S):
        result = await told
    return result()


def test_others_get_their_turn_meanwhile():
    """Work that waits does not keep the event loop."""

    async def test(background):
        go_on = threading.Event()
        waiting = asyncio.ensure_future(outcome(background, lambda: go_on.wait(DEADLINE_S)))
        await asyncio.sleep(0)
        assert not waiting.done()
        go_on.set()
        assert await waiting

    run(test)


def test_work_is_done_in_order_in_one_thread():
    async def test(background):
        done = []

        def work(number):
            done.append(number)
            return threading.get_ident()

        threads = await asyncio.gather(*(outcome(background, lambda n=n: work(n)) for n in range(5)))
        assert done == [0, 1, 2, 3, 4]
        assert len(set(threads)) == 1
        assert threads[0] != threading.get_ident()

    run(test)


def test_errors_are_told():
    async def test(background):
        with pytest.raises(ZeroDivisionError):
            await outcome(background, lambda: 1 // 0)
        assert await outcome(background, lambda: 7) == 7

    run(test)


def test_no_thread_before_there_is_work():
    """One that is older than the loss of privileges would have none."""

    async def test(background):
        before = threading.active_count()
        await asyncio.sleep(0)
        assert threading.active_count() == before
        await outcome(background, lambda: None)
        assert threading.active_count() == before + 1

    run(test)


def test_nobody_is_told_after_the_end():
    async def test(background):
        go_on, done, told = threading.Event(), [], []
        background.run(lambda: done.append(go_on.wait(DEADLINE_S)), told.append)
        background.run(lambda: done.append("never begun"), told.append)
        go_on.set()
        background.close()
        await asyncio.sleep(0)
        assert done[:1] == [True]
        assert told == []

    run(test)


def test_errors_after_the_end_are_nobodys_concern():
    """They are no surprise either, which would be logged."""

    async def test(background):
        begun, go_on, surprises = threading.Event(), threading.Event(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))

        def fail():
            begun.set()
            go_on.wait(DEADLINE_S)
            raise OSError

        background.run(fail, surprises.append)
        assert begun.wait(DEADLINE_S)
        go_on.set()
        background.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        assert surprises == []

    run(test)
