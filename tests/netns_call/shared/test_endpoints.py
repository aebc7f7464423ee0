"""Only the learned source is let into a call, and the same phone from another port."""

import pytest

from tests.netns_call.call import DEADLINE_S, KERNEL, PhonePort, paused
from tests.running import rtp
from tests.waiting import wait_for

FLOOD = 500


@pytest.fixture
def stranger(topology):
    with PhonePort(topology.stranger, "10.0.3.2", 6000) as stranger:
        yield stranger


@pytest.mark.parametrize("relay_host", ["10.0.1.1", "10.0.3.1"])
def test_a_stranger_is_not_relayed(call, stranger, relay, way, relay_host):
    """Neither to the address that the phone uses nor to another of the relay's; the call goes on meanwhile."""
    call.establish(way)
    before = relay.totals()
    to = relay_host, call.caller.to[1]
    for number in range(FLOOD):
        stranger.send(rtp(number, ssrc=0xBAD), to)
        if number % 50 == 0:
            call.cross(rtp(2 + number // 50))
    call.cross(b"marker")
    assert stranger.take() == []

    def counted(what: str) -> int:
        return relay.totals()[what] - before[what]

    # Packets that went to userspace may still wait there.
    wait_for(lambda: counted("packets received") >= 22 + FLOOD, DEADLINE_S, "every packet to be counted")
    assert counted("packets received") == 22 + FLOOD
    assert counted("packets transmitted") == 22
    assert call.quote()["nrelayed"] == 2 + 22


def test_a_stranger_that_knows_the_ssrc_but_not_the_sequence_is_not_relayed(call, stranger, way):
    call.establish(way)
    for number in range(10):
        stranger.send(rtp(20000 + number), call.caller.to)
    call.cross(b"marker")
    assert stranger.take() == []


def test_a_strangers_rtcp_is_not_relayed(call, stranger, way):
    call.establish(way)
    for number in range(10):
        stranger.send(rtp(number), call.caller.to_rtcp)
    call.cross(rtp(2), is_rtcp=True)
    assert stranger.take() == []


def test_a_phone_that_moved_is_learned_again(call, topology, relay, way):
    """Same SSRC, next sequence numbers, another port: nothing is lost, and the kernel takes the stream back."""
    call.establish(way)
    for number in range(2, 12):
        call.cross(rtp(number))
    old = call.caller.rtp
    call.caller.rtp = PhonePort(topology.caller, "10.0.1.2", 4100)
    for number in range(12, 22):
        call.caller.send(rtp(number))
        assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
    call.callee.send(rtp(12))
    assert call.caller.rtp.expect() == [(rtp(12), call.caller.to)]
    if way.is_kernel:
        call.wait_offloaded()
        with paused(relay):
            for number in range(22, 32):
                call.cross(rtp(number))
    # The old port no longer belongs to the call.
    old.send(rtp(30000), call.caller.to)
    call.cross(b"marker")
    assert old.take() == []
    assert call.quote()["ndropped"] == 0
    old.__exit__()


def test_a_phone_that_moved_to_another_host_is_learned_again(call, topology, relay, way):
    call.establish(way)
    call.caller.rtp.__exit__()
    call.caller.rtp = PhonePort(topology.caller, "10.0.1.3", 4000)
    for number in range(2, 12):
        call.caller.send(rtp(number))
        assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
    call.cross(rtp(12))
    if way.is_kernel:
        call.wait_offloaded(*call.ports[::2])
        with paused(relay):
            call.cross(rtp(13))


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True, scope="module")
def test_a_phone_that_moved_back_and_forth(call, topology, relay, way):
    """Each time the kernel's memory of the sequence is what userspace judges by."""
    call.establish(way)
    ports = [call.caller.rtp, PhonePort(topology.caller, "10.0.1.2", 4100)]
    number = 1
    for round_number in range(1, 5):
        call.caller.rtp = ports[round_number % 2]
        for _ in range(100):
            number += 1
            call.caller.send(rtp(number))
            assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
        call.wait_offloaded()
        with paused(relay):
            number += 1
            call.cross(rtp(number))
    ports[1].__exit__()
    ports[0].__exit__()


def test_asymmetric_parties_may_send_from_any_port(call, relay, topology, way, name):
    """`a`: sent to where they say, heard from any port of that host, also by the kernel."""
    with PhonePort(topology.caller, "10.0.1.2", 4444) as other:
        relay.port(f"Ua {name} 10.0.1.2 4000 f t")
        call.cross(rtp(1))
        if way.is_kernel:
            call.wait_offloaded(*call.ports[::2])
        for number in range(2, 22):
            other.send(rtp(number), call.caller.to)
            assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
        call.cross(rtp(22))
        assert other.take() == []


def test_an_ssrc_that_changes_in_the_kernel_is_remembered(call, topology, relay, way):
    """After a change of SSRC the phone moves on: judged by the new SSRC, which only the kernel saw."""
    call.establish(way)
    for number in range(500, 510):
        call.caller.send(rtp(number, ssrc=0x5678))
    call.callee.rtp.expect(10)
    with PhonePort(topology.caller, "10.0.1.2", 4100) as elsewhere:
        elsewhere.send(rtp(5), call.caller.to)
        elsewhere.send(rtp(511, ssrc=0x5678), call.caller.to)
        assert call.callee.rtp.expect() == [(rtp(511, ssrc=0x5678), call.callee.to)]
