"""How long a thread ran or waited for a processor; netns_call/test_overload.py has a relay that waits."""

import threading
import time
from contextlib import closing

import pytest

from rtpproxy.process.busy import THREAD, BusyTime
from tests.waiting import DEADLINE_S, wait_for


@pytest.mark.parametrize(("text", "expected"), [("1500000000 500000000 7\n", 2.0), ("0 0 0\n", 0.0)])
def test_running_and_waiting_add_up(tmp_path, text, expected):
    (tmp_path / "schedstat").write_text(text)
    with closing(BusyTime(lambda: 9.0, tmp_path)) as busy:
        assert busy() == expected
        (tmp_path / "schedstat").write_text("10000000000 10000000000 8\n")
        assert busy() == 20.0


def test_a_kernel_that_does_not_count_waiting(tmp_path):
    with closing(BusyTime(lambda: 9.0, tmp_path)) as busy:
        assert busy() == 9.0


def test_it_is_the_thread_that_made_it():
    """Not the process: another thread's work is none of the event loop's."""
    if not (THREAD / "schedstat").exists():
        pytest.skip("this kernel does not count waiting")
    is_over = threading.Event()
    other = threading.Thread(target=lambda: [None for _ in iter(is_over.is_set, True)])
    with closing(BusyTime(time.thread_time)) as busy:
        before, process_before_s = busy(), time.process_time()
        other.start()
        wait_for(lambda: time.process_time() - process_before_s > 0.5, DEADLINE_S, "half a second of work")
        is_over.set()
        other.join()
        ran_before, ran_s = busy(), time.thread_time()
        wait_for(lambda: _work() and time.thread_time() - ran_s > 0.2, DEADLINE_S, "a fifth of a second of work here")
        assert busy() - ran_before > 0.15
        assert before < ran_before


def _work():
    return sum(range(20_000))


def test_closed_twice():
    busy = BusyTime(time.thread_time)
    busy.close()
    busy.close()
