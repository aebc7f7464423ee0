"""Calls after a time, with an event loop whose time a test lets pass."""

import asyncio

from rtpproxy.instance.later import Later


class FakeLoop:
    """Calls what is due, at once, when told."""

    def __init__(self):
        self.now = 0.0
        self.handles = []

    def call_later(self, delay_s, callback):
        handle = asyncio.TimerHandle(self.now + delay_s, callback, (), self)
        self.handles.append(handle)
        return handle

    def _timer_handle_cancelled(self, handle):
        self.handles.remove(handle)

    def get_debug(self):
        return False

    def pass_until(self, now):
        self.now = now
        for handle in [handle for handle in self.handles if handle.when() <= now]:
            self.handles.remove(handle)
            handle._run()


def test_calls_come_in_time_and_once():
    loop, called = FakeLoop(), []
    later = Later(loop, lambda: loop.now + 100.0)
    later.call(0.5, called.append)
    later.call(2.0, called.append)
    loop.pass_until(0.4)
    assert called == []
    loop.pass_until(0.75)
    assert called == [100.75]
    loop.pass_until(9.0)
    assert called == [100.75, 109.0]


def test_a_call_may_ask_for_the_next():
    loop, called = FakeLoop(), []
    later = Later(loop, lambda: loop.now)

    def call(now):
        called.append(now)
        later.call(1.0, call)

    later.call(1.0, call)
    for second in (1.0, 2.0, 3.0):
        loop.pass_until(second)
    assert called == [1.0, 2.0, 3.0]


def test_nothing_is_called_once_the_relay_is_taken_down():
    loop, called = FakeLoop(), []
    later = Later(loop, lambda: loop.now)
    later.call(1.0, called.append)
    loop.pass_until(1.0)
    later.call(1.0, called.append)
    later.close()
    assert loop.handles == []
    loop.pass_until(5.0)
    assert called == [1.0]
