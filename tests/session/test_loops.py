"""Limits of packets that may be going round, each second."""

from rtpproxy.session.loops import LoopGuard


def test_so_many_a_second():
    guard = LoopGuard(10.0)
    assert [guard.is_going_round(10.0 + number / 10, 3) for number in range(6)] == [False] * 3 + [True] * 3
    assert [guard.is_going_round(11.0, 3) for _ in range(4)] == [False] * 3 + [True]


def test_a_slow_stream_is_never_stopped():
    guard = LoopGuard(0.0)
    assert not any(guard.is_going_round(number / 50, 200) for number in range(10_000))


def test_limits_may_differ_from_packet_to_packet():
    """One count for both kinds."""
    guard = LoopGuard(0.0)
    assert [guard.is_going_round(0.5, most) for most in (9, 9, 2, 9)] == [False, False, True, False]


def test_packets_that_are_refused_take_no_room_from_those_with_a_higher_limit():
    """A flood of repeats, beside a phone whose packets start a run each time."""
    guard = LoopGuard(0.0)
    assert [guard.is_going_round(0.5, 2) for _ in range(1000)] == [False] * 2 + [True] * 998
    assert [guard.is_going_round(0.6, 5) for _ in range(4)] == [False] * 3 + [True]


def test_the_endpoint_that_a_command_names_has_a_limit_of_its_own():
    guard = LoopGuard(0.0)
    for is_named in (False, True):
        assert [guard.is_going_round(0.5, 3, is_named=is_named) for _ in range(4)] == [False] * 3 + [True]
    for is_named in (False, True):
        assert not guard.is_going_round(1.0, 3, is_named=is_named)
