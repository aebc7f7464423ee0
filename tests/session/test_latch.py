"""Endpoint learning: protocol.md section 5, line by line."""

import copy
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.addr import Endpoint
from rtpproxy.rtp.header import RtpHeader
from rtpproxy.session.latch import UPDATE_WINDOW_S, KnownSource, Latch, Verdict

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


def moved_to(endpoint):
    """An RTP stream whose last packet came from there, where it had not been before."""
    latch = Latch()
    assert latch.observe(endpoint, rtp(), True, 1.0) is LEARNED
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
    assert latch.guess(moved_to(A))
    assert (latch.remote, latch.is_latched, latch.is_untrusted) == (Endpoint(A.host, 5001), False, False)
    assert latch.observe(Endpoint(A.host, 5003), None, False, 1.0) is LEARNED


def test_guess_does_not_move_on_the_same_host():
    latch = prefilled(A_OTHER_PORT)
    latch.is_latched = True
    assert not latch.guess(moved_to(A))
    assert (latch.remote, latch.is_latched) == (A_OTHER_PORT, True)


def test_guess_moves_to_another_host():
    latch = latched()
    assert latch.guess(moved_to(B))
    assert (latch.remote, latch.is_latched) == (Endpoint(B.host, 7001), False)


def test_guess_stays_latched_when_asymmetric():
    latch = asymmetric(None)
    latch.guess(moved_to(B))
    assert (latch.is_latched, latch.is_locked) == (True, True)


def test_no_guess_beyond_the_last_port():
    latch = Latch()
    assert not latch.guess(moved_to(Endpoint(A.host, 65535)))
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


# strict mode (protocol.md 16, items 6 and 7), beside compatible mode

PRIVATE, PRIVATE_2 = Endpoint("10.0.0.1", 5000), Endpoint("10.0.0.2", 5000)
BOTH_MODES = pytest.mark.parametrize("is_strict", [False, True], ids=["compatible", "strict"])
STUN = None
"""A packet that does not parse as RTP."""


def made(is_strict, remote=A):
    """A stream that was signalled, or not, and heard nobody yet."""
    latch = Latch(is_strict=is_strict)
    if remote is not None:
        latch.signal(remote, 0.0)
    return latch


def heard(is_strict, remote=A, source=None, header=None):
    """A stream latched at 1.0 to `source`, or to `remote` if that is not given."""
    latch = made(is_strict, remote)
    assert latch.observe(source or remote, header or rtp(1, 100), True, 1.0) is LEARNED
    assert latch.is_locked
    return latch


@BOTH_MODES
def test_mode_plays_no_part_in_the_first_packet(is_strict):
    """The first source is learned, whichever it is: the address of a phone behind NAT is not known beforehand."""
    latch = heard(is_strict, PRIVATE, B)
    assert (latch.remote, latch.is_untrusted, memory(latch)) == (B, True, (1, 100))


@BOTH_MODES
def test_a_command_opens_a_window_in_compatible_mode_only(is_strict):
    latch = heard(is_strict)
    latch.signal(A, 20.0)
    assert latch.observe(B, rtp(99, 40000), True, 21.0) is (IGNORED if is_strict else LEARNED)
    assert latch.remote == (A if is_strict else B)


@BOTH_MODES
def test_a_command_delays_the_memory_in_compatible_mode_only(is_strict):
    latch = heard(is_strict)
    latch.signal(A, 20.0)
    assert latch.change_ssrc(rtp(2, 7), 21.0) is ACCEPTED
    assert memory(latch) == ((2, 7) if is_strict else (1, 100))


@BOTH_MODES
def test_a_command_delays_the_latch_in_compatible_mode_only(is_strict):
    latch = made(is_strict)
    latch.signal(A, 5.0)
    latch.observe(A, rtp(), True, 6.0)
    assert latch.is_locked == is_strict


@BOTH_MODES
def test_source_learned_without_prefill_is_remembered_in_strict_mode(is_strict):
    latch = heard(is_strict, None, A)
    assert latch.ssrc == (1 if is_strict else None)
    assert latch.observe(B, rtp(1, 101), True, 1.1) is (LEARNED if is_strict else IGNORED)


@BOTH_MODES
@pytest.mark.parametrize("header", [rtp(1, 99), rtp(1, 637), rtp(2, 101), STUN])
def test_only_who_goes_on_where_the_memory_ends_takes_over(is_strict, header):
    latch = heard(is_strict)
    before = state(latch)
    assert latch.observe(B, header, True, 1.5) is IGNORED
    assert state(latch) == before
    assert latch.observe(B, rtp(1, 636), True, 1.5) is LEARNED


@BOTH_MODES
@pytest.mark.parametrize("remote", [None, A, PRIVATE])
def test_first_packet_that_is_not_rtp_leaves_no_memory_until_strict_mode_hears_rtp(is_strict, remote):
    latch = made(is_strict, remote)
    assert latch.observe(A, STUN, True, 1.0) is LEARNED
    assert (latch.remote, latch.is_locked, latch.ssrc) == (A, True, None)
    assert latch.observe(B, rtp(1, 99), True, 1.1) is IGNORED
    assert latch.observe(A, rtp(1, 100), True, 1.2) is ACCEPTED
    assert latch.ssrc == (1 if is_strict else None)
    assert latch.observe(B, rtp(1, 101), True, 1.3) is (LEARNED if is_strict else IGNORED)


@BOTH_MODES
def test_what_the_kernel_forwarded_makes_the_first_memory_in_strict_mode(is_strict):
    latch = made(is_strict)
    latch.observe(A, STUN, True, 1.0)
    assert latch.absorb_forwarded(7, 900, 17.0, 1.5 if is_strict else 0.0, 17.5) is ACCEPTED
    assert latch.ssrc == (7 if is_strict else None)


def test_what_the_kernel_forwarded_before_the_latch_makes_no_memory():
    latch = made(True)
    latch.observe(A, STUN, True, 20.0)
    latch.absorb_forwarded(7, 900, 17.0, 0.0, 20.5)
    assert latch.ssrc is None


@BOTH_MODES
def test_ssrc_zero_opens_a_stream_in_compatible_mode_only(is_strict):
    latch = heard(is_strict)
    assert latch.change_ssrc(rtp(0, 7), 2.0) is (ACCEPTED if is_strict else LEARNED)
    assert latch.is_locked == is_strict
    assert latch.observe(B, rtp(0, 8), True, 2.1) is (IGNORED if is_strict else LEARNED)


@BOTH_MODES
def test_ssrc_zero_seen_by_the_kernel_opens_a_stream_in_compatible_mode_only(is_strict):
    latch = heard(is_strict)
    assert latch.absorb_forwarded(0, 9, 5.0, 4.0, 5.5) is (ACCEPTED if is_strict else LEARNED)
    assert latch.is_locked == is_strict
    assert latch.ssrc == (None if is_strict else 0)


def test_ssrc_zero_is_not_remembered_but_the_one_after_it_is():
    latch = heard(True, header=rtp(0, 7))
    assert latch.ssrc is None
    assert latch.observe(A, rtp(0, 8), True, 1.1) is ACCEPTED
    assert latch.ssrc is None
    assert latch.observe(A, rtp(5, 9), True, 1.2) is ACCEPTED
    assert memory(latch) == (5, 9)


@pytest.mark.parametrize(("changed_at", "expected"), [(0.0, (1, 100)), (29.9, (2, 900)), (15.0, (2, 900))])
def test_the_kernel_s_change_of_ssrc_is_not_judged_by_a_window(changed_at, expected):
    latch = heard(True)
    latch.signal(A, 20.0)
    latch.absorb_forwarded(2, 900, 31.0, changed_at, 31.0)
    assert memory(latch) == expected


# a changed address


@BOTH_MODES
@pytest.mark.parametrize("learned", [A, B], ids=["where it was signalled", "behind NAT"])
def test_public_address_that_changes_is_believed_in_strict_mode(is_strict, learned):
    latch = heard(is_strict, A, learned)
    is_moved = latch.signal(C, 20.0)
    assert is_moved == (is_strict or learned == A)
    assert (latch.remote == C) == is_moved
    assert latch.is_locked == (not is_strict)
    assert latch.ssrc == (None if is_strict else 1)


@pytest.mark.parametrize("port", [C.port, 1234], ids=["as signalled", "behind NAT"])
@pytest.mark.parametrize("header", [rtp(55, 7), STUN])
def test_party_at_the_new_address_is_learned_from_any_port(port, header):
    latch = heard(True, PRIVATE, B)
    latch.signal(C, 20.0)
    source = Endpoint(C.host, port)
    assert latch.observe(source, header, True, 20.1) is LEARNED
    assert (latch.remote, latch.is_locked, latch.has_moved) == (source, True, port != C.port)
    assert latch.ssrc == (55 if header else None)
    assert latch.observe(Endpoint(C.host, 4321), rtp(9, 9), True, 20.2) is IGNORED


@pytest.mark.parametrize("source", [A, A_OTHER_PORT, B])
def test_neither_the_old_phone_nor_a_stranger_is_heard_meanwhile(source):
    latch = heard(True, A, A)
    latch.signal(C, 20.0)
    before = state(latch)
    for sequence in (101, 102, 40000):
        assert latch.observe(source, rtp(1, sequence), True, 20.1) is IGNORED
        assert state(latch) == before
    assert latch.observe(C, rtp(55, 7), True, 20.2) is LEARNED
    assert latch.observe(source, rtp(1, 103), True, 20.3) is IGNORED


def test_old_port_of_the_same_host_does_not_take_the_stream_back():
    latch = heard(True, A)
    assert latch.signal(A_OTHER_PORT, 20.0)
    assert latch.observe(A, rtp(1, 101), True, 20.1) is IGNORED
    assert latch.observe(A_OTHER_PORT, rtp(55, 7), True, 20.2) is LEARNED
    assert latch.observe(A, rtp(1, 102), True, 20.3) is IGNORED
    assert latch.remote == A_OTHER_PORT


def test_there_and_back_before_a_packet():
    latch = heard(True, A, A_OTHER_PORT)
    latch.signal(C, 20.0)
    latch.signal(A, 21.0)
    assert latch.observe(B, rtp(1, 101), True, 21.1) is IGNORED
    assert latch.observe(C, rtp(1, 101), True, 21.1) is IGNORED
    assert latch.observe(A_OTHER_PORT, rtp(1, 101), True, 21.2) is LEARNED


def test_party_behind_nat_that_signals_another_port_is_followed_when_it_speaks():
    """Its packets never came from the signalled port, so a new signalled port says nothing about their source."""
    latch = heard(True, A, A_OTHER_PORT)
    assert not latch.signal(Endpoint(A.host, 5002), 20.0)
    assert (latch.remote, latch.is_locked) == (A_OTHER_PORT, True)
    assert latch.observe(A_OTHER_PORT, rtp(1, 101), True, 20.1) is ACCEPTED
    assert latch.observe(B, rtp(55, 7), True, 20.1) is IGNORED
    moved = Endpoint(A.host, 6002)
    assert latch.observe(moved, rtp(55, 7), True, 20.2) is LEARNED
    assert (latch.remote, memory(latch), latch.is_locked) == (moved, (55, 7), True)
    assert latch.observe(A_OTHER_PORT, rtp(1, 102), True, 20.3) is IGNORED
    assert latch.observe(Endpoint(A.host, 6004), rtp(9, 9), True, 20.3) is IGNORED


def test_private_address_then_the_public_one_that_packets_taught():
    """As from a script that rewrites the address in the re-INVITE only: nothing moves, nothing is interrupted."""
    latch = heard(True, PRIVATE, A)
    assert not latch.signal(A, 20.0)
    assert not latch.signal(Endpoint(A.host, 9999), 21.0)
    assert latch.observe(A, rtp(1, 101), True, 21.1) is ACCEPTED
    assert (latch.remote, latch.is_locked) == (A, True)


@BOTH_MODES
def test_private_address_that_changes_is_not_believed_after_learning(is_strict):
    latch = heard(is_strict, PRIVATE, A)
    assert not latch.signal(PRIVATE_2, 20.0)
    assert (latch.remote, latch.is_locked, memory(latch)) == (A, True, (1, 100))


@BOTH_MODES
def test_private_address_that_changes_is_believed_where_commands_were_true(is_strict):
    latch = heard(is_strict, PRIVATE)
    assert latch.signal(PRIVATE_2, 20.0)
    assert latch.remote == PRIVATE_2
    # The old phone sends on for a moment: in compatible mode the stream goes back to it.
    assert latch.observe(PRIVATE, rtp(1, 101), True, 20.1) is (IGNORED if is_strict else LEARNED)
    assert latch.observe(PRIVATE_2, rtp(2, 7), True, 20.2) is LEARNED
    assert latch.remote == PRIVATE_2


def test_private_address_that_changes_before_a_packet_leaves_the_stream_open():
    latch = made(True, PRIVATE)
    assert latch.signal(PRIVATE_2, 1.0)
    assert latch.observe(B, rtp(), True, 1.1) is LEARNED
    assert latch.remote == B


def test_private_address_while_a_host_is_awaited_does_not_open_the_stream():
    latch = heard(True, A)
    latch.signal(C, 20.0)
    latch.signal(PRIVATE, 21.0)
    assert latch.observe(B, rtp(), True, 21.1) is IGNORED
    assert latch.observe(C, rtp(), True, 21.1) is IGNORED
    assert latch.observe(PRIVATE, rtp(), True, 21.2) is LEARNED


def test_new_party_that_was_where_it_said_is_followed_from_port_to_port():
    latch = heard(True, PRIVATE, B)
    latch.signal(C, 20.0)
    latch.observe(C, rtp(55, 7), True, 20.1)
    moved = Endpoint(C.host, 1234)
    assert latch.signal(moved, 30.0)
    assert latch.observe(C, rtp(55, 8), True, 30.1) is IGNORED
    assert latch.observe(moved, rtp(55, 9), True, 30.2) is LEARNED


def test_port_that_was_left_may_be_come_back_to_later():
    latch = heard(True, A)
    latch.signal(A_OTHER_PORT, 20.0)
    latch.observe(Endpoint(A.host, 6010), rtp(55, 7), True, 20.1)
    latch.signal(A, 30.0)
    assert latch.observe(A, rtp(9, 9), True, 30.1) is LEARNED


def test_stream_with_ssrc_zero_may_be_followed_to_another_port():
    latch = heard(True, A, A_OTHER_PORT, rtp(0, 7))
    latch.signal(Endpoint(A.host, 5002), 20.0)
    assert latch.observe(A_OTHER_PORT, rtp(0, 8), True, 20.1) is ACCEPTED
    assert latch.observe(Endpoint(A.host, 5002), rtp(0, 9), True, 20.2) is LEARNED


def test_first_public_address_of_a_party_that_had_none_is_believed():
    latch = heard(True, None, B)
    assert latch.signal(A, 20.0)
    assert latch.observe(B, rtp(1, 101), True, 20.1) is IGNORED
    assert latch.observe(A_OTHER_PORT, rtp(2, 7), True, 20.2) is LEARNED


def test_what_the_kernel_forwarded_of_the_source_that_was_left_is_nothing():
    latch = heard(True, A)
    latch.signal(C, 20.0)
    before = state(latch)
    assert latch.absorb_forwarded(2, 900, 20.0, 19.9, 20.1) is ACCEPTED
    assert state(latch) == before


def test_move_by_memory_ends_the_waiting_for_a_host():
    latch = heard(True, A, A_OTHER_PORT)
    latch.signal(Endpoint(A.host, 5002), 20.0)
    assert latch.observe(B, rtp(1, 101), True, 20.1) is LEARNED
    assert latch.observe(Endpoint(A.host, 5002), rtp(55, 7), True, 20.2) is IGNORED


def test_asymmetric_party_goes_where_the_command_says_and_is_heard_from_any_port():
    latch = made(True, A)
    latch.set_asymmetric(True)
    latch.signal(C, 20.0)
    latch.set_asymmetric(True)
    assert (latch.remote, latch.is_locked) == (C, True)
    assert latch.observe(Endpoint(C.host, 1), rtp(), True, 20.1) is ACCEPTED
    assert latch.observe(A, rtp(), True, 20.1) is IGNORED
    assert latch.remote == C


def test_asymmetric_party_that_was_learned_goes_to_another_port_of_its_host_too():
    latch = made(True, None)
    latch.set_asymmetric(True)
    latch.observe(A_OTHER_PORT, rtp(), True, 1.0)
    assert latch.signal(A, 20.0)
    assert (latch.remote, latch.is_locked) == (A, True)


# RTCP


@BOTH_MODES
def test_rtcp_of_a_changed_address(is_strict):
    latch = made(is_strict)
    latch.observe(A, None, False, 1.0)
    latch.signal(C, 20.0)
    assert latch.remote == C
    assert latch.is_locked == (not is_strict)
    assert latch.observe(A, None, False, 20.1) is IGNORED
    assert latch.observe(Endpoint(C.host, 1234), None, False, 20.2) is (LEARNED if is_strict else IGNORED)
    assert latch.observe(Endpoint(C.host, 4321), None, False, 20.3) is IGNORED


@BOTH_MODES
@pytest.mark.parametrize("before", [None, A, B], ids=["unknown", "elsewhere", "same host"])
def test_rtcp_follows_rtp_to_its_host_only_in_strict_mode(is_strict, before):
    latch = made(is_strict, before)
    latch.guess(moved_to(B))
    assert latch.remote.host == B.host
    assert latch.observe(C, None, False, 1.0) is (IGNORED if is_strict else LEARNED)
    if is_strict:
        assert latch.observe(Endpoint(B.host, 1234), None, False, 1.1) is LEARNED
        assert latch.observe(Endpoint(B.host, 4321), None, False, 1.2) is IGNORED


@BOTH_MODES
def test_rtcp_follows_rtp_that_latched_where_it_was_signalled_only_in_strict_mode(is_strict):
    latch = made(is_strict, B)
    assert latch.guess(heard(is_strict, A)) == is_strict
    assert latch.remote == (Endpoint(A.host, A.port + 1) if is_strict else B)


def test_rtcp_that_followed_is_not_led_away_by_a_private_address():
    latch = made(True, PRIVATE)
    latch.guess(moved_to(A))
    assert not latch.signal(PRIVATE_2, 20.0)
    assert latch.remote == Endpoint(A.host, A.port + 1)


def test_rtcp_of_a_host_where_commands_were_true_follows_them():
    latch = made(True, PRIVATE)
    latch.guess(heard(True, PRIVATE))
    assert latch.observe(C, None, False, 1.0) is IGNORED
    assert latch.signal(PRIVATE_2, 20.0)
    assert latch.remote == PRIVATE_2


def test_rtcp_port_that_was_left_may_be_come_back_to_after_a_guess():
    latch = made(True)
    latch.observe(A, None, False, 1.0)
    latch.signal(C, 20.0)
    assert latch.guess(moved_to(A_OTHER_PORT))
    assert latch.observe(A, None, False, 20.1) is LEARNED


def test_old_rtcp_port_of_the_same_host_stays_out_after_a_guess():
    latch = made(True, Endpoint(A.host, 5001))
    latch.observe(Endpoint(A.host, 5001), None, False, 1.0)
    latch.signal(Endpoint(A.host, 6001), 20.0)
    latch.guess(moved_to(Endpoint(A.host, 6010)))
    assert latch.observe(Endpoint(A.host, 5001), None, False, 20.1) is IGNORED
    assert latch.observe(Endpoint(A.host, 6011), None, False, 20.2) is LEARNED


# The table of states


def state_name(latch):
    """The first row of the table that fits."""
    if latch.remote is None:
        return "empty"
    if latch.is_asymmetric:
        return "asymmetric"
    if latch.awaited_host:
        return "following" if latch.is_latched else "awaiting"
    return "latched" if latch.is_latched else "open"


def in_state(name, is_strict):
    """A stream in a state of the table; where it has heard a packet, at 1.0."""
    latch = made(is_strict, None if name == "empty" else A)
    match name:
        case "latched":
            latch.observe(A, rtp(1, 100), True, 1.0)
        case "awaiting":
            latch.observe(A, rtp(1, 100), True, 1.0)
            latch.signal(C, 20.0)
        case "following":
            latch.observe(A_OTHER_PORT, rtp(1, 100), True, 1.0)
            latch.signal(Endpoint(A.host, 5002), 20.0)
        case "asymmetric":
            latch.set_asymmetric(True)
    assert state_name(latch) == name
    return latch


def packet(source, header=None):
    header = header or rtp(9, 40000)
    return lambda latch: latch.observe(source, header, True, 21.0)


def command(endpoint):
    return lambda latch: latch.signal(endpoint, 20.0)


def command_and_packet(source):
    """The packet comes within the window, where there is one."""
    return lambda latch: (latch.signal(A, 20.0), latch.observe(source, rtp(9, 40000), True, 21.0))


ACCEPTED_SOURCES = {
    "empty": {A, A_OTHER_PORT, B, C},
    "open": {A, A_OTHER_PORT, B, C},
    "latched": {A},
    "asymmetric": {A, A_OTHER_PORT},
    "awaiting": {C},
    "following": {A, A_OTHER_PORT},
}
BOTH = ("compatible", "strict")
TRANSITIONS = [
    # modes, state, event, new state, remote
    (BOTH, "empty", command(B), "open", B),
    (BOTH, "empty", packet(B), "latched", B),
    (BOTH, "open", packet(A), "latched", A),
    (("compatible",), "open", command_and_packet(A), "open", A),
    (("strict",), "open", command_and_packet(A), "latched", A),
    (BOTH, "open", packet(B), "latched", B),
    (("compatible",), "open", command(C), "open", C),
    (("strict",), "open", command(C), "awaiting", C),
    (BOTH, "open", command(PRIVATE), "open", PRIVATE),
    (BOTH, "latched", packet(B, rtp(1, 101)), "latched", B),
    (BOTH, "latched", packet(B, rtp(2, 101)), "latched", A),
    (("compatible",), "latched", command_and_packet(B), "latched", B),
    (("strict",), "latched", command_and_packet(B), "latched", A),
    (("compatible",), "latched", command(C), "latched", C),
    (("strict",), "latched", command(C), "awaiting", C),
    (("compatible",), "latched", lambda latch: latch.change_ssrc(rtp(0), 20.0), "open", A),
    (("strict",), "latched", lambda latch: latch.change_ssrc(rtp(0), 20.0), "latched", A),
    (("strict",), "awaiting", packet(C), "latched", C),
    (("strict",), "awaiting", packet(A), "awaiting", C),
    (("strict",), "following", packet(A), "latched", A),
    (("strict",), "following", packet(B), "following", A_OTHER_PORT),
    (("strict",), "following", packet(B, rtp(1, 101)), "latched", B),
    (BOTH, "open", lambda latch: latch.set_asymmetric(True), "asymmetric", A),
    (BOTH, "asymmetric", lambda latch: latch.set_asymmetric(False), "latched", A),
    (BOTH, "asymmetric", packet(A_OTHER_PORT), "asymmetric", A),
    (("compatible",), "latched", lambda latch: latch.guess(moved_to(B)), "open", Endpoint(B.host, B.port + 1)),
    (("strict",), "latched", lambda latch: latch.guess(moved_to(B)), "awaiting", Endpoint(B.host, B.port + 1)),
]


@pytest.mark.parametrize(("modes", "state", "event", "new_state", "remote"), TRANSITIONS)
def test_transitions(modes, state, event, new_state, remote):
    for mode in modes:
        latch = in_state(state, mode == "strict")
        event(latch)
        assert (state_name(latch), latch.remote) == (new_state, remote), mode


@BOTH_MODES
@pytest.mark.parametrize("name", ACCEPTED_SOURCES)
def test_accepted_sources(is_strict, name):
    if name in ("awaiting", "following") and not is_strict:
        return
    for source in (A, A_OTHER_PORT, B, C):
        latch = in_state(name, is_strict)
        assert latch.is_locked == (name in ("latched", "asymmetric", "following"))
        is_accepted = latch.observe(source, rtp(9, 40000), True, 21.0) is not IGNORED
        assert is_accepted == (source in ACCEPTED_SOURCES[name])


@BOTH_MODES
@pytest.mark.parametrize("name", ACCEPTED_SOURCES)
def test_known_sources_are_accepted_and_if_locked_no_others(is_strict, name):
    """The kernel keeps room for a known source in a flood, so it must be one that is heard."""
    if name in ("awaiting", "following") and not is_strict:
        return
    for source in (A, A_OTHER_PORT, B, C):
        latch = in_state(name, is_strict)
        known = latch.known_source
        if known is None:
            assert name == "empty"
            continue
        is_known = known.host == source.host and known.port in (0, source.port)
        if source == latch.left:
            continue
        is_accepted = latch.observe(source, rtp(9, 40000), True, 21.0) is not IGNORED
        assert is_accepted == is_known if known.is_locked else is_accepted or not is_known


def test_known_source_has_the_ssrc_of_the_memory():
    latch = prefilled()
    assert latch.known_source == KnownSource(A.host, A.port, False, None)
    latch.observe(A, rtp(7, 1), True, 20.0)
    assert latch.known_source == KnownSource(A.host, A.port, True, 7)
    assert Latch().known_source is None


# RTP bleed

STRANGE = st.tuples(SOURCES, st.none() | st.builds(rtp, st.integers(2, 9), st.integers(0, 65535)))
STEP = st.tuples(st.floats(0.0, 4.0), STRANGE | st.just("signal") | st.just("phone"))


def attacked(latch, phone, steps):
    """Let strangers who do not know the phone's SSRC try; yields the verdict on each, and how long after a command."""
    now, sequence, signalled_at = 1.0, 100, None
    for pause_s, step in steps:
        now += pause_s
        if step == "signal":
            latch.signal(A, now)
            signalled_at = now
        elif step == "phone":
            sequence += 1
            latch.observe(phone, rtp(1, sequence), True, now)
        else:
            source, header = step
            verdict = latch.observe(source, header, True, now)
            yield verdict, header, None if signalled_at is None else now - signalled_at


@given(st.lists(STEP, max_size=40), st.sampled_from(["signalled", "nat", "stun"]))
def test_strict_mode_no_stranger_ever_takes_a_latched_stream(steps, beginning):
    latch, phone = made(True), A
    if beginning == "nat":
        phone = Endpoint("192.0.2.200", 31337)
    latch.observe(phone, STUN if beginning == "stun" else rtp(1, 100), True, 1.0)
    for verdict, _, _ in attacked(latch, phone, steps):
        assert verdict is IGNORED
        assert (latch.remote, latch.is_locked) == (phone, True)


@given(st.lists(STEP, max_size=40))
def test_compatible_mode_strangers_take_it_in_the_window_and_only_there(steps):
    latch = heard(False)
    for verdict, header, since_command_s in attacked(latch, A, steps):
        is_in_window = since_command_s is not None and since_command_s <= 10.0
        if verdict is LEARNED:
            assert is_in_window
            assert header is not None
            return
        assert not is_in_window or header is None
        assert latch.remote == A


HOSTS = ("192.0.2.1", "198.51.100.2", "2001:db8::1")
PARTY = st.builds(Endpoint, st.sampled_from(HOSTS), st.integers(5000, 5003))
MOVE = st.tuples(st.just("signal"), PARTY) | st.tuples(st.just("packet"), PARTY)


@given(st.lists(MOVE | st.tuples(st.just("stranger"), st.integers(1, 5)), max_size=40), st.booleans())
def test_strict_mode_follows_commands_and_nobody_else(steps, is_rtp):
    """Once latched, the stream's host is one that a command named; strangers of other hosts are never heard."""
    latch = made(True, PARTY_AT_FIRST)
    latch.observe(PARTY_AT_FIRST, rtp(1, 100), is_rtp, 1.0)
    named = {PARTY_AT_FIRST.host}
    for number, (what, value) in enumerate(steps):
        now = 2.0 + number
        if what == "signal":
            latch.signal(value, now)
            named = {value.host, latch.remote.host}
            assert latch.remote.host == value.host
        elif what == "packet":
            # Each party has an SSRC of its own.
            latch.observe(value, rtp(4 * HOSTS.index(value.host) + value.port, number), is_rtp, now)
        else:
            before = state(latch)
            assert latch.observe(Endpoint("203.0.113.66", value), rtp(9999, number), is_rtp, now) is IGNORED
            assert state(latch) == before
        assert latch.remote.host in named


PARTY_AT_FIRST = Endpoint(HOSTS[0], 5000)


@given(
    st.lists(
        st.tuples(st.sampled_from([A, A_OTHER_PORT, B, C]), st.integers(0, 3), st.integers(0, 65535))
        | st.sampled_from([A, A_OTHER_PORT, C, PRIVATE])
    )
)
def test_strict_verdicts_tell_the_truth(steps):
    latch = made(True)
    for number, step in enumerate(steps):
        if isinstance(step, Endpoint):
            before = latch.remote
            assert latch.signal(step, float(number)) == (latch.remote != before)
            continue
        source, ssrc, sequence = step
        before, plan = state(latch), (latch.remote, latch.is_locked)
        verdict = latch.observe(source, rtp(ssrc, sequence), True, float(number))
        if verdict is IGNORED:
            assert state(latch) == before
        else:
            assert latch.remote == source
            assert latch.is_locked
        assert (verdict is LEARNED) == (plan != (latch.remote, latch.is_locked))
        if verdict is LEARNED:
            assert latch.has_moved == (plan[0] != latch.remote)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100), st.floats(0.02, 3.0)), min_size=1, max_size=30),
    st.sampled_from([STUN, rtp(1, 0)]),
)
def test_strict_absorb_is_what_observing_would_have_been(steps, first):
    seen, told = made(True), made(True)
    for latch in (seen, told):
        latch.observe(A, first, True, 1.0)
    now, sequence, changed_at, refreshed = 1.0, 0, 0.0, None
    ssrc = None if first is STUN else 1
    for new_ssrc, advance, pause_s in steps:
        now, sequence = now + pause_s, sequence + advance
        seen.observe(A, rtp(new_ssrc, sequence), True, now)
        if ssrc is not None and new_ssrc != ssrc:
            seen.change_ssrc(rtp(new_ssrc, sequence), now)
            changed_at, refreshed = now, None
        ssrc = new_ssrc
        if refreshed is None or now - refreshed[1] >= 1.0:
            refreshed = sequence, now
    told.absorb_forwarded(ssrc, refreshed[0], refreshed[1], changed_at, now)
    assert (told.ssrc, told.is_latched, told.remote) == (seen.ssrc, seen.is_latched, seen.remote)


# Where media may not be sent


def refuses_all(_):
    return True


def refuses_host(endpoint):
    return lambda source: source[0] == endpoint.host


DENIED = Verdict.DENIED


def awaiting(remote=B):
    """A strict stream that was heard at A and then named at another public address."""
    latch = Latch(is_strict=True)
    latch.signal(A, 0.0)
    assert latch.observe(A, rtp(), True, 1.0) is LEARNED
    assert latch.signal(remote, 2.0)
    return latch


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("is_asymmetric", [False, True])
def test_an_empty_stream_does_not_learn_what_is_refused(is_strict, is_asymmetric):
    latch = Latch(is_strict=is_strict)
    latch.set_asymmetric(is_asymmetric)
    before = state(latch)
    assert latch.observe(A, rtp(), True, 1.0, refuses_all) is DENIED
    assert state(latch) == before
    assert latch.observe(B, rtp(), True, 1.0, refuses_host(A)) is LEARNED
    assert latch.remote == B


@pytest.mark.parametrize("header", [None, rtp(7, 50)])
def test_an_open_stream_does_not_learn_what_is_refused(header):
    latch = prefilled()
    before = state(latch)
    assert latch.observe(B, header, True, 1.0, refuses_host(B)) is DENIED
    assert state(latch) == before


def test_nobody_overrides_from_where_media_may_not_be_sent():
    for latch in (latched(), latched_in_window()):
        before = state(latch)
        assert latch.observe(B, rtp(1, 101), True, 12.0, refuses_host(B)) is DENIED
        assert state(latch) == before
        assert latch.observe(C, rtp(1, 101), True, 12.0, refuses_host(B)) is LEARNED


def latched_in_window():
    latch = latched()
    latch.signal(A, 11.0)
    return latch


def test_an_awaited_host_is_not_learned_at_a_port_that_is_refused():
    latch = awaiting()
    before = state(latch)
    other_port = Endpoint(B.host, 80)
    assert latch.observe(other_port, rtp(), True, 3.0, lambda source: source[1] < 1024) is DENIED
    assert state(latch) == before
    assert latch.observe(B, rtp(), True, 3.0, lambda source: source[1] < 1024) is LEARNED


def test_a_stranger_is_ignored_whatever_is_refused():
    """So what is counted as denied is what would have been learned."""
    assert latched().observe(B, rtp(9, 9), True, 12.0, refuses_all) is IGNORED


def test_the_remote_and_the_ports_of_an_asymmetric_host_are_not_asked_for():
    """A source that is known costs nothing; a packet from another port is only accepted there, and nothing is sent."""
    latch = latched()
    assert latch.observe(A, rtp(1, 101), True, 2.0, refuses_all) is ACCEPTED
    latch.set_asymmetric(True)
    assert latch.observe(A_OTHER_PORT, rtp(1, 102), True, 2.0, refuses_all) is ACCEPTED
    assert latch.remote == A


@pytest.mark.parametrize("is_strict", [False, True])
def test_rtcp_is_not_guessed_where_nothing_may_be_sent(is_strict):
    rtcp = Latch(is_strict=is_strict)
    rtcp.signal(C, 0.0)
    before = state(rtcp)
    assert not rtcp.guess(moved_to(B), lambda endpoint: endpoint == (B.host, B.port + 1))
    assert state(rtcp) == before
    assert rtcp.guess(moved_to(B), lambda endpoint: endpoint == B)
    assert rtcp.remote == Endpoint(B.host, B.port + 1)


@pytest.mark.parametrize("make", [prefilled, latched, latched_in_window, lambda: moved_to(A), awaiting])
def test_a_stream_that_forgets_is_empty(make):
    latch = make()
    is_strict = latch.is_strict
    latch.forget()
    assert not latch.is_locked
    fresh = Latch(is_strict=is_strict)
    for field in fields(latch):
        if field.name not in ("has_moved", "sequence", "refreshed_at"):  # say nothing without a memory
            assert getattr(latch, field.name) == getattr(fresh, field.name), field.name
    assert latch.observe(C, rtp(5, 5), True, 3.0) is LEARNED
    assert latch.remote == C


def test_a_stream_that_forgets_stays_asymmetric():
    latch = prefilled()
    latch.set_asymmetric(True)
    latch.forget()
    assert (latch.is_asymmetric, latch.is_latched, latch.is_locked) == (True, True, False)
    assert latch.observe(C, rtp(), True, 3.0) is LEARNED
    assert latch.is_locked


def test_the_endpoint_that_a_command_names_is_expected_beside_the_one_that_was_learned():
    """It is not believed (5.2), but in the window its packets would take the stream."""
    latch = prefilled()
    latch.observe(B, rtp(7, 1), True, 1.0)
    assert latch.known_source == KnownSource(*B, True, 7, (A,))
    latch.signal(C, 20.0)
    assert latch.known_source == KnownSource(*B, True, 7, (C,))
    latch.forget()
    latch.observe(B, rtp(7, 1), True, 21.0)
    assert latch.known_source == KnownSource(*B, True, None)


def test_the_endpoint_that_a_command_replaced_is_expected_too():
    latch = latched(7)
    latch.signal(B, 20.0)
    assert latch.known_source == KnownSource(*B, True, 7, (A,))
    latch.signal(C, 21.0)
    assert latch.known_source == KnownSource(*C, True, 7, (B, A))


@pytest.mark.parametrize("is_taken_back", [False, True])
def test_who_had_the_stream_is_expected_until_the_window_is_over(is_taken_back):
    """Nobody else is heard then, so nobody else needs room."""
    latch = latched(7)
    latch.signal(A if is_taken_back else B, 20.0)
    if is_taken_back:
        latch.observe(B, rtp(8, 1), True, 21.0)
        latch.observe(A, rtp(7, 2), True, 24.0)
    had, has = (B, A) if is_taken_back else (A, B)
    assert not latch.settle(20.0 + UPDATE_WINDOW_S)
    assert latch.known_source == KnownSource(*has, True, 7, (had,))
    assert latch.settle(20.1 + UPDATE_WINDOW_S)
    assert latch.known_source == KnownSource(*has, True, 7)
    assert not latch.has_rivals
    assert not latch.settle(40.0), "once"


def test_strict_mode_expects_one_source_only():
    """No window would let another be heard."""
    latch = made(True, A)
    latch.observe(B, rtp(7, 1), True, 1.0)
    latch.signal(PRIVATE, 20.0)
    assert latch.known_source == KnownSource(*B, True, 7)
    latch.observe(C, rtp(7, 2), True, 21.0)
    assert latch.known_source == KnownSource(*C, True, 7)


def take_turns(latch, sources, now=21.0):
    """Packets of several, each with an SSRC of its own; returns from whom packets were expected after each."""
    known = []
    for number, source in enumerate(sources):
        assert latch.observe(source, rtp(100 + source.port, number), True, now + number / 50) is LEARNED
        known.append(latch.known_source)
    return known


def test_several_sources_take_a_stream_in_turn():
    """Those who are expected stay the same all the while, in the same order."""
    latch = latched(7)
    latch.signal(B, 20.0)
    first, *rest = take_turns(latch, (A, B, C, A, B, C, B))
    assert first == KnownSource(*A, True, 7, (B,))
    assert not latch.settle(22.0)
    assert rest[0] == KnownSource(*B, True, 7, (A,), is_contested=True)
    assert set(rest[1:]) == {KnownSource(*B, True, 7, (A, C), is_contested=True)}
    assert latch.is_contested
    assert latch.contest.changes == 7
    assert latch.settle(24.0)
    assert not latch.is_contested
    assert latch.known_source == KnownSource(*B, True, 7)


def test_a_contest_among_others_than_the_one_that_was_named():
    """Behind NAT; room is kept for the named one."""
    latch = latched(7)
    latch.signal(PRIVATE, 20.0)
    assert set(take_turns(latch, (A, B, A, B))[1:]) == {KnownSource(*PRIVATE, True, 7, (A, B), is_contested=True)}


def test_a_contest_where_nobody_was_named():
    latch = Latch()
    latch.observe(A, rtp(1), True, 1.0)
    latch.change_ssrc(rtp(2), 2.0)
    for number, source in enumerate((B, A, B)):
        assert latch.observe(source, rtp(2, 101 + number), True, 30.0 + number) is LEARNED
    assert latch.known_source == KnownSource("", 0, True, 2, (A, B), is_contested=True)


def test_phones_that_move_once_contest_nothing():
    latch = prefilled()
    latch.observe(B, rtp(7, 1), True, 1.0)
    latch.observe(C, rtp(7, 2), True, 1.1)
    assert not latch.is_contested


def test_a_stream_that_forgets_its_endpoint_has_no_contest():
    latch = latched(7)
    latch.signal(B, 20.0)
    take_turns(latch, (A, B))
    latch.forget()
    assert not latch.is_contested
    assert not latch.settle(40.0)
