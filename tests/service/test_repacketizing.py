"""Repacketization of what one party sends (protocol.md 2.3, 6.1, 6.4). How packets are made: rtp/test_resizer."""

import pytest

from rtpproxy.offload.entry import REPACKETIZED
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER,
    CALLER_RTCP,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    FACES_CALLER_RTCP,
    RTCP,
    STRANGER,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)

IN_OUT = "npkts_resizer_in npkts_resizer_out npkts_resizer_discard"
SOUND = b"\xd5" * 320


def resized(play):
    """Packets that were repacketized: in, out, discarded."""
    return tuple(int(value) for value in play.stats(IN_OUT).values())


def joined(first, number, count=2):
    """What `count` packets from number `first` on become, with a number of its own."""
    whole = rtp(first, payload=SOUND[:160] * count)
    return whole[:2] + number.to_bytes(2) + whole[4:]


@pytest.fixture
def play():
    """A call whose caller's packets become 40 ms long."""
    play = Scenario()
    play.command("Uz40 call 10.0.1.2 4000 f", "20000")
    play.command("L call 10.0.2.2 5000 f t", "20002")
    return play


def test_packets_of_the_party_in_the_command_are_joined(play):
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.packet(CALLER, FACES_CALLER, rtp(201), (*TO_CALLEE, joined(200, 200)))
    play.packet(CALLER, FACES_CALLER, rtp(202))
    play.packet(CALLER, FACES_CALLER, rtp(203), (*TO_CALLEE, joined(202, 201)))


def test_packets_of_the_other_party_stay_as_they_are(play):
    for number in (100, 101, 102):
        play.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER)
    assert resized(play) == (0, 0, 0)


@pytest.mark.parametrize(
    "command",
    ["Lz40 call 10.0.2.2 5000 f t", "Uz40 call 10.0.2.2 5000 t f", "U call 10.0.1.2 4000 f t && Lz40 10.0.2.2 5000"],
)
def test_packets_of_the_callee(play, command):
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("L call 10.0.2.2 5000 f t", "20002")
    play.ask(command)
    play.packet(CALLEE, FACES_CALLEE, rtp(100))
    play.packet(CALLEE, FACES_CALLEE, rtp(101), (*TO_CALLER, joined(100, 100)))
    play.packet(CALLER, FACES_CALLER, rtp(200), TO_CALLEE)


def test_both_directions(play):
    play.command("Lz10 call 10.0.2.2 5000 f t", "20002")
    play.packet(CALLER, FACES_CALLER, rtp(200))
    half = rtp(100, payload=SOUND[:80])
    second = half[:2] + (101).to_bytes(2) + (100 * 160 + 80).to_bytes(4) + half[8:]
    play.packet(CALLEE, FACES_CALLEE, rtp(100), (*TO_CALLER, half), (*TO_CALLER, second))
    play.packet(CALLER, FACES_CALLER, rtp(201), (*TO_CALLEE, joined(200, 200)))


def test_events_and_rtcp_pass_at_once(play):
    play.packet(CALLER, FACES_CALLER, rtp(200))
    event = b"\x80\x65" + rtp(201, payload=b"\5\0\0\xa0")[2:]
    play.packet(CALLER, FACES_CALLER, event, TO_CALLEE)
    play.packet(CALLER, FACES_CALLER, b"stun?", TO_CALLEE)
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE._replace(port=5001)))
    assert resized(play) == (1, 0, 0)


# The kernel


def test_the_direction_alone_leaves_the_kernel():
    play = Scenario()
    play.call()
    start_talking(play)
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE._replace(port=5001)))
    play.offload.forward(FACES_CALLER, 7, play.now, ssrc=0x1234, sequence=207)
    play.ask("Uz40 call 10.0.1.2 4000 f t")
    assert play.offload.installed[FACES_CALLER] == REPACKETIZED
    assert play.offload.entry(FACES_CALLEE)
    assert play.offload.entry(FACES_CALLER_RTCP)
    assert play.counters("call f t")["npkts_ina"] == 8
    play.packet(CALLER, FACES_CALLER, rtp(208))
    play.packet(CALLER, FACES_CALLER, rtp(209), (*TO_CALLEE, joined(208, 208)))
    assert play.counters("call f t") == {
        **{"ttl": 60, "npkts_ina": 10, "npkts_ino": 1, "nrelayed": 10, "ndropped": 0},
    }


def test_without_z_the_stream_goes_back_to_the_kernel(play):
    start = play.media.sent
    play.packet(CALLEE, FACES_CALLEE, rtp(100), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.command("L call 10.0.2.2 5000 f t", "20002")  # says nothing of the caller
    assert play.offload.installed[FACES_CALLER] == REPACKETIZED
    before = len(start)
    play.ask("U call 10.0.1.2 4000 f t", may_send=True)
    assert [(one.from_port, one.to, one.data) for one in play.media.sent[before:]] == [(*TO_CALLEE, rtp(200))]
    assert play.offload.entry(FACES_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert resized(play) == (1, 1, 0)


def test_the_length_is_changed_without_a_break(play):
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.packet(CALLER, FACES_CALLER, rtp(201), (*TO_CALLEE, joined(200, 200)))
    play.packet(CALLER, FACES_CALLER, rtp(202))
    play.command("Uz60 call 10.0.1.2 4000 f t", "20000")
    play.packet(CALLER, FACES_CALLER, rtp(203))
    play.packet(CALLER, FACES_CALLER, rtp(204), (*TO_CALLEE, joined(202, 201, 3)))


def test_a_command_that_is_refused_changes_nothing(play):
    for command, code in (("U call 10.0.1.999 4000 f t", "E37"), ("Uz0 call 10.0.1.2 4000 f t", "E13")):
        play.command(command, code)
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.packet(CALLER, FACES_CALLER, rtp(201), (*TO_CALLEE, joined(200, 200)))


# Time


def sent_until(play, second):
    """Packets that leave until then."""
    before = len(play.media.sent)
    play.at(second)
    return [(one.from_port, one.to, one.data) for one in play.media.sent[before:]]


def test_the_tail_of_a_talk_spurt_leaves_by_itself(play):
    play.packet(CALLER, FACES_CALLER, rtp(200))
    assert sent_until(play, 0.079) == []
    assert sent_until(play, 0.091) == [(*TO_CALLEE, rtp(200))]
    assert sent_until(play, 9.0) == []
    assert play.later.calls == [], "no timer runs while nothing waits"
    play.packet(CALLER, FACES_CALLER, rtp(600))
    assert sent_until(play, 9.5) == [(*TO_CALLEE, joined(600, 201, 1))]
    assert resized(play) == (2, 2, 0)


def test_each_stream_has_its_own_time(play):
    play.command("Lz999 call 10.0.2.2 5000 f t", "20002")
    play.packet(CALLEE, FACES_CALLEE, rtp(100))
    play.at(0.02)
    play.packet(CALLER, FACES_CALLER, rtp(200))
    assert sent_until(play, 0.15) == [(*TO_CALLEE, rtp(200))]
    assert sent_until(play, 1.9) == []
    assert sent_until(play, 2.1) == [(*TO_CALLER, rtp(100))]
    assert play.later.calls == []


# Counts


def test_counts(play):
    """Received is what arrived, relayed what was sent: of seven packets that waited and were joined, three."""
    for number in (200, 201, 202, 203, 202, 204, 205):
        play.media.unreachable = {CALLEE.host} if number > 203 else set()
        play.service.datagram(FACES_CALLER, rtp(number), tuple(CALLER), "10.0.0.1", play.now)
    counters = play.counters("call f t")
    assert {name: counters[name] for name in ("npkts_ina", "npkts_ino", "nrelayed", "ndropped")} == {
        **{"npkts_ina": 7, "npkts_ino": 0, "nrelayed": 2, "ndropped": 1},
    }
    assert resized(play) == (7, 3, 1)
    stats = play.stats("npkts_rcvd npkts_relayed npkts_discard")
    assert stats == {"npkts_rcvd": 7, "npkts_relayed": 2, "npkts_discard": 1}


def test_packets_of_strangers_are_not_taken(play):
    for number in (200, 201):
        play.packet(CALLER, FACES_CALLER, rtp(number), *([(*TO_CALLEE, joined(200, 200))] if number == 201 else []))
    play.at(11)
    play.packet(STRANGER, FACES_CALLER, rtp(5, ssrc=9))
    assert resized(play) == (2, 1, 0)
    assert play.discarded == 1


@pytest.mark.parametrize("command", ["D call f t", "X", "Ln call 10.0.2.2 5000 f t"])
def test_what_waits_when_the_port_is_closed_is_discarded(play, command):
    """The session ends, or the caller gets other ports."""
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.ask(command)
    assert resized(play) == (1, 0, 1)
    assert sent_until(play, 5.0) == []
    assert play.later.calls == []


def test_what_waits_when_the_session_times_out_is_discarded(play):
    play.service.datagram(FACES_CALLER, rtp(200), tuple(CALLER), "10.0.0.1", play.now)
    play.now += 100  # the timer comes late
    play.service.tick(play.now)
    assert resized(play) == (1, 0, 1)
    play.assert_nothing_is_left()


# Others who get the packets


def test_recordings_have_what_was_made(play):
    play.command("R call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.packet(CALLER, FACES_CALLER, rtp(201), (*TO_CALLEE, joined(200, 200)))
    play.packet(CALLER, FACES_CALLER, rtp(202))
    sent_until(play, 1.0)
    (recorded,) = play.recorder.made
    assert recorded.packets == [joined(200, 200), joined(202, 201, 1)]
    assert {(source, host) for _, source, host, _ in recorded.streams[0].taken} == {(tuple(CALLER), "10.0.0.1")}


def test_the_kernel_does_not_tee_what_is_repacketized(play):
    play.recorder.has_ring = True
    play.packet(CALLEE, FACES_CALLEE, rtp(100), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.command("R call f t", "0")
    assert play.offload.installed[FACES_CALLER] == REPACKETIZED
    play.ask("U call 10.0.1.2 4000 f t", may_send=True)
    assert play.offload.entry(FACES_CALLER).tee
    (recorded,) = play.recorder.made
    assert recorded.packets == [rtp(200)]


def test_a_session_that_gets_copies_sends_none_of_its_own(play):
    play.call("source", caller=STRANGER._replace(port=6000), callee=STRANGER._replace(port=7000))
    play.packet(CALLER, FACES_CALLER, rtp(200))
    play.command("Uz40 call 10.0.1.2 4000 f t && C source f t", "20000")
    assert sent_until(play, 1.0) == []
    assert resized(play) == (1, 1, 0)
    assert play.discarded == 1


def test_short_packets_are_sent_twice_by_what_they_became():
    play = Scenario(is_doubling=True)
    play.command("Uz10 call 10.0.1.2 4000 f", "20000")
    play.command("L call 10.0.2.2 5000 f t", "20002")
    half = rtp(200, payload=SOUND[:80])
    second = half[:2] + (201).to_bytes(2) + (200 * 160 + 80).to_bytes(4) + half[8:]
    play.packet(CALLER, FACES_CALLER, rtp(200), *[(*TO_CALLEE, data) for data in (half, half, second, second)])
