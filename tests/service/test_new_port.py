"""Modifier `n`: a new port pair in place of the one that a party was told (protocol.md 2.3, 4.4)."""

import errno

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress
from rtpproxy.offload.entry import NOT_LEARNED
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLEE_RTCP,
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

OFFER, ANSWER = "call 10.0.1.2 4000 f", "call 10.0.2.2 5000 f t"
NEW = 20004


@pytest.mark.parametrize(
    ("command", "kept", "replaced"),
    [
        (f"Un {OFFER} t", 20002, 20000),
        (f"Ln {ANSWER}", 20000, 20002),
        ("Un call 10.0.2.2 5000 t f", 20000, 20002),
        ("Ln call 10.0.1.2 4000 t f", 20002, 20000),
    ],
)
def test_replaces_the_pair_of_the_side_that_the_reply_names(talk, command, kept, replaced):
    talk.command(command, str(NEW))
    assert talk.ports.held == talk.media.open_ports == {kept, NEW}
    talk.command(command.replace("n ", " "), str(NEW))  # and it stays the port of that leg
    talk.packet(CALLEE if replaced == 20000 else CALLER, replaced, rtp(1000))
    assert talk.discarded == 1
    talk.command("D call f t", "0")
    talk.assert_nothing_is_left()


def test_packets_leave_from_the_new_port_and_come_to_it(talk):
    talk.command(f"Un {OFFER} t", str(NEW))
    talk.packet(CALLER, FACES_CALLER, rtp(201), (NEW, CALLEE))
    talk.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (NEW + 1, CALLEE_RTCP))
    talk.packet(CALLEE, NEW, rtp(101), TO_CALLER)
    talk.packet(CALLEE_RTCP, NEW + 1, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    for old in (FACES_CALLEE, FACES_CALLEE_RTCP):
        talk.packet(CALLEE, old, rtp(102))


def test_remote_and_latching_of_the_side_are_kept(talk):
    moved = Endpoint("10.0.2.99", 7777)
    talk.packet(moved, FACES_CALLEE, rtp(101), TO_CALLER)
    talk.command(f"Un {OFFER} t", str(NEW))
    talk.packet(CALLER, FACES_CALLER, rtp(201), (NEW, moved))
    talk.packet(STRANGER, NEW, rtp(1, ssrc=0x666))
    talk.packet(moved, NEW, rtp(102), TO_CALLER)
    talk.packet(Endpoint("10.0.2.98", 1), NEW, rtp(103), TO_CALLER)  # continues where the memory ends


def test_kernel_entries_follow(talk):
    assert talk.offload.entry(FACES_CALLER).from_port == FACES_CALLEE
    talk.command(f"Un {OFFER} t", str(NEW))
    assert sorted(talk.offload.installed) == [FACES_CALLER, FACES_CALLER_RTCP, NEW, NEW + 1]
    assert talk.offload.entry(FACES_CALLER).from_port == NEW
    entry = talk.offload.entry(NEW)
    assert (entry.port, entry.source, entry.to, entry.from_port) == (NEW, CALLEE, CALLER, FACES_CALLER)
    assert talk.offload.installed[NEW + 1] == NOT_LEARNED


def test_old_port_is_closed_after_its_kernel_counters_were_taken(talk):
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.journal.clear()
    talk.command(f"Un {OFFER} t", str(NEW))
    assert talk.journal == [
        ("open", NEW),
        ("take", NEW),
        ("withdraw", FACES_CALLEE),
        ("withdraw", FACES_CALLEE_RTCP),
        ("close", FACES_CALLEE),
        ("release", FACES_CALLEE),
    ]
    talk.command("Q call f t", "60 1 11 12 0")
    talk.offload.forward(NEW, 5, talk.now, ssrc=0x1234, sequence=115)
    talk.command("Q call f t", "60 1 16 17 0")
    assert talk.totals()["packets received"] == 17


def test_what_the_kernel_counted_at_the_new_port_before_is_not_counted():
    play = Scenario(pairs=3)
    play.call()
    start_talking(play)
    play.offload.forward(FACES_CALLEE, 10, play.now, ssrc=0x1234, sequence=110)
    play.command("D call f t", "0")
    play.command("U next 10.0.1.2 4000 f", "20004")
    play.command("L next 10.0.2.2 5000 f t", "20000")
    play.command("Un next 10.0.1.2 4000 f t", "20002")
    play.command("Ln next 10.0.2.2 5000 f t", "20004")
    play.command("Un next 10.0.1.2 4000 f t", "20000")
    play.command("Q next f t", "60 0 0 0 0")


def test_new_port_keeps_the_session_when_only_the_kernel_sees_packets(talk):
    talk.command(f"Un {OFFER} t", str(NEW))
    talk.at(50)
    talk.offload.forward(NEW, 1, talk.now, ssrc=0x1234)
    talk.tick(109.9)
    assert talk.sessions == 1
    assert talk.counters("call f t")["ttl"] == 1
    talk.tick(110)
    talk.assert_nothing_is_left()


@pytest.mark.parametrize("command", [f"Un {OFFER} t", f"Ln {ANSWER}"])
def test_without_a_free_port_the_old_pair_stays(command):
    play = Scenario(pairs=2)
    play.call()
    start_talking(play)
    play.at(5)
    before = play.ask("Q call f t"), dict(play.offload.installed), list(play.journal)
    play.command(command, "E71")
    assert (play.ask("Q call f t"), dict(play.offload.installed), list(play.journal)) == before
    assert play.media.open_ports == {FACES_CALLEE, FACES_CALLER}
    play.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)


def test_without_a_descriptor_the_old_pair_stays(talk):
    talk.media.open_error = OSError(errno.EMFILE, "Too many open files")
    talk.command(f"Un {OFFER} t", "E71")
    talk.media.open_error = None
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    talk.command(f"Un {OFFER} t", str(NEW))


def test_on_a_new_session_it_means_nothing(play):
    play.command(f"Un {OFFER}", "20000")
    assert play.media.open_ports == {20000}


def test_before_the_answer_it_completes_the_session(play):
    """A quirk: a pair was created on an existing session."""
    play.command(f"U {OFFER}", "20000")
    play.command(f"Un {OFFER}", "20002")
    assert play.stats("nsess_complete") == {"nsess_complete": 1}
    play.packet(CALLEE, 20002, rtp(1))
    play.command("Q call f t", "60 0 1 0 1")
    play.command(f"L {ANSWER}", "20004")
    assert play.stats("nsess_complete") == {"nsess_complete": 1}
    play.packet(CALLEE, 20002, rtp(2), (20004, CALLER))


def test_answer_with_a_new_port_gets_its_first(play):
    play.command(f"U {OFFER}", "20000")
    play.command(f"Ln {ANSWER}", "20002")
    assert play.media.open_ports == {20000, 20002}


def test_new_port_on_a_given_address():
    play = Scenario(listen=(ListenAddress("10.0.1.1"),))
    play.command(f"U {OFFER}", "20000 10.0.1.1")
    play.command(f"L {ANSWER}", "20002 10.0.1.1")
    play.command(f"Ul10.0.9.9 {OFFER} t", "20000 10.0.1.1")  # without n, the port stays
    play.command(f"Unl10.0.9.9 {OFFER} t", "20004 10.0.9.9")
    play.packet(CALLER, 20002, rtp(1), (20004, CALLEE), local_host="10.0.1.1")
    assert play.last_sent.from_host == "10.0.9.9"
    play.command(f"Un {OFFER} t", "20006 10.0.9.9")  # and stays there


def test_under_the_wildcard_the_address_that_the_party_sends_to_is_kept(talk):
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER, local_host="10.0.2.1")
    talk.command(f"Un {OFFER} t", str(NEW))
    talk.packet(CALLER, FACES_CALLER, rtp(201), (NEW, CALLEE))
    assert talk.last_sent.from_host == "10.0.2.1"


def test_what_a_younger_session_left_at_the_port_is_not_remembered():
    """The kernel keeps the last sequence number of a port until the next refresh, even for another stream."""
    play = Scenario(pairs=4)
    play.call()
    start_talking(play)
    play.at(5)
    play.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    play.call("other")
    play.packet(STRANGER, NEW, rtp(8999), (NEW + 2, CALLER))
    play.at(5.1)
    play.offload.forward(NEW, 1, play.now, ssrc=0x1234, sequence=9000)
    play.at(5.2)
    play.command("D other f t", "0")
    play.command(f"Un {OFFER} t", str(NEW))
    play.packet(CALLEE, NEW, rtp(102), TO_CALLER)
    play.offload.forward(NEW, 1, play.now, ssrc=0x1234, sequence=103, is_memory_due=False)
    play.packet(STRANGER, NEW, rtp(9001))
    play.packet(STRANGER, NEW, rtp(104), TO_CALLER)
