"""Prompts as a use case: who hears them when, what becomes of what the other party sends, and how they end."""

from ipaddress import ip_network

import pytest

from rtpproxy.config import MediaNetwork
from rtpproxy.offload.entry import PLAYED, ForwardingEntry
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    FACES_CALLER_RTCP,
    RTCP,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
)

PROMPT = b"\x80\x80" + bytes(170)
COUNTS = "nplrs_created nplrs_destroyed npkts_played npkts_discard npkts_relayed"


def counts(play):
    return list(play.stats(COUNTS).values())


def test_the_party_of_the_from_tag_hears_it_and_nothing_else(talk):
    talk.command("P call /x/prompt 8,0 f t", "0")
    (playing,) = talk.players.all
    assert playing.request == (b"/x/prompt", (8, 0), 0, 1)
    before = counts(talk)
    assert playing.send(PROMPT)
    assert (talk.last_sent.from_port, talk.last_sent.to, talk.last_sent.data) == (FACES_CALLER, CALLER, PROMPT)
    assert talk.last_sent.tos == 0xB8
    talk.packet(CALLEE, FACES_CALLEE, rtp(101))
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    talk.packet(CALLEE, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, (CALLER.host, CALLER.port + 1)))
    after = counts(talk)
    assert [two - one for one, two in zip(before, after, strict=True)] == [0, 0, 1, 1, 2]
    talk.command("Q call f t npkts_ina npkts_ino nrelayed ndropped rtpa_nrcvd", "2 2 3 1 2")
    talk.command("Q call t f rtpa_nrcvd rtpa_nlost", "2 0")


def test_the_other_party(talk):
    talk.command("P-1 call /x/prompt 0 t f", "0")
    (playing,) = talk.players.all
    assert playing.request == (b"/x/prompt", (0,), 0, None)
    assert playing.send(PROMPT)
    assert (talk.last_sent.from_port, talk.last_sent.to) == (FACES_CALLEE, CALLEE)
    talk.packet(CALLER, FACES_CALLER, rtp(201))
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)


def test_both_parties(talk):
    talk.command("P call /x/prompt 0 f t", "0")
    talk.command("P call /y/prompt 0 t f", "0")
    talk.packet(CALLER, FACES_CALLER, rtp(201))
    talk.packet(CALLEE, FACES_CALLEE, rtp(101))
    talk.command("S call t f", "0")
    assert [one.is_stopped for one in talk.players.all] == [False, True]
    talk.packet(CALLER, FACES_CALLER, rtp(202), TO_CALLEE)
    talk.packet(CALLEE, FACES_CALLEE, rtp(102))


@pytest.mark.parametrize(("count", "passes"), [("", 1), ("1", 1), ("+3", 3), ("10", 10), ("-1", None), ("-7", None)])
def test_counts(talk, count, passes):
    talk.command(f"P{count} call /x/prompt 0 f t", "0")
    assert talk.players.all[0].request[3] == passes


def test_another_prompt_replaces_it(talk):
    talk.command("P call /x/prompt 0 f t", "0")
    talk.command("P call /y/prompt 0 f t", "0")
    assert [one.is_stopped for one in talk.players.all] == [True, False]
    assert counts(talk)[:2] == [2, 1]
    talk.packet(CALLEE, FACES_CALLEE, rtp(101))


@pytest.mark.parametrize(
    ("command", "reply"),
    [("P call /x/none 0 f t", "E60"), ("P call /x/prompt session f t", "E35"), ("P call /x/prompt abc f t", "E60")],
)
def test_a_command_that_fails_changes_nothing(talk, command, reply):
    talk.command("P call /x/prompt 0 f t", "0")
    talk.command(command, reply)
    assert [one.is_stopped for one in talk.players.all] == [False]
    talk.packet(CALLEE, FACES_CALLEE, rtp(101))
    assert counts(talk)[:2] == [1, 0]


def test_stopping(talk):
    for command in ("S call f t", "P0 call /x/none 0 f t", "S call t f"):
        talk.command(command, "0")
    for command in ("S call f t", "P0 call /x/none 0 f t"):
        talk.command("P call /x/prompt 0 f t", "0")
        talk.command(command, "0")
        assert talk.players.all[-1].is_stopped
        talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    assert counts(talk)[:2] == [2, 2]


def test_its_end(talk):
    talk.command("P call /x/prompt 0 f t", "0")
    talk.players.all[0].outlet.ended(talk.now)
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    assert counts(talk)[:2] == [1, 1]
    assert not talk.players.all[0].is_stopped, "it ended by itself"
    talk.command("S call f t", "0")


@pytest.mark.parametrize("command", ["P no /x/prompt 0 f t", "P call /x/prompt 0 g t", "S no f t", "P no /x abc f t"])
def test_no_such_session(talk, command):
    talk.command(command, "E50")
    assert talk.players.all == []


# The codecs of the session


def test_codecs_of_the_session(play):
    play.command("Uc8,0,101 call 10.0.1.2 4000 f", "20000")
    play.command("P call /x/prompt session f", "0")
    assert play.players.all[-1].request[1] == (8, 0, 101)
    play.command("P call /x/prompt session t f", "E35")
    play.command("Lc18,,4 call 10.0.2.2 5000 f t", "20002")
    play.command("P call /x/prompt session t f", "0")
    assert play.players.all[-1].request[1] == (18, 4)


def test_each_command_replaces_the_codecs(play):
    play.command("Uc8,0 call 10.0.1.2 4000 f", "20000")
    play.command("Uc3 call 10.0.1.2 4000 f", "20000")
    play.command("P call /x/prompt session f", "0")
    assert play.players.all[-1].request[1] == (3,)
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("P call /x/prompt session f", "E35")


def test_packets_have_the_length_that_the_other_party_was_asked_for(play):
    play.command("Uc0z30 call 10.0.1.2 4000 f", "20000")
    play.command("Lc8z20 call 10.0.2.2 5000 f t", "20002")
    play.command("P call /x/prompt session f t", "0")
    play.command("P call /x/prompt session t f", "0")
    play.command("P call /x/prompt 0 f t", "0")
    play.command("L call 10.0.2.2 5000 f t", "20002")
    play.command("P call /x/prompt session f t", "0")
    assert [one.request[1:3] for one in play.players.all] == [((0,), 20), ((8,), 30), ((0,), 0), ((0,), 0)]


def test_what_is_repacketized_is_dropped_as_well(talk):
    """After it was repacketized (protocol.md 6.1)."""
    talk.command("Lz20 call 10.0.2.2 5000 f t", "20002")
    talk.command("P call /x/prompt 0 f t", "0")
    for number in range(4):
        talk.packet(CALLEE, FACES_CALLEE, rtp(200 + number, payload=bytes(80)))
    assert talk.stats("npkts_resizer_in")["npkts_resizer_in"] == 4
    assert talk.counters("call f t ndropped")["ndropped"] > 0
    assert talk.media.sent[-1].to == CALLEE, "nothing since"


def test_what_waits_to_be_repacketized_is_not_sent_into_a_prompt(talk):
    """By the timer, which comes while the prompt is played; nor is it recorded (protocol.md 6.1, 9.4)."""
    talk.command("Lz60 call 10.0.2.2 5000 f t", "20002")
    talk.command("R call f t", "0")
    talk.command("R call t f", "0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(200))
    talk.command("P call /x/prompt 0 f t", "0")
    before = len(talk.media.sent)
    talk.at(1.0)
    assert talk.stats("npkts_resizer_in npkts_resizer_out") == {"npkts_resizer_in": 1, "npkts_resizer_out": 1}
    assert len(talk.media.sent) == before
    assert talk.counters("call f t ndropped")["ndropped"] == 1
    assert [witness.taken for made in talk.recorder.made for witness in made.streams] == [[]] * 4
    talk.packet(CALLEE, FACES_CALLEE, rtp(210))
    talk.command("S call f t", "0")
    talk.at(2.0)
    heard = talk.media.sent[-1]
    assert (len(talk.media.sent), heard.to, heard.data[4:]) == (before + 1, CALLER, rtp(210)[4:]), (
        "the prompt has ended"
    )


# When the party can be reached


def test_before_the_party_has_a_port_and_an_address(play):
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("P call /x/prompt 0 f", "0")
    (playing,) = play.players.all
    assert not playing.send(PROMPT)
    woken = playing.woken
    play.command("L call 10.0.2.2 5000 f t", "20002")
    assert playing.woken > woken
    assert playing.send(PROMPT)
    assert (play.last_sent.from_port, play.last_sent.to) == (FACES_CALLER, CALLER)


def test_the_first_packet_of_the_party_shows_its_address(play):
    play.command("U call x 0 f", "20000")
    play.command("L call 10.0.2.2 5000 f t", "20002")
    play.command("P call /x/prompt 0 f t", "0")
    (playing,) = play.players.all
    assert not playing.send(PROMPT)
    woken = playing.woken
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    assert playing.woken > woken
    assert playing.send(PROMPT)
    assert play.last_sent.to == CALLER


def test_what_cannot_be_sent_is_not_counted_but_goes_by(talk):
    talk.command("P call /x/prompt 0 f t", "0")
    talk.media.unreachable.add(CALLER.host)
    assert talk.players.all[0].send(PROMPT)
    assert counts(talk)[2] == 0


def test_a_new_address_and_a_new_port(talk):
    talk.command("P call /x/prompt 0 f t", "0")
    (playing,) = talk.players.all
    playing.send(PROMPT)
    talk.at(1)
    talk.command("U call 10.0.1.77 4100 f t", "20000")
    talk.packet(("10.0.1.77", 4100), FACES_CALLER, rtp(300), TO_CALLEE)
    playing.send(PROMPT)
    assert talk.last_sent.to == ("10.0.1.77", 4100)
    talk.command("Ln call 10.0.2.2 5000 f t", "20004")
    playing.send(PROMPT)
    assert (talk.last_sent.from_port, talk.last_sent.to) == (20004, ("10.0.1.77", 4100))


def test_hold_changes_nothing(talk):
    talk.command("P-1 call /x/prompt 0 f t", "0")
    talk.command("U call 0.0.0.0 4000 f t", "20000")
    assert talk.players.all[0].send(PROMPT)
    assert talk.last_sent.to == CALLER


def test_tos_of_the_stream(talk):
    talk.command("P call /x/prompt 0 f t", "0")
    talk.command("U call 10.0.1.2 4000 f t && S tos=104", "20000")
    talk.players.all[0].send(PROMPT)
    assert talk.last_sent.tos == 104


def test_short_packets_are_doubled():
    play = Scenario(is_doubling=True)
    play.call()
    play.command("P call /x/prompt 0 f t", "0")
    for size, times in ((127, 2), (128, 1)):
        before = len(play.media.sent)
        play.players.all[0].send(bytes(size))
        assert len(play.media.sent) - before == times
    assert counts(play)[2] == 2


# Where media may be sent


def test_nothing_is_played_to_where_media_may_not_be_sent():
    play = Scenario(media_deny=(MediaNetwork(ip_network("10.0.1.0/24")),))
    play.call()
    play.command("P call /x/prompt 0 f t", "0")
    assert not play.players.all[0].send(PROMPT)
    assert play.media.sent == []


def test_a_party_that_has_become_one_of_our_addresses(talk):
    talk.command("P call /x/prompt 0 f t", "0")
    (playing,) = talk.players.all
    assert playing.send(PROMPT)
    talk.service.control_is_at([CALLER])
    talk.service.host_has([ip_network("10.0.1.2/32")], [], talk.now)
    sent = len(talk.media.sent)
    assert not playing.send(PROMPT)
    assert len(talk.media.sent) == sent


# Ends of sessions, and what keeps them alive


@pytest.mark.parametrize("command", ["D call f t", "X", "Q call f t && D"])
def test_the_end_of_the_session(talk, command):
    talk.command("P call /x/prompt 0 f t", "0")
    talk.command("P call /x/prompt 0 t f", "0")
    talk.ask(command)
    assert [one.is_stopped for one in talk.players.all] == [True, True]
    talk.assert_nothing_is_left()
    assert counts(talk)[:2] == [2, 2]


def test_a_prompt_that_is_heard_keeps_the_session(talk):
    talk.command("P-1 call /x/prompt 0 f t", "0")
    for second in range(1, 200):
        talk.at(second)
        talk.players.all[0].send(PROMPT)
        talk.tick()
    assert talk.sessions == 1
    assert talk.players.ticks[-1] == talk.now
    talk.players.all[0].outlet.ended(talk.now)
    talk.tick(199 + 61)
    assert talk.sessions == 0


def test_a_prompt_that_nobody_hears_does_not(play):
    play.command("U call x 0 f", "20000")
    play.command("L call 10.0.2.2 5000 f t", "20002")
    play.command("P-1 call /x/prompt 0 f t", "0")
    for second in range(1, 61):
        play.at(second)
        assert not play.players.all[0].send(PROMPT)
        play.tick()
    assert play.sessions == 0
    assert play.players.all[0].is_stopped


# Recordings, and the kernel


def test_what_is_dropped_is_not_recorded(talk):
    talk.command("R call f t", "0")
    talk.command("R call t f", "0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    talk.command("P call /x/prompt 0 f t", "0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(102))
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    talk.players.all[0].send(PROMPT)
    talk.command("S call f t", "0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(103), TO_CALLER)
    recorded = [[data for data, *_ in witness.taken] for made in talk.recorder.made for witness in made.streams]
    assert recorded == [[rtp(201)], [], [rtp(101), rtp(103)], []]


def test_only_the_direction_that_is_played_to_leaves_the_kernel(talk):
    assert isinstance(talk.offload.installed[FACES_CALLEE], ForwardingEntry)
    talk.command("P call /x/prompt 0 f t", "0")
    assert talk.offload.installed[FACES_CALLEE] == PLAYED
    assert isinstance(talk.offload.installed[FACES_CALLER], ForwardingEntry)
    talk.command("S call f t", "0")
    assert isinstance(talk.offload.installed[FACES_CALLEE], ForwardingEntry)
    talk.command("P call /x/prompt 0 f t", "0")
    talk.players.all[-1].outlet.ended(talk.now)
    assert isinstance(talk.offload.installed[FACES_CALLEE], ForwardingEntry)


def test_what_the_kernel_forwarded_before_is_counted(talk):
    talk.offload.forward(FACES_CALLEE, 50, talk.now, ssrc=0x1234, sequence=150)
    talk.command("P call /x/prompt 0 f t", "0")
    talk.command("Q call f t npkts_ina npkts_ino nrelayed ndropped", "1 51 52 0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(151))
    talk.command("S call f t", "0")
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=161)
    talk.command("Q call f t npkts_ina npkts_ino nrelayed ndropped", "1 62 62 1")
