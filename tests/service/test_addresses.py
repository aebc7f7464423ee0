"""Addresses of ours that ports are on: protocol.md 2.3 (`l`, `r`), 7.1 to 7.4."""

from dataclasses import replace

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER,
    FACES_CALLEE,
    FACES_CALLER,
    OUR_HOST,
    STRANGER,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
)

INSIDE, OUTSIDE = ListenAddress("10.0.1.1"), ListenAddress("10.0.2.1")
SIX = ListenAddress("2001:db8::1", is_ipv6=True, label="six")
CALLEE6 = Endpoint("2001:db8:2::2", 5000)
OFFER, ANSWER = "call 10.0.1.2 4000 f", "call 10.0.2.2 5000 f t"


def key(slot, port):
    return slot << 16 | port


# Bridge mode (7.3)


def bridge(**config):
    return Scenario(listen=(INSIDE, OUTSIDE), is_bridging=True, **config)


@pytest.mark.parametrize(
    ("letters", "to_callee", "to_caller"),
    [
        ("", "10.0.1.1", "10.0.1.1"),
        ("e", "10.0.1.1", "10.0.2.1"),
        ("i", "10.0.1.1", "10.0.1.1"),
        ("ee", "10.0.2.1", "10.0.2.1"),
        ("ii", "10.0.1.1", "10.0.1.1"),
        ("ei", "10.0.1.1", "10.0.2.1"),
        ("ie", "10.0.2.1", "10.0.1.1"),
    ],
)
@pytest.mark.parametrize("answer_letters", ["", "e", "i", "ee", "ei", "ie", "ii"])
def test_letters_of_the_offer_decide_both_sides(letters, to_callee, to_caller, answer_letters):
    play = bridge()
    assert play.ask(f"U{letters} {OFFER}").split()[1] == to_callee
    assert play.ask(f"L{answer_letters} {ANSWER}").split()[1] == to_caller


def test_packets_cross_the_bridge():
    play = bridge()
    play.command(f"Uie {OFFER}", "20000 10.0.2.1")
    play.command(f"Lei {ANSWER}", "20002 10.0.1.1")
    faces_callee, faces_caller = key(1, 20000), key(0, 20002)
    play.packet(CALLEE, faces_callee, rtp(1), (20002, CALLER), local_host="10.0.2.1")
    assert play.last_sent.from_host == "10.0.1.1"
    play.packet(CALLER, faces_caller, rtp(1), (20000, CALLEE), local_host="10.0.1.1")
    assert play.last_sent.from_host == "10.0.2.1"
    entry = play.offload.entry(faces_callee)
    assert (entry.slot, entry.port, entry.local_host) == (1, 20000, "10.0.2.1")
    assert (entry.from_host, entry.from_port, entry.source, entry.to) == ("10.0.1.1", 20002, CALLEE, CALLER)
    assert play.offload.entry(faces_caller).local_host == "10.0.1.1"


def test_updates_of_a_bridged_session_stay_where_they_are():
    play = bridge()
    play.command(f"Uie {OFFER}", "20000 10.0.2.1")
    play.command(f"Lei {ANSWER}", "20002 10.0.1.1")
    play.command(f"Uei {OFFER} t", "20000 10.0.2.1")
    play.command("Uie call 10.0.2.2 5000 t f", "20002 10.0.1.1")
    play.command("L call 10.0.1.2 4000 t f", "20000 10.0.2.1")


def test_new_port_goes_where_the_second_letter_says():
    play = bridge()
    play.command(f"U {OFFER}", "20000 10.0.1.1")
    play.command(f"L {ANSWER}", "20002 10.0.1.1")
    play.command(f"Une {OFFER} t", "20004 10.0.1.1")  # a single letter moves no existing port
    play.command(f"Unie {OFFER} t", "20006 10.0.2.1")
    play.command(f"Lnei {ANSWER}", "20008 10.0.1.1")
    play.command(f"Lnie {ANSWER}", "20010 10.0.2.1")
    assert [ports.held for ports in play.all_ports] == [set(), {20006, 20010}]


def test_bridge_advertises_a_name_a_side():
    listen = (ListenAddress("10.0.1.1", advertised="in.example"), ListenAddress("10.0.2.1", advertised="203.0.113.1"))
    play = Scenario(listen=listen, is_bridging=True)
    play.command(f"Uie {OFFER}", "20000 203.0.113.1")
    play.command(f"L {ANSWER}", "20002 in.example")
    play.command("Ul10.0.2.1 other 10.0.1.2 4000 f", "20004 203.0.113.1")


def test_asymmetric_by_default_unless_a_command_says_otherwise():
    """Bridge mode and `--force_asymmetric` decide which leg learns (5.5)."""
    play = Scenario(is_asymmetric=True)
    play.command(f"U {OFFER}", "20000")
    play.command(f"Ls {ANSWER}", "20002")
    other_port = Endpoint(CALLER.host, 7)
    play.packet(other_port, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)  # not learned: media goes to the signalled endpoint
    other = Endpoint(CALLEE.host, 7)
    play.packet(other, FACES_CALLEE, rtp(2), TO_CALLER)  # the symmetric party changes its port
    play.packet(CALLER, FACES_CALLER, rtp(2), (FACES_CALLEE, other))
    # Each command sets the mode anew.
    play.command(f"Us {OFFER} t", "20000")
    play.packet(other_port, FACES_CALLER, rtp(3))
    play.command(f"U {OFFER} t", "20000")
    play.packet(other_port, FACES_CALLER, rtp(4), (FACES_CALLEE, other))


# Port spaces (7.1)


def test_all_addresses_of_a_family_have_their_turn_of_one_sequence():
    """With `-b` ports are counted through by family, not by address."""
    listen = (INSIDE, ListenAddress("10.0.2.1", label="out"), SIX)
    play = Scenario(listen=listen, pairs=3)
    play.command("U a 10.0.1.2 4000 f", "20000 10.0.1.1")
    play.command("Ul{out} b 10.0.1.2 4000 f", "20002 10.0.2.1")
    play.command("U6 c ::9 4000 f", "20000 2001:db8::1 6")
    play.command("U d 10.0.1.2 4000 f", "20004 10.0.1.1")
    play.command("Ul{out} e 10.0.1.2 4000 f", "20000 10.0.2.1")
    play.command("U6 f ::9 4000 f", "20002 2001:db8::1 6")
    play.command("U g 10.0.1.2 4000 f", "20002 10.0.1.1")


def test_every_address_has_all_ports():
    play = Scenario(listen=(INSIDE, ListenAddress("10.0.2.1", label="out")), pairs=1)
    play.command("U a 10.0.1.2 4000 f", "20000 10.0.1.1")
    play.command("Ul{out} b 10.0.1.2 4000 f", "20000 10.0.2.1")
    play.command("U c 10.0.1.2 4000 f", "E72")
    play.command("Ul{out} c 10.0.1.2 4000 f", "E72")
    assert play.media.open_ports == {key(0, 20000), key(1, 20000)}
    play.command("D b f", "0")
    assert play.media.open_ports == {key(0, 20000)}
    play.command("U c 10.0.1.2 4000 f", "E72")
    play.command("Ul{out} c 10.0.1.2 4000 f", "20000 10.0.2.1")
    play.ask("X")
    play.assert_nothing_is_left()


def test_range_of_one_pair_can_be_used_again_and_again():
    play = Scenario(pairs=1)
    for _ in range(3):
        play.command(f"U {OFFER}", "20000")
        play.command(f"L {ANSWER}", "E71")
        play.command("D call f", "0")


# Addresses that commands name (2.3)


def test_labels_select_for_each_command():
    play = Scenario(listen=(INSIDE, ListenAddress("10.0.2.1", label="out", advertised="relay.example"), SIX))
    play.command(f"Ul{{out}} {OFFER}", "20000 relay.example")
    play.command(f"Ll{{six}} {ANSWER}", "20000 2001:db8::1 6")
    play.command(f"Ll10.0.1.1 {ANSWER}", "20000 2001:db8::1 6")  # too late: that leg has its ports
    play.command("Ul{Out} other 10.0.1.2 4000 f", "E31")


def test_address_of_an_offer_is_for_both_sides():
    play = Scenario(listen=(INSIDE, ListenAddress("10.0.2.1", label="out")))
    play.command(f"Ul10.0.2.1 {OFFER}", "20000 10.0.2.1")
    play.command(f"L {ANSWER}", "20002 10.0.2.1")


def test_address_that_joins_is_for_both_sides_and_shares_the_ports_of_the_default():
    play = Scenario(listen=(INSIDE, ListenAddress("10.0.2.1", label="out")))
    play.command(f"Ul10.0.9.9 {OFFER}", "20000 10.0.9.9")
    play.command(f"L {ANSWER}", "20002 10.0.9.9")
    assert play.media.open_ports == {20000, 20002}
    assert [one.host for one in play.media.joined] == ["10.0.9.9"]
    play.command("Ul10.0.9.9 other 10.0.1.2 4000 f", "20004 10.0.9.9")
    assert len(play.media.joined) == 1
    play.command("U plain 10.0.1.2 4000 f", "20006 10.0.1.1")
    play.command("Ul{out} plain2 10.0.1.2 4000 f", "20008 10.0.2.1")


def test_route_decides():
    play = Scenario(listen=(INSIDE, SIX), routes={"10.0.2.2": "10.0.9.9", "2001:db8::99": "2001:db8::1"})
    play.command(f"Ur10.0.2.2 {OFFER}", "20000 10.0.9.9")
    play.command("Ur[2001:db8::99] six 10.0.1.2 4000 f", "20000 2001:db8::1 6")
    play.command("Ur10.0.2.3 no 10.0.1.2 4000 f", "E32")


@pytest.mark.parametrize(
    ("command", "reply"),
    [("Ul10.9.9.9 other 10.0.1.2 4000 f", "E72"), (f"Ll10.9.9.9 {ANSWER}", "E71"), (f"Unl10.9.9.9 {OFFER} t", "E71")],
)
def test_address_that_is_not_ours_does_not_join(command, reply, caplog):
    play = Scenario(listen=(INSIDE,))
    play.command(f"U {OFFER}", "20000 10.0.1.1")
    play.media.foreign.add("10.9.9.9")
    play.command(command, reply)
    assert [one.host for one in play.locals.known] == ["10.0.1.1"]
    assert len(play.all_ports) == 1
    (line,) = caplog.messages
    assert line.endswith(": cannot open a port on 10.9.9.9: Cannot assign requested address")
    play.media.foreign.clear()
    assert play.ask(command).endswith(" 10.9.9.9")


def test_addresses_that_commands_bring_share_the_ports_of_the_default():
    play = Scenario(listen=(INSIDE, OUTSIDE), pairs=3)
    play.command(f"Ul10.0.9.1 {OFFER}", "20000 10.0.9.1")
    play.command("Ul[2001:db8::1] six 10.0.1.2 4000 f", "20002 2001:db8::1 6")
    play.command("U other 10.0.1.2 4000 f", "20004 10.0.1.1")
    play.command("Ul10.0.9.2 late 10.0.1.2 4000 f", "E72")
    play.command(f"Ul{OUTSIDE.host} free 10.0.1.2 4000 f", f"20000 {OUTSIDE.host}")
    play.ask("X")
    play.assert_nothing_is_left()


def test_address_under_a_wildcard_shares_its_ports():
    play = Scenario(pairs=2)
    play.command(f"U {OFFER}", "20000")
    play.command("Ul10.0.9.9 other 10.0.1.2 4000 f", "20002 10.0.9.9")
    play.command("U third 10.0.1.2 4000 f", "E72")
    assert play.media.open_ports == {20000, 20002}
    assert len(play.all_ports) == 1


@pytest.mark.parametrize("listen", [(ListenAddress(),), (ListenAddress(OUR_HOST),), (INSIDE,)])
def test_packets_to_another_of_our_addresses_are_not_taken(listen):
    """A session on one address hears only that one, although it shares the ports of the wildcard or the default."""
    play = Scenario(listen=listen)
    play.command(f"Ul{OUR_HOST} {OFFER}", f"20000 {OUR_HOST}")
    play.command(f"L {ANSWER}", f"20002 {OUR_HOST}")
    play.packet(CALLEE, FACES_CALLEE, rtp(1), local_host="10.0.1.1")
    assert play.discarded == 1
    play.command("Q call f t", "60 0 0 0 0")
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER, local_host=OUR_HOST)
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE, local_host=OUR_HOST)
    play.packet(CALLER, FACES_CALLER, rtp(2), local_host="10.0.1.1")
    assert play.offload.entry(FACES_CALLER).local_host == OUR_HOST
    play.packet(CALLEE, FACES_CALLEE, rtp(3), TO_CALLER, local_host=OUR_HOST)
    assert play.last_sent.from_host == OUR_HOST


def test_null_address_is_not_named():
    play = Scenario(listen=(replace(INSIDE, advertised="relay.example"), SIX), routes={"0.0.0.0": "10.0.9.9"})
    play.command(f"Ul0.0.0.0 {OFFER}", "20000")
    play.command(f"L {ANSWER}", "20002")
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER, local_host=INSIDE.host)
    play.command("Ur0.0.0.0 routed 10.0.1.2 4000 f", "20004")
    play.command("U6l[::] six 2001:db8::2 4000 f", "20000")
    play.command("U plain 10.0.1.2 4000 f", "20006 relay.example")
    assert play.media.joined == []


def test_null_address_without_an_address_of_its_family():
    play = Scenario(listen=(INSIDE,))
    play.command("Ul[::] call 10.0.1.2 4000 f", "E31")
    play.command("Ur[::] call 10.0.1.2 4000 f", "E32")


def test_address_of_a_command_that_fails_is_not_remembered():
    play = Scenario(listen=(INSIDE,))
    play.command("Ul[2001:db8::1]x call 10.0.1.2 4000 f", "E35")
    play.command("U6 call 2001:db8::2 4000 f", "E36")


def test_further_addresses_of_bridge_mode():
    one, two = ListenAddress("127.0.0.1", label="one"), ListenAddress("127.0.0.1", label="two", advertised="1.2.3.4")
    three, four = (
        ListenAddress("::1", True, label="three"),
        ListenAddress("::1", True, label="four", advertised="1:2:3"),
    )
    ends = (ListenAddress(), ListenAddress(is_ipv6=True))
    play = Scenario(listen=(*ends, one, two, three, four), is_bridging=True)
    play.command("U a 10.0.1.2 4000 f", "20000")
    play.command("Uee b 10.0.1.2 4000 f", "20000")
    play.command("Ul{one} c 10.0.1.2 4000 f", "20002 127.0.0.1")
    play.command("Ul{two} d 10.0.1.2 4000 f", "20004 1.2.3.4")
    play.command("Ul127.0.0.1 e 10.0.1.2 4000 f", "20006 1.2.3.4")
    play.command("Ul{three} g 10.0.1.2 4000 f", "20002 ::1 6")
    play.command("Ul{four} h 10.0.1.2 4000 f", "20004 1:2:3 6")
    play.command("Ul[::1] i 10.0.1.2 4000 f", "20006 1:2:3 6")
    play.command("U6 j ::9 4000 f", "20008 1:2:3 6")


# Families (7.4)


def test_address_that_a_command_brought_is_found_by_its_family_afterwards():
    """A leak of state, as in the C RTPproxy."""
    play = Scenario(listen=(INSIDE,))
    play.command("U6 call ::1 4000 f", "E36")
    play.command("Ul[::1] first 10.0.1.2 4000 f", "20000 ::1 6")
    play.command("U6 call ::1 4000 f", "20002 ::1 6")
    play.command("D first f", "0")
    play.command("L6 call ::1 4000 f t", "20004 ::1 6")


@pytest.mark.parametrize(("command", "reply"), [("U6 c 2001:db8::9 5 f", "20000 2001:db8::1 6"), (f"U {OFFER}", "E36")])
def test_only_the_other_family(command, reply):
    Scenario(listen=(ListenAddress("2001:db8::1", is_ipv6=True),)).command(command, reply)


def test_wildcards_of_both_families():
    play = Scenario(listen=(ListenAddress(), ListenAddress(is_ipv6=True, label="six")))
    play.command(f"U {OFFER}", "20000")
    play.command(f"L6 call {CALLEE6.host} 5000 f t", "20000")
    assert play.media.open_ports == {key(0, 20000), key(1, 20000)}


def test_trap_of_an_answer_without_letters():
    """`L6` puts the caller's leg on IPv6 although the caller is on IPv4: nothing can be sent to either party."""
    play = Scenario(listen=(INSIDE, ListenAddress("2001:db8::1", is_ipv6=True)), is_bridging=True)
    play.command(f"UIE {OFFER}", "20000 2001:db8::1 6")
    play.command(f"L6 call {CALLEE6.host} 5000 f t", "20002 2001:db8::1 6")


def test_call_between_families():
    """One letter for each leg, as controllers send them."""
    play = Scenario(listen=(INSIDE, ListenAddress("2001:db8::1", is_ipv6=True)), is_bridging=True)
    play.command(f"UIE {OFFER}", "20000 2001:db8::1 6")
    play.command(f"L6EI call {CALLEE6.host} 5000 f t", "20000 10.0.1.1")
    play.packet(CALLEE6, key(1, 20000), rtp(1), (20000, CALLER), local_host="2001:db8::1")
    assert play.last_sent.from_host == "10.0.1.1"
    play.packet(CALLER, key(0, 20000), rtp(1), (20000, CALLEE6), local_host="10.0.1.1")
    assert play.last_sent.from_host == "2001:db8::1"
    play.command("Q call f t", "60 1 1 2 0")


def test_call_between_families_by_routes():
    routes = {CALLEE6.host: "2001:db8::1", CALLER.host: "10.0.1.1"}
    play = Scenario(listen=(INSIDE, SIX), routes=routes)
    play.command(f"Ur[{CALLEE6.host}] {OFFER}", "20000 2001:db8::1 6")
    play.command(f"L6r{CALLER.host} call {CALLEE6.host} 5000 f t", "20000 10.0.1.1")
    play.packet(CALLEE6, key(1, 20000), rtp(1), (20000, CALLER), local_host="2001:db8::1")


def test_nothing_is_sent_to_a_party_of_the_other_family():
    """Packets from our IPv6 port to an IPv4 address are dropped and counted; those that come are accepted (6.2)."""
    play = Scenario(listen=(INSIDE, SIX))
    play.command(f"U {OFFER}", "20000 10.0.1.1")
    play.command(f"L6 call {CALLEE6.host} 5000 f t", "20000 2001:db8::1 6")
    play.packet(STRANGER, key(0, 20000), rtp(1), local_host="10.0.1.1")
    play.command("Q call f t", "60 0 1 0 1")
    assert play.discarded == 1
    assert play.offload.entry(key(0, 20000)) is None


def test_packets_of_the_other_family_are_not_taken_by_a_wildcard():
    """An IPv6 address that a command brought shares the ports of the IPv4 wildcard."""
    play = Scenario()
    play.call()
    play.packet(Endpoint("2001:db8::9", 5000), FACES_CALLEE, rtp(1), local_host="2001:db8::1")
    assert play.discarded == 1
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)
