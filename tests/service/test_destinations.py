"""A call reaches phones, nothing else: whatever a command names and a packet teaches, in userspace and kernel alike."""

import logging
from ipaddress import ip_network

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import LatchingMode, ListenAddress, MediaNetwork
from rtpproxy.offload.entry import ForwardingEntry
from rtpproxy.service.events import Observer
from rtpproxy.service.sessions import JUDGED_AT_ONCE
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
    OUR_HOST,
    RTCP,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)

CONTROL_PORT = 22222
ELSEWHERE = "10.0.0.9"
"""Another address of ours."""
LOCAL = ("127.0.0.0/8", OUR_HOST, ELSEWHERE, "::1")
BROADCASTS = ("10.0.0.255",)
CONTROL = "a control socket of this relay"


def networks(*texts):
    return tuple(MediaNetwork(ip_network(text)) for text in texts)


def tell_host(play, *more, broadcasts=BROADCASTS):
    networks_of_host = [ip_network(one) for one in (*LOCAL, *more)]
    return play.service.host_has(networks_of_host, list(map(ip_network, broadcasts)), play.now)


def make_play(pairs=10, **config):
    play = Scenario(pairs=pairs, **config)
    tell_host(play)
    play.service.control_is_at([Endpoint("0.0.0.0", CONTROL_PORT)])
    return play


@pytest.fixture(params=list(LatchingMode), ids=lambda mode: mode.value)
def play(request):
    return make_play(latching=request.param)


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "rtpproxy.service.destinations")
    return caplog


def refusals(log):
    return [record.message for record in log.records if record.name == "rtpproxy.service.destinations"]


def denied(play):
    lines = (line.removeprefix("frames ").split(": ") for line in play.ask("It").splitlines())
    return int(dict(lines).get("dropped_denied", 0))


REFUSED = [
    ("127.0.0.1", CONTROL_PORT, CONTROL),
    (OUR_HOST, CONTROL_PORT, CONTROL),
    (ELSEWHERE, CONTROL_PORT, CONTROL),
    ("127.0.0.1", 5004, "a loopback address"),
    ("0.1.2.3", 5004, "an unspecified address"),
    ("239.1.2.3", 5004, "a multicast address"),
    ("10.0.0.255", 5004, "a broadcast address"),
    ("255.255.255.255", 5004, "a broadcast address"),
    (OUR_HOST, 53, "a port below 1024 of this host"),
    (OUR_HOST, 5060, "a SIP port of this host"),
]


# What commands name


@pytest.mark.parametrize(("host", "port", "rule"), REFUSED)
def test_a_command_that_names_it_is_one_without_an_address(play, log, host, port, rule):
    play.call(callee=Endpoint(host, port))
    assert refusals(log) == [f"call: nothing is sent to {host}:{port}, which a command named: {rule}"]
    play.packet(CALLER, FACES_CALLER, b"cookie X")
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP)
    assert denied(play) == 2
    assert not isinstance(play.offload.installed[FACES_CALLER], ForwardingEntry)
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(2), TO_CALLEE)


@pytest.mark.parametrize("command", ["U", "Ua", "Uw", "Un"])
def test_the_first_command_of_a_session(play, log, command):
    assert play.ask(f"{command} call {OUR_HOST} {CONTROL_PORT} f") == "20000"
    assert len(refusals(log)) == 1
    play.command(f"L call {CALLEE.host} {CALLEE.port} f t", "20002")
    play.packet(CALLEE, FACES_CALLEE, b"cookie X")
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP)
    assert play.media.sent == []


def test_a_subcommand(play, log):
    play.ask(f"U call {CALLER.host} {CALLER.port} f t && L {OUR_HOST} {CONTROL_PORT}")
    assert len(refusals(log)) == 1
    play.packet(CALLER, FACES_CALLER, b"cookie X")
    assert denied(play) == 1


@pytest.mark.parametrize("way", ["{0} {1} {2} f t", "{0}a {1} {2} f t", "{0}n {1} {2} f t"])
@pytest.mark.parametrize("letter", ["U", "L"])
def test_later_commands_change_nothing(play, log, letter, way):
    play.call()
    start_talking(play)
    before = [stream.latch.remote for stream in only_session(play).streams]
    play.at(20.0)
    command = way.format(letter, "call " + OUR_HOST, CONTROL_PORT)
    assert play.ask(command).isdecimal()
    assert len(refusals(log)) == 1
    assert [stream.latch.remote for stream in only_session(play).streams] == before


def only_session(play):
    (session,) = play.service._table
    return session


def test_rtcp_is_refused_alone_where_only_its_port_is(play, log):
    play.call(callee=Endpoint(OUR_HOST, CONTROL_PORT - 1))
    assert refusals(log) == [f"call: nothing is sent to {OUR_HOST}:{CONTROL_PORT}, which a command named: {CONTROL}"]
    play.packet(CALLER, FACES_CALLER, rtp(1), (FACES_CALLEE, Endpoint(OUR_HOST, CONTROL_PORT - 1)))
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, b"cookie X")
    assert denied(play) == 1


def test_rtcp_is_refused_with_rtp(play, log):
    play.call(callee=Endpoint(OUR_HOST, 1023))
    assert len(refusals(log)) == 1
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP)


def test_ipv6(log):
    play = Scenario(listen=(ListenAddress("2001:db8::1", is_ipv6=True),))
    play.service.host_has([ip_network("2001:db8::1"), ip_network("::1")], [], play.now)
    play.service.control_is_at([Endpoint("::", CONTROL_PORT)])
    for number, host in enumerate(("::1", "2001:db8::1", "ff02::1", "::ffff:127.0.0.1")):
        play.ask(f"U6 {number} {host} {CONTROL_PORT} f")
        assert len(refusals(log)) == number + 1
    play.ask("U6 phone 2001:db8::2 5004 f")
    assert len(refusals(log)) == 4


# What packets teach


@pytest.mark.parametrize(("host", "port", "rule"), REFUSED)
def test_such_a_source_is_not_learned(play, log, host, port, rule):
    play.ask("U call 0.0.0.0 0 f")
    play.ask("L call 0.0.0.0 0 f t")
    play.packet(Endpoint(host, port), FACES_CALLER, rtp(1))
    assert refusals(log) == [f"call: {host}:{port} is not learned: {rule}"]
    assert denied(play) == play.discarded == 1
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)


def test_refused_sources_are_logged_seldom(play, log):
    play.ask("U call 0.0.0.0 0 f")
    play.ask("L call 0.0.0.0 0 f t")
    for _ in range(9):
        play.packet(Endpoint("127.0.0.1", 5004), FACES_CALLER, rtp(1))
    assert denied(play) == 9
    assert len(refusals(log)) == 4


def test_rtcp_is_not_guessed_at_the_control_socket(play):
    """RTP that is learned at the port before it would move RTCP there."""
    play.call(callee=Endpoint("192.0.2.8", 5000))
    pbx = Endpoint(OUR_HOST, CONTROL_PORT - 1)
    play.packet(pbx, FACES_CALLEE, rtp(1), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(1), (FACES_CALLEE, pbx))
    assert only_session(play).callee.rtcp.latch.remote == ("192.0.2.8", 5001)


def test_a_phone_that_seems_to_have_moved_to_the_control_socket():
    play = make_play()
    play.call()
    start_talking(play)
    play.at(20.0)
    play.packet(Endpoint(OUR_HOST, CONTROL_PORT), FACES_CALLEE, rtp(101))
    assert denied(play) == 1
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)


# Loopback


def test_loopback_is_for_a_relay_that_listens_there(log):
    play = make_play(listen=(ListenAddress("127.0.0.1"),))
    caller, callee = Endpoint("127.0.0.1", 6000), Endpoint("127.0.0.2", 7000)
    play.call(caller=caller, callee=callee)
    play.packet(caller, FACES_CALLER, rtp(1), (FACES_CALLEE, callee), local_host="127.0.0.1")
    moved = Endpoint("127.0.0.1", 7002)
    play.packet(moved, FACES_CALLEE, rtp(1), (FACES_CALLER, caller), local_host="127.0.0.1")
    play.packet(caller, FACES_CALLER, rtp(2), (FACES_CALLEE, moved), local_host="127.0.0.1")
    assert refusals(log) == []


@pytest.mark.parametrize("local_host", ["127.0.0.1", ""])
def test_loopback_is_learned_where_packets_arrive_there(log, local_host):
    """A bound socket on all addresses does not tell where they arrive."""
    play = make_play()
    caller, callee = Endpoint("127.0.0.1", 6000), Endpoint("127.0.0.2", 7000)
    play.call(caller=caller, callee=callee)
    assert len(refusals(log)) == 2
    play.packet(caller, FACES_CALLER, rtp(1), local_host=local_host)
    play.packet(callee, FACES_CALLEE, rtp(1), (FACES_CALLER, caller), local_host=local_host)
    play.packet(caller, FACES_CALLER, rtp(2), (FACES_CALLEE, callee), local_host=local_host)
    tell_host(play, "192.0.2.77")
    play.packet(caller, FACES_CALLER, rtp(3), (FACES_CALLEE, callee), local_host=local_host)
    assert len(refusals(log)) == 2


def test_after_that_a_command_may_name_loopback(log):
    play = make_play()
    play.call()
    play.packet(Endpoint("127.0.0.1", 6000), FACES_CALLER, rtp(1), TO_CALLEE, local_host="127.0.0.1")
    play.ask("U call 127.0.0.1 6002 f")
    assert refusals(log) == []
    play.ask(f"U call 127.0.0.1 {CONTROL_PORT} f")
    play.ask("U call 127.0.0.1 80 f")
    assert len(refusals(log)) == 2


def test_media_allow_lets_commands_name_loopback(log):
    play = make_play(media_allow=networks("127.0.0.0/8"))
    callee = Endpoint("127.0.0.1", 7000)
    play.call(callee=callee)
    play.packet(CALLER, FACES_CALLER, rtp(1), (FACES_CALLEE, callee))
    play.ask(f"L call 127.0.0.1 {CONTROL_PORT} f t")
    assert len(refusals(log)) == 1


@pytest.mark.parametrize("modifier", ["l127.0.0.1", "r127.0.0.1"])
def test_a_loopback_address_that_a_command_names_for_us_opens_nothing(log, modifier):
    """SIP proxies take `r` from messages."""
    play = make_play(routes={"127.0.0.1": "127.0.0.1"})
    play.ask(f"U{modifier} call 127.0.0.1 6000 f")
    assert refusals(log) == ["call: nothing is sent to 127.0.0.1:6000, which a command named: a loopback address"]


@pytest.mark.parametrize("modifier", ["l127.0.0.1", "l{rig}", "r127.0.0.1"])
def test_a_command_chooses_a_loopback_address_that_the_relay_listens_on(log, modifier):
    """However it does that; other sessions are not on it."""
    listen = (ListenAddress(OUR_HOST), ListenAddress("127.0.0.1", label="rig"))
    play = make_play(listen=listen, routes={"127.0.0.1": "127.0.0.1"})
    play.ask(f"U{modifier} call 127.0.0.1 6000 f")
    assert refusals(log) == []
    play.ask("U beside 127.0.0.1 6000 f")
    assert refusals(log) == ["beside: nothing is sent to 127.0.0.1:6000, which a command named: a loopback address"]


def test_ports_that_move_away_from_loopback_leave_it_behind(log):
    listen = (ListenAddress("127.0.0.1"), ListenAddress(OUR_HOST, label="out"))
    play = make_play(listen=listen)
    caller, callee = Endpoint("127.0.0.1", 6000), Endpoint("127.0.0.1", 7000)
    play.call(caller=caller, callee=callee)
    assert refusals(log) == []
    play.ask(f"Unl{{out}} call {caller.host} {caller.port} f")
    assert refusals(log) == [
        "call: nothing is sent to 127.0.0.1:7000 any more: a loopback address",
        "call: nothing is sent to 127.0.0.1:7001 any more: a loopback address",
    ]


# The operator's list


def test_media_deny(play, log):
    play = make_play(media_deny=networks("10.0.2.0/24", "203.0.113.0/24"), media_allow=networks("10.0.2.2"))
    play.call(callee=Endpoint("203.0.113.5", 5000))
    assert refusals(log) == [
        "call: nothing is sent to 203.0.113.5:5000, which a command named: --media-deny 203.0.113.0/24"
    ]
    play.packet(Endpoint("10.0.2.3", 5000), FACES_CALLEE, rtp(1))
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    assert denied(play) == 1
    assert isinstance(play.offload.installed[FACES_CALLER], ForwardingEntry)


# When this host changes


class Hearer(Observer):
    def __init__(self):
        self.learned_streams = []

    def learned(self, session, stream, now):
        self.learned_streams.append(stream)


@pytest.mark.parametrize("latching", list(LatchingMode))
def test_an_endpoint_that_becomes_ours_is_forgotten_and_leaves_the_kernel(log, latching):
    hearer = Hearer()
    play = make_play(latching=latching, observers=(hearer,))
    phone = Endpoint("10.0.2.2", CONTROL_PORT)
    play.call(callee=phone)
    play.packet(phone, FACES_CALLEE, rtp(100), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(200), (FACES_CALLEE, phone))
    assert play.offload.entry(FACES_CALLER)
    play.at(1.0)
    play.offload.forward(FACES_CALLER, 7, play.now, ssrc=0x1234, sequence=207)
    hearer.learned_streams.clear()
    tell_host(play, "10.0.2.2")
    assert not play.offload.entry(FACES_CALLER)
    assert not play.offload.entry(FACES_CALLEE)
    assert refusals(log) == [f"call: nothing is sent to {phone} any more: {CONTROL}"]
    assert hearer.learned_streams == [only_session(play).callee.rtp]
    play.packet(CALLER, FACES_CALLER, b"cookie X")
    assert denied(play) == 1
    assert play.counters("call f t")["npkts_ino"] + play.counters("call f t")["npkts_ina"] == 10
    tell_host(play)
    play.packet(phone, FACES_CALLEE, rtp(101), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(208), (FACES_CALLEE, phone))


def test_a_network_that_becomes_a_neighbour_brings_its_broadcast_address(log):
    play = make_play()
    play.call(callee=Endpoint("10.0.2.255", 5000))
    tell_host(play, broadcasts=("10.0.2.255",))
    assert len(refusals(log)) == 2
    play.packet(CALLER, FACES_CALLER, rtp(1))


def test_others_get_their_turn_while_thousands_of_sessions_are_judged(log):
    play = make_play(pairs=3 * JUDGED_AT_ONCE)
    names = {str(number) for number in range(3 * JUDGED_AT_ONCE - 1)}
    for number in sorted(names, key=int):
        play.ask(f"U {number} 10.0.2.2 1023 f")
    assert tell_host(play, "10.0.2.2")
    assert {line.split(":")[0] for line in refusals(log)} == {str(number) for number in range(JUDGED_AT_ONCE)}
    play.ask("U late 10.0.2.2 1023 f")
    assert refusals(log)[-1] == (
        "late: nothing is sent to 10.0.2.2:1023, which a command named: a port below 1024 of this host"
    )
    assert tell_host(play, "10.0.2.2", "10.0.2.3")  # begins anew
    play.ask(f"D {JUDGED_AT_ONCE} f")
    assert play.service.judge_more(play.now)
    assert not play.service.judge_more(play.now)
    judged = [line.split(":")[0] for line in refusals(log)]
    assert sorted(judged) == sorted(names - {str(JUDGED_AT_ONCE)} | {"late"})


def test_nothing_is_looked_at_again_when_nothing_changed(play):
    play.call()
    applied = play.offload.applied
    tell_host(play)
    assert play.offload.applied == applied
