"""Packets that arrive at one port leave from the other, in every tier."""

import pytest

from tests.netns_call.call import (
    DEADLINE_S,
    KERNEL,
    TOS,
    Call,
    PhonePort,
    Tap,
    paused,
    relayed_frame,
    rtcp,
    sent_frame,
)
from tests.running import rtp
from tests.waiting import wait_for


def test_first_packets_pass_both_ways(call):
    call.cross(rtp(1))
    call.cross(rtcp(1), is_rtcp=True)
    assert call.caller.rtp.tos | call.callee.rtp.tos | call.caller.rtcp.tos | call.callee.rtcp.tos == {TOS}


@pytest.mark.parametrize("size", [0, 1, 11, 12, 171, 172, 1471, 1472])
def test_payloads_arrive_intact(call, way, size):
    call.establish(way)
    for party in (call.caller, call.callee):
        party.rtp.tos.clear()
    payload = bytes(index % 251 for index in range(size))
    call.cross(payload)
    call.cross(payload, is_rtcp=True)
    assert call.caller.rtp.tos | call.callee.rtp.tos == {TOS}


@pytest.mark.parametrize("size", [1473, 8000])
def test_payloads_that_need_fragments_arrive_intact(call, way, size):
    call.establish(way)
    payload = bytes(index % 251 for index in range(size))
    call.cross(payload)
    call.cross(payload, is_rtcp=True)
    call.cross(rtp(2))
    assert call.caller.rtp.tos | call.callee.rtp.tos == {TOS}


def test_the_first_packet_may_need_fragments(call):
    call.cross(bytes(8000))


def test_phones_behind_nat_are_learned_each_stream_by_itself(relay, topology, way, name, no_calls_left):
    """Signalled are addresses that nobody has; RTP and RTCP come from elsewhere, and not from neighbouring ports."""
    call = Call(
        relay,
        topology.caller,
        topology.callee,
        name,
        caller_at=("10.0.1.3", 4100),
        caller_says=("10.0.1.77", 4000),
        callee_says=("10.0.2.77", 5002),
    )
    with call:
        call.caller.rtcp.__exit__()
        call.caller.rtcp = PhonePort(topology.caller, "10.0.1.3", 4333)
        # To wherever the callee said it was: this packet teaches where the caller is.
        call.caller.send(rtp(1))
        wait_for(
            lambda: call.quote()["npkts_ino"] + call.quote()["npkts_ina"] == 1, DEADLINE_S, "the caller to be heard"
        )
        call.callee.send(rtp(1))
        assert call.caller.rtp.expect() == [(rtp(1), call.caller.to)]
        call.caller.send(rtp(2))
        assert call.callee.rtp.expect() == [(rtp(2), call.callee.to)]
        # The RTCP port is taken to be RTP's plus one until a packet shows another.
        call.caller.send_rtcp(rtcp(1))
        assert call.callee.rtcp.expect() == [(rtcp(1), call.callee.to_rtcp)]
        call.callee.send_rtcp(rtcp(2))
        assert call.caller.rtcp.expect() == [(rtcp(2), call.caller.to_rtcp)]
        if way.is_kernel:
            call.wait_offloaded()
            with paused(relay):
                call.cross(rtp(3))
                call.cross(rtcp(3), is_rtcp=True)
        call.cross(rtp(4))


@pytest.mark.parametrize("size", [0, 1, 12, 160, 1472])
def test_whole_frames_are_as_a_socket_sends_them(call, topology, way, size):
    """MACs, lengths, TTL, TOS, flags and both checksums; the sender's TTL, TOS and fragmentation bits do not show."""
    call.establish(way)
    caller, callee = topology.caller, topology.callee
    payload = bytes(index % 251 for index in range(size))
    for phone, party, other_phone, other in (
        (caller, call.caller, callee, call.callee),
        (callee, call.callee, caller, call.caller),
    ):
        sent = sent_frame(phone, party.rtp.address, party.to, payload, ttl=7, tos=0x03, id=0x4321)
        with Tap(phone) as tap, Tap(other_phone) as other_tap:
            tap.send(sent)
            arrived = other_tap.expect(lambda frame: True)
        assert other.rtp.expect() == [(payload, other.to)]
        number = int.from_bytes(arrived[18:20])
        assert arrived == relayed_frame(other_phone, other.to, other.rtp.address, payload, number)
        if way.is_kernel:
            assert number == 0x4321


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True, scope="module")
def test_odd_frames_pass_through_the_kernel_as_they_are(call, topology, way):
    """Padding of short frames is carried along, no UDP checksum stays none, and a wrong one stays wrong."""
    call.establish(way)
    phone, other_phone, party, other = topology.caller, topology.callee, call.caller, call.callee
    sent = sent_frame(phone, party.rtp.address, party.to, b"odd", id=1)
    right = relayed_frame(other_phone, other.to, other.rtp.address, b"odd", 1)
    checksum = int.from_bytes(right[40:42])
    with Tap(phone) as tap, Tap(other_phone) as other_tap:
        tap.send(sent + bytes(15))
        assert other_tap.expect(lambda frame: True) == right + bytes(15)
        tap.send(sent[:40] + bytes(2) + sent[42:])
        assert other_tap.expect(lambda frame: True) == right[:40] + bytes(2) + right[42:]
        tap.send(sent[:42] + b"O" + sent[43:])
        wrong = other_tap.expect(lambda frame: True)
    assert wrong == right[:42] + b"O" + right[43:]
    assert int.from_bytes(wrong[40:42]) == checksum
    # The receiver's stack took the first two and dropped the one with the wrong checksum.
    call.caller.send(b"marker")
    assert [data for data, _ in other.rtp.expect(3)] == [b"odd", b"odd", b"marker"]


def test_calls_do_not_mix(relay, topology, way, name, no_calls_left):
    calls = [
        Call(
            *(relay, topology.caller, topology.callee, f"{name}-{n}"),
            caller_at=("10.0.1.2", 4200 + 2 * n),
            callee_at=("10.0.2.2", 5200 + 2 * n),
        )
        for n in range(5)
    ]
    assert len({port for call in calls for port in call.ports}) == 20
    for call in calls:
        call.establish(way)
    for n, call in enumerate(calls):
        call.caller.send(rtp(2, ssrc=n))
    for n, call in enumerate(calls):
        assert call.callee.rtp.expect() == [(rtp(2, ssrc=n), call.callee.to)]
    for call in calls:
        call.__exit__()
