"""Judging a child by its processor time."""

from rtpproxy.offload.progress import Judgement, Progress


def judged(looks, **limits):
    """Judge a child that has used so much processor time at each look, a second after the one before."""
    progress = Progress(**limits)
    return [progress.judge(processor_s, 1.0) for processor_s in looks]


def test_child_that_goes_on_may_take_any_time_by_the_clock():
    """Ten minutes, on a machine that gives it a hundredth of a processor."""
    assert set(judged([look * 0.01 for look in range(1, 601)])) == {Judgement.WAIT}


def test_child_that_does_nothing():
    assert judged([1.0, 1.0, 1.0, 1.0], most_idle_s=3.0) == [Judgement.WAIT] * 3 + [Judgement.HANGS]


def test_child_that_pauses():
    assert set(judged([0.0, 0.0, 0.1, 0.1, 0.1, 0.2], most_idle_s=3.0)) == {Judgement.WAIT}


def test_child_that_does_not_come_to_an_end():
    assert judged([1.0, 2.0, 2.1], most_processor_s=2.0) == [Judgement.WAIT, Judgement.WAIT, Judgement.LOOPS]
