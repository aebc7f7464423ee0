"""protocol.md section 5, line by line."""

import copy
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.addr import Endpoint
from rtpproxy.media.rtp import RtpHeader
from rtpproxy.session.latch import Latch, Verdict

A = Endpoint("192.0.2.1", 5000)
A_OTHER_PORT = Endpoint("192.0.2.1", 6000)
B = Endpoint("198.51.100.2", 7000)
C = Endpoint("203.0.113.3", 9000)
IGNORED, ACCEPTED, LEARNED = Verdict.IGNORED, Verdict.ACCEPTED, Verdict.LEARNED


def rtp(ssrc=1, sequence=100):
    return RtpHeader(ssrc, sequence, 0, 0, False)


def state(latch):
    return [copy.copy(getattr(latch, field.name)) for field in fields(latch)]


def prefilled(remote=A, now=0.0):
    latch = Latch()
    latch.signal(remote, now)
    return latch


def latched(ssrc=1, sequence=100, now=1.0):
    """A stream that was signalled and then heard at A."""
    latch = prefilled()
    assert latch.observe(A, rtp(ssrc, sequence), True, now) is LEARNED
    return latch


def memory(latch):
    return latch.ssrc, latch.sequence


# 5.2 prefill


def test_first_signal_sets_the_remote_and_no_window():
    latch = Latch()
    assert latch.signal(A, 5.0)
    assert (latch.remote, latch.updated_at, latch.is_latched, latch.is_locked) == (A, None, False, False)


def test_same_signal_opens_the_window_only():
    latch = prefilled()
    assert not latch.signal(A, 5.0)
    assert (latch.remote, latch.updated_at, latch.previous) == (A, 5.0, None)


def test_new_signal_before_the_latch_leaves_no_previous():
    latch = prefilled()
    assert latch.signal(B, 5.0)
    assert (latch.remote, latch.updated_at, latch.previous) == (B, 5.0, None)


def test_new_signal_keeps_latch_and_memory():
    latch = latched()
    assert latch.signal(B, 5.0)
    assert (latch.remote, latch.previous, latch.is_latched, memory(latch)) == (B, A, True, (1, 100))


def test_signal_is_not_believed_after_learning():
    latch = prefilled()
    latch.observe(B, rtp(), True, 1.0)
    assert not latch.signal(C, 5.0)
    assert (latch.remote, latch.is_untrusted, latch.updated_at) == (B, True, 5.0)


def test_asymmetric_latches_and_symmetric_keeps_it():
    latch = prefilled()
    latch.set_asymmetric(True)
    assert (latch.is_latched, latch.is_locked) == (True, True)
    latch.set_asymmetric(False)
    assert (latch.is_latched, latch.is_asymmetric) == (True, False)
    assert latch.observe(A_OTHER_PORT, rtp(), True, 1.0) is IGNORED


# 5.3 symmetric mode


def test_first_packet_wins_without_memory():
    latch = Latch()
    assert latch.observe(A, rtp(), True, 1.0) is LEARNED
    assert (latch.remote, latch.is_latched, latch.is_untrusted, latch.ssrc) == (A, True, True, None)
    assert latch.has_moved
    assert latch.observe(B, rtp(sequence=101), True, 1.1) is IGNORED
    latch.signal(A, 20.0)
    assert latch.observe(B, rtp(sequence=101), True, 20.1) is IGNORED


def test_ssrc_change_makes_the_memory():
    latch = Latch()
    latch.observe(A, rtp(1), True, 1.0)
    assert latch.observe(A, rtp(2, 500), True, 2.0) is ACCEPTED
    assert latch.change_ssrc(rtp(2, 500), 2.0) is ACCEPTED
    assert memory(latch) == (2, 500)
    assert latch.observe(B, rtp(1, 101), True, 2.1) is IGNORED
    assert latch.observe(B, rtp(2, 501), True, 2.1) is LEARNED


def test_prefilled_address_latches_with_memory():
    latch = latched()
    assert (latch.remote, latch.is_untrusted, memory(latch), latch.is_locked) == (A, False, (1, 100), True)
    assert not latch.has_moved
    assert latch.observe(A, rtp(1, 101), True, 1.1) is ACCEPTED


@pytest.mark.parametrize("source", [A_OTHER_PORT, B])
def test_nat_moves_a_prefilled_stream(source):
    latch = prefilled()
    assert latch.observe(source, rtp(), True, 1.0) is LEARNED
    assert (latch.remote, latch.is_untrusted, memory(latch), latch.has_moved) == (source, True, (1, 100), True)


@pytest.mark.parametrize(
    ("header", "verdict"),
    [
        (rtp(1, 100), LEARNED),
        (rtp(1, 636), LEARNED),
        (rtp(1, 637), IGNORED),
        (rtp(1, 99), IGNORED),
        (rtp(2, 101), IGNORED),
        (None, IGNORED),
    ],
)
def test_override_outside_the_window(header, verdict):
    latch = latched(1, 100)
    before = state(latch)
    assert latch.observe(B, header, True, 1.5) is verdict
    if verdict is IGNORED:
        assert state(latch) == before
    else:
        assert (latch.remote, memory(latch), latch.is_untrusted) == (B, (1, header.sequence), True)


@pytest.mark.parametrize(("sequence", "verdict"), [(0, LEARNED), (435, LEARNED), (436, IGNORED), (65434, IGNORED)])
def test_override_distance_wraps(sequence, verdict):
    assert latched(1, 65435).observe(B, rtp(1, sequence), True, 1.5) is verdict


@pytest.mark.parametrize(("at", "verdict"), [(20.0, LEARNED), (30.0, LEARNED), (30.1, IGNORED)])
def test_override_in_the_window_takes_any_rtp(at, verdict):
    latch = latched()
    latch.signal(A, 20.0)
    assert latch.observe(B, None, True, at) is IGNORED
    assert latch.observe(B, rtp(99, 40000), True, at) is verdict
    assert memory(latch) == ((1, 40000) if verdict is LEARNED else (1, 100))


def test_in_the_window_the_stream_goes_to_and_fro():
    latch = latched()
    latch.signal(A, 20.0)
    assert latch.observe(B, rtp(99, 40000), True, 21.0) is LEARNED
    assert latch.observe(A, rtp(1, 200), True, 21.1) is LEARNED
    assert latch.remote == A


def test_latch_waits_for_the_end_of_the_window():
    latch = prefilled()
    latch.signal(A, 5.0)
    assert latch.observe(A, rtp(), True, 14.9) is ACCEPTED
    assert not latch.is_latched
    assert latch.observe(A, rtp(1, 101), True, 15.0) is LEARNED
    assert (latch.is_latched, memory(latch)) == (True, (1, 101))


def test_learning_in_the_window_latches_without_memory():
    latch = prefilled()
    latch.signal(A, 5.0)
    assert latch.observe(B, rtp(), True, 6.0) is LEARNED
    assert (latch.remote, latch.is_latched, latch.ssrc) == (B, True, None)
    assert latch.observe(A, rtp(), True, 6.1) is IGNORED


def test_previous_remote_does_not_latch_by_itself():
    latch = latched()
    latch.signal(B, 20.0)
    latch.is_latched = False
    assert latch.observe(A, rtp(1, 101), True, 21.0) is LEARNED
    assert (latch.remote, latch.is_latched) == (A, False)


def test_first_packet_that_is_not_rtp_latches_without_memory():
    latch = prefilled()
    assert latch.observe(A, None, True, 1.0) is LEARNED
    assert (latch.is_latched, latch.ssrc) == (True, None)
    assert latch.observe(B, rtp(), True, 1.1) is IGNORED


def test_ssrc_change_in_the_window_keeps_the_old_memory():
    latch = latched()
    latch.signal(A, 20.0)
    assert latch.change_ssrc(rtp(2, 7), 29.9) is ACCEPTED
    assert memory(latch) == (1, 100)
    assert latch.change_ssrc(rtp(2, 8), 30.0) is ACCEPTED
    assert memory(latch) == (2, 8)


def test_change_to_ssrc_zero_opens_the_stream():
    latch = latched()
    assert latch.change_ssrc(rtp(0, 7), 2.0) is LEARNED
    assert (latch.is_latched, latch.is_locked, memory(latch)) == (False, False, (0, 7))
    assert latch.observe(A, rtp(0, 8), True, 2.1) is ACCEPTED
    assert latch.observe(B, rtp(5, 9), True, 2.2) is LEARNED
    assert (latch.remote, latch.is_latched, memory(latch)) == (B, True, (5, 9))


def test_ssrc_zero_from_elsewhere_is_latched_by_learning():
    latch = prefilled()
    assert latch.observe(B, rtp(0, 7), True, 1.0) is LEARNED
    assert (latch.is_latched, memory(latch)) == (True, (0, 7))


@pytest.mark.parametrize(
    ("header", "at", "sequence"),
    [(rtp(1, 149), 1.9, 100), (rtp(1, 150), 2.0, 150), (rtp(2, 150), 2.0, 100), (None, 2.0, 100)],
)
def test_memory_is_refreshed_once_a_second(header, at, sequence):
    latch = latched(1, 100, now=1.0)
    assert latch.observe(A, header, True, at) is ACCEPTED
    assert memory(latch) == (1, sequence)


# 5.5 asymmetric mode


def asymmetric(remote=A):
    latch = Latch() if remote is None else prefilled(remote)
    latch.set_asymmetric(True)
    return latch


@pytest.mark.parametrize(("source", "verdict"), [(A, ACCEPTED), (A_OTHER_PORT, ACCEPTED), (B, IGNORED)])
def test_asymmetric_takes_any_port_of_the_host(source, verdict):
    latch = asymmetric()
    latch.signal(A, 1.0)
    before = state(latch)
    assert latch.observe(source, rtp(), True, 2.0) is verdict
    assert state(latch) == before


def test_asymmetric_learns_once_where_no_address_was_given():
    latch = asymmetric(None)
    assert not latch.is_locked
    assert latch.observe(A, rtp(), True, 1.0) is LEARNED
    assert (latch.remote, latch.is_locked) == (A, True)
    assert latch.observe(A_OTHER_PORT, rtp(), True, 1.1) is ACCEPTED
    assert latch.observe(B, rtp(), True, 1.2) is IGNORED
    assert latch.remote == A


def test_asymmetric_stays_locked_on_ssrc_zero():
    latch = asymmetric()
    latch.change_ssrc(rtp(0), 1.0)
    assert latch.is_locked
    assert latch.observe(A, rtp(0), True, 1.1) is ACCEPTED


# 5.6 RTCP


def test_guess_fills_an_empty_remote_and_leaves_it_open():
    latch = Latch()
    assert latch.guess(A)
    assert (latch.remote, latch.is_latched, latch.is_untrusted) == (Endpoint(A.host, 5001), False, False)
    assert latch.observe(Endpoint(A.host, 5003), None, False, 1.0) is LEARNED


def test_guess_does_not_move_on_the_same_host():
    latch = prefilled(A_OTHER_PORT)
    latch.is_latched = True
    assert not latch.guess(A)
    assert (latch.remote, latch.is_latched) == (A_OTHER_PORT, True)


def test_guess_moves_to_another_host():
    latch = latched()
    assert latch.guess(B)
    assert (latch.remote, latch.is_latched) == (Endpoint(B.host, 7001), False)


def test_guess_stays_latched_when_asymmetric():
    latch = asymmetric(None)
    latch.guess(B)
    assert (latch.is_latched, latch.is_locked) == (True, True)


def test_no_guess_beyond_the_last_port():
    latch = Latch()
    assert not latch.guess(Endpoint(A.host, 65535))
    assert latch.remote is None


def test_rtcp_is_never_overridden():
    latch = prefilled()
    assert latch.observe(A, rtp(), False, 1.0) is LEARNED
    assert latch.ssrc is None
    latch.signal(A, 20.0)
    assert latch.observe(B, rtp(), False, 21.0) is IGNORED


# what the kernel forwarded


def test_absorb_refreshes_the_memory_of_the_same_ssrc():
    latch = latched(1, 100, now=1.0)
    assert latch.absorb_forwarded(1, 900, 17.0, 0.0, 17.5) is ACCEPTED
    assert (memory(latch), latch.refreshed_at) == ((1, 900), 17.0)
    assert latch.observe(B, rtp(1, 930), True, 17.5) is LEARNED


def test_absorb_of_another_ssrc_without_a_change_does_nothing():
    latch = latched(1, 100, now=1.0)
    before = state(latch)
    assert latch.absorb_forwarded(2, 900, 17.0, 0.0, 17.5) is ACCEPTED
    assert state(latch) == before


def test_absorb_makes_no_memory_without_a_change():
    latch = Latch()
    latch.observe(A, rtp(), True, 1.0)
    latch.absorb_forwarded(1, 900, 17.0, 0.0, 17.5)
    assert latch.ssrc is None


@pytest.mark.parametrize("has_memory", [True, False])
def test_absorb_of_a_change_makes_the_new_memory(has_memory):
    latch = latched() if has_memory else Latch()
    latch.observe(A, rtp(1), True, 1.5)
    assert latch.absorb_forwarded(2, 900, 17.0, 15.0, 17.5) is ACCEPTED
    assert memory(latch) == (2, 900)
    assert latch.observe(B, rtp(1, 101), True, 17.5) is IGNORED
    assert latch.observe(B, rtp(2, 910), True, 17.5) is LEARNED


@pytest.mark.parametrize(("changed_at", "expected"), [(29.9, (1, 100)), (30.0, (2, 900)), (15.0, (2, 900))])
def test_absorb_judges_a_change_by_the_window_it_fell_into(changed_at, expected):
    latch = latched()
    latch.signal(A, 20.0)
    latch.absorb_forwarded(2, 900, 31.0, changed_at, 31.0)
    assert memory(latch) == expected


def test_absorb_of_ssrc_zero_opens_the_stream():
    latch = latched()
    assert latch.absorb_forwarded(0, 9, 5.0, 4.0, 5.5) is LEARNED
    assert (latch.is_latched, latch.has_moved) == (False, False)


def test_absorb_twice_is_absorb_once():
    latch = latched()
    latch.absorb_forwarded(2, 900, 17.0, 15.0, 17.5)
    latch.change_ssrc(rtp(3, 5), 18.0)
    before = state(latch)
    assert latch.absorb_forwarded(2, 900, 17.0, 15.0, 19.0) is ACCEPTED
    assert state(latch) == before


def test_absorb_never_dates_the_memory_into_the_future():
    latch = latched()
    latch.absorb_forwarded(1, 900, 17.5, 0.0, 17.0)
    assert latch.refreshed_at == 17.0


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 100), st.floats(0.02, 3.0)), min_size=1, max_size=30),
    st.booleans(),
)
def test_absorb_is_what_observing_would_have_been(steps, is_prefilled):
    """The kernel's record of a stretch of packets leads to the memory that userspace would have got from them."""
    seen, told = (prefilled() if is_prefilled else Latch() for _ in range(2))
    for latch in (seen, told):
        latch.observe(A, rtp(1, 0), True, 1.0)
    now, sequence, ssrc, changed_at, refreshed = 1.0, 0, 1, 0.0, None
    for new_ssrc, advance, pause_s in steps:
        now, sequence = now + pause_s, (sequence + advance) % 65536
        seen.observe(A, rtp(new_ssrc, sequence), True, now)
        if new_ssrc != ssrc:
            seen.change_ssrc(rtp(new_ssrc, sequence), now)
            ssrc, changed_at, refreshed = new_ssrc, now, None
        if refreshed is None or now - refreshed[1] >= 1.0:
            refreshed = sequence, now
    told.absorb_forwarded(ssrc, refreshed[0], refreshed[1], changed_at, now)
    assert (told.ssrc, told.is_latched, told.remote) == (seen.ssrc, seen.is_latched, seen.remote)
    if told.ssrc is not None:
        assert now - told.refreshed_at < 1.0
        assert now - seen.refreshed_at < 1.0


SOURCES = st.sampled_from([B, C, A_OTHER_PORT])
FOREIGN = st.tuples(SOURCES, st.none() | st.builds(rtp, st.integers(2, 5), st.integers(0, 65535)), st.floats(0, 100))


@given(st.lists(FOREIGN, max_size=30), st.booleans())
def test_nobody_else_gets_in_outside_the_window(packets, is_prefilled):
    latch = prefilled() if is_prefilled else Latch()
    latch.observe(A, rtp(1, 100), True, 1.0)
    before = state(latch)
    for source, header, at in packets:
        assert latch.observe(source, header, True, 1.0 + at) is IGNORED
        assert state(latch) == before


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 3), st.integers(0, 65535), st.floats(0, 30))))
def test_verdicts_tell_the_truth(packets):
    """IGNORED changes nothing at all, ACCEPTED nothing that a plan depends on; LEARNED names the source as remote."""
    latch = prefilled()
    now = 0.0
    for source, ssrc, sequence, pause_s in packets:
        now += pause_s
        before, plan = state(latch), (latch.remote, latch.is_locked)
        verdict = latch.observe(source, rtp(ssrc, sequence), True, now)
        if verdict is IGNORED:
            assert state(latch) == before
        else:
            assert latch.remote == source
        assert (verdict is LEARNED) == (plan != (latch.remote, latch.is_locked))
        if verdict is LEARNED:
            assert latch.has_moved == (plan[0] != latch.remote)
