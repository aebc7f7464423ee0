"""RTP bleed, played: somebody who can reach the relay tries to get a call's media, and to be heard in it.

Who receives what is asserted to the packet, with `--latching compatible` and `strict`, in every tier. How the windows
of compatible mode begin and end to the second is shown in tests/session/test_latch.py.
"""

import sys
import time

import pytest

from tests.hostile.stage import CALLEE, CALLER, CALLER_MOVED, STOLEN, on_stages
from tests.netns_call.call import DEADLINE_S, STEERED, PhonePort, rtcp
from tests.netns_call.traffic import Traffic, both_ways
from tests.running import rtp
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

WINDOW_S = 10.0
FLOOD = 60_000
FLOODER = """
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
packet = bytes((0x80, 0)) + b"\\xee" * 170
for _ in range(count):
    flood.sendto(packet, (host, port))
"""


def steal(stage, call):
    """The attacker's packet takes the caller's stream: it is heard, and hears."""
    stage.attacker.send(call.caller, STOLEN)
    assert call.callee.rtp.expect() == [(STOLEN, call.callee.to)]
    stage.settle()
    call.callee.send(rtp(300))
    assert stage.attacker.rtp.expect() == [(rtp(300), stage.seen_by_attacker(call.caller.to))]
    assert call.caller.rtp.take() == []


def take_back(stage, call, number):
    """The caller's next packet takes its stream back."""
    call.caller.send(rtp(number))
    assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
    stage.settle()
    call.callee.send(rtp(301))
    assert call.caller.rtp.expect() == [(rtp(301), call.caller.to)]
    assert stage.attacker.has_nothing()


# Before the phone's first packet


def test_nothing_is_learned_before_the_call_is_answered(stage):
    """The port for the callee is known from the offer on; what comes there before the answer teaches nothing."""
    with PhonePort(stage.topology.callee, CALLEE, 5000) as callee:
        port = stage.relay.port(f"U early {CALLER} 4000 f")
        before = int(stage.relay.ask("G npkts_discard"))
        stage.attacker.rtp.send(STOLEN, ("10.0.2.1", port))
        wait_for(lambda: int(stage.relay.ask("G npkts_discard")) == before + 1, DEADLINE_S, "the packet to be dropped")
        stage.relay.port(f"L early {CALLEE} 5000 f t")
        with PhonePort(stage.topology.caller, CALLER, 4000) as caller:
            callee.send(rtp(1), ("10.0.2.1", port))
            assert caller.expect()[0][0] == rtp(1)
        assert stage.attacker.has_nothing()
    assert stage.relay.ask("D early f") == "0"


def test_whoever_comes_first_is_taken_for_the_phone(stage):
    """NAT needs this, so it is possible in strict mode, too. A new offer helps: see the next but one assertion."""
    with stage.call() as call:
        call.cross(rtcp(1), is_rtcp=True)
        call.callee.send(rtp(1))
        assert call.caller.rtp.expect() == [(rtp(1), call.caller.to)]
        steal(stage, call)
        if stage.is_strict:
            call.update(CALLER, 4000)
            stage.attacker.send(call.caller, STOLEN)
            assert call.callee.rtp.expect() == [(STOLEN, call.callee.to)]
            with PhonePort(stage.topology.caller, CALLER_MOVED, 4000) as moved:
                call.update(CALLER_MOVED, 4000)
                stage.attacker.fail(call.caller)
                moved.send(rtp(2), call.caller.to)
                assert call.callee.rtp.expect() == [(rtp(2), call.callee.to)]
                stage.settle()
                call.callee.send(rtp(3))
                assert moved.expect() == [(rtp(3), call.caller.to)]
        else:
            call.update(CALLER, 4000)
            take_back(stage, call, 2)
        assert stage.attacker.has_nothing()


# After learning


def test_a_stranger_is_not_heard_in_a_call_and_does_not_hear_it(stage):
    with stage.established() as call:
        for party in (call.caller, call.callee):
            stage.attacker.fail(party, count=20)
            stage.attacker.fail(party, STOLEN[:7])
            stage.attacker.fail(party, rtcp(0xBAD), count=20, is_rtcp=True)
        stage.goes_on(call, number=10)


def test_a_phone_that_said_no_address_is_not_replaced(stage):
    """Its first packet is all that is known of it."""
    with stage.established(caller_says=("0.0.0.0", 0)) as call:
        for party in (call.caller, call.callee):
            stage.attacker.fail(party, count=5)
            stage.attacker.fail(party, rtcp(0xBAD), is_rtcp=True)
        stage.goes_on(call, number=10)


def test_the_rtcp_port_of_a_talking_phone(stage):
    """Before the first RTCP of the phone: anybody's in compatible mode, the phone's host's in strict mode."""
    with stage.call() as call:
        call.cross(rtp(1))
        report = rtcp(0xBAD)
        if stage.is_strict:
            for party in (call.caller, call.callee):
                stage.attacker.fail(party, report, is_rtcp=True)
            call.cross(rtcp(1), is_rtcp=True)
            stage.goes_on(call, number=10)
        else:
            stage.attacker.rtcp.send(report, call.caller.to_rtcp)
            assert call.callee.rtcp.expect() == [(report, call.callee.to_rtcp)]
            stage.settle()
            call.callee.send_rtcp(rtcp(2))
            assert stage.attacker.rtcp.expect() == [(rtcp(2), stage.seen_by_attacker(call.caller.to_rtcp))]
            call.cross(rtp(2))
            assert stage.attacker.has_nothing()


# After a repeated command


def test_after_a_repeated_command(stage):
    """The published weakness, and that strict mode has none of it."""
    with stage.established() as call:
        call.update(CALLER, 4000)
        call.lookup(CALLEE, 5000)
        for party in (call.caller, call.callee):
            stage.attacker.fail(party, rtcp(0xBAD), count=3, is_rtcp=True)
        if stage.is_strict:
            for party in (call.caller, call.callee):
                stage.attacker.fail(party, count=20)
            stage.goes_on(call, number=10)
        else:
            steal(stage, call)
            take_back(stage, call, 2)
            steal(stage, call)
            take_back(stage, call, 3)
            call.cross(rtp(4))
            call.cross(rtcp(2), is_rtcp=True)
            assert stage.attacker.has_nothing()


@on_stages(latching="compatible", way=STEERED)
def test_the_window_after_a_repeated_command_ends(stage):
    """Played in userspace, because the kernel lets only a few strangers a second up, whatever the window.

    The phone should be the last to send when it ends: who has the stream then keeps it.
    """
    with stage.established() as call:
        call.update(CALLER, 4000)
        end = time.monotonic() + WINDOW_S
        steal(stage, call)
        take_back(stage, call, 2)
        stage.settle()
        wait_for(lambda: time.monotonic() > end, 2 * WINDOW_S, "the window to close")
        stage.attacker.fail(call.caller, count=20)
        stage.goes_on(call, number=3)


# After a command that names another address


PLACES = pytest.mark.parametrize("place", [(CALLER_MOVED, 4000), (CALLER, 4100)], ids=["public address", "port"])
"""What the command says that is new."""


def talk_with(stage, call, moved, first):
    """Media flows between the callee and the caller's new place, and nobody else gets any of it."""
    for number in range(first, first + 3):
        call.callee.send(rtp(number))
        assert moved.expect() == [(rtp(number), call.caller.to)]
        moved.send(rtp(number), call.caller.to)
        assert call.callee.rtp.expect() == [(rtp(number), call.callee.to)]
    assert call.caller.rtp.take() == []
    assert stage.attacker.has_nothing()


@PLACES
def test_after_a_command_with_another_place(stage, place):
    with stage.established() as call, PhonePort(stage.topology.caller, *place) as moved:
        call.update(*place)
        if stage.is_strict:
            stage.attacker.fail(call.caller, count=20)
            stage.attacker.fail(call.caller, rtcp(0xBAD), count=3, is_rtcp=True)
            stage.attacker.fail(call.callee, count=20)
        else:
            stage.attacker.send(call.caller, STOLEN)
            assert call.callee.rtp.expect() == [(STOLEN, call.callee.to)]
            stage.settle()
            call.callee.send(rtp(300))
            assert stage.attacker.rtp.expect() == [(rtp(300), stage.seen_by_attacker(call.caller.to))]
            moved.send(rtp(2), call.caller.to)
            assert call.callee.rtp.expect() == [(rtp(2), call.callee.to)]
            stage.settle()
        talk_with(stage, call, moved, 3)


@on_stages(latching="strict")
@PLACES
def test_somebody_at_the_place_that_a_command_names(stage, place):
    """Behind the same NAT: before the phone sends, he may take its stream, once; the next command helps."""
    host, port = place
    caller = stage.topology.caller
    with (
        stage.established() as call,
        PhonePort(caller, host, 4600) as neighbour,
        PhonePort(caller, host, 4700) as another,
        PhonePort(caller, CALLER_MOVED, 4200) as moved,
    ):
        call.update(host, port)
        neighbour.send(STOLEN, call.caller.to)
        assert call.callee.rtp.expect() == [(STOLEN, call.callee.to)]
        stage.settle()
        call.callee.send(rtp(300))
        assert neighbour.expect() == [(rtp(300), call.caller.to)]
        before = int(stage.relay.ask("G npkts_discard"))
        stranger = rtp(0x6666, ssrc=0xBEEF)  # whoever knows the SSRC is another story: see below
        another.send(stranger, call.caller.to)
        wait_for(lambda: int(stage.relay.ask("G npkts_discard")) == before + 1, DEADLINE_S, "the packet to be dropped")
        stage.attacker.fail(call.caller, stranger, count=20)
        call.update(CALLER_MOVED, 4200)
        moved.send(rtp(2), call.caller.to)
        assert call.callee.rtp.expect() == [(rtp(2), call.callee.to)]
        stage.settle()
        talk_with(stage, call, moved, 3)
        assert neighbour.take() == another.take() == []


# When the phone changes its SSRC


def test_after_the_phone_has_changed_its_ssrc_to_0(stage):
    """The published weakness: nothing is remembered then. Strict mode goes by the source alone."""
    with stage.established() as call:
        call.caller.send(rtp(2, ssrc=0))
        assert call.callee.rtp.expect() == [(rtp(2, ssrc=0), call.callee.to)]
        if stage.is_strict:
            stage.attacker.fail(call.caller, count=20)
            stage.attacker.fail(call.caller, rtp(3, ssrc=0), count=3)
            stage.goes_on(call, number=3)
        else:
            steal(stage, call)
            call.update(CALLER, 4000)
            take_back(stage, call, 3)


# An attacker who sees the call's packets


def test_knowing_ssrc_and_sequence(stage):
    """The rule that follows a phone to another address follows him, in either mode; the phone takes the stream back.

    Against somebody who sees the packets only SRTP helps.
    """
    with stage.established() as call:
        stage.attacker.fail(call.caller, rtp(600))
        stage.attacker.fail(call.caller, rtp(1, ssrc=0x1235))
        # Within the distance: as if the phone went on from his address.
        stage.attacker.send(call.caller, rtp(2, payload=b"forged"))
        assert call.callee.rtp.expect() == [(rtp(2, payload=b"forged"), call.callee.to)]
        stage.settle()
        call.callee.send(rtp(2))
        assert stage.attacker.rtp.expect() == [(rtp(2), stage.seen_by_attacker(call.caller.to))]
        take_back(stage, call, 3)
        call.cross(rtcp(2), is_rtcp=True)
        assert stage.attacker.has_nothing()


def test_packets_in_the_name_of_a_phone(stage):
    """Whoever can forge its address is heard, and hears nothing; only SRTP helps."""
    with stage.established() as call:
        for party, other, place in ((call.caller, call.callee, CALLER), (call.callee, call.caller, CALLEE)):
            forged = rtp(2, payload=b"forged")
            stage.attacker.inject(stage.attacker.frame(party.to, forged, source=(place, party.rtp.address[1])))
            assert other.rtp.expect() == [(forged, other.to)]
        stage.goes_on(call, number=3)


# Floods


@on_stages(is_kernel=True)
def test_a_flood_disturbs_no_call(stage):
    """Calls in the kernel lose nothing, the one that is flooded as little as others."""
    beside_at = {"caller_at": (CALLER, 4010), "callee_at": (CALLEE, 5010)}
    with stage.established() as call, stage.established(**beside_at) as beside:
        before = int(stage.relay.ask("G npkts_discard"))
        streams = (*both_ways(call), *both_ways(beside))
        host, port = call.caller.to
        with Traffic(*streams) as traffic:
            traffic.more(100)
            flood = stage.attacker.host.popen([sys.executable, "-c", FLOODER, host, str(port), str(FLOOD)])
            assert flood.wait(30) == 0
            traffic.more(100)
            traffic.finish()
        for stream in streams:
            assert not stream.doubled
        for one, stream in ((call, streams[0]), (beside, streams[2])):
            assert one.quote()["npkts_ina"] == stream.sent + 1
        wait_for(
            lambda: int(stage.relay.ask("G npkts_discard")) == before + FLOOD, DEADLINE_S, "the flood to be counted"
        )
        assert stage.attacker.has_nothing()
