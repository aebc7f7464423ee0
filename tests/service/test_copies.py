"""`C udp:HOST:PORT` (protocol.md 8.6): copies to another host, from ports of their own."""

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.cli.networks import read_media_network
from rtpproxy.config import ListenAddress, MediaNetwork
from rtpproxy.offload.entry import WITNESSED
from tests.fakes import FakeCopier
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
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)

RECORDER = Endpoint("192.0.2.9", 7000)
RECORDER_RTCP = Endpoint("192.0.2.9", 7001)
COPY = (20004, RECORDER)
"""Where the first copy leaves from, and for whom."""


@pytest.fixture
def play():
    made = Scenario()
    made.call()
    return made


def test_rtp_and_rtcp_of_one_side(play):
    play.command("C call udp:192.0.2.9:7000 f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(1), COPY, TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)
    out = (20005, RECORDER_RTCP)
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, out, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.command("N call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(3), TO_CALLEE)
    play.command("D call f t", "0")
    play.assert_nothing_is_left()


def test_the_port_that_copies_leave_from(play):
    play.command("Cp call udp:192.0.2.9:7000 t f", "20004")
    play.packet(CALLEE, FACES_CALLEE, rtp(1), COPY, TO_CALLER)


def test_the_address_too():
    play = Scenario(listen_host="10.0.0.1")
    play.call()
    play.command("Cp call udp:192.0.2.9:7000 f t", "20004 10.0.0.1")


def test_rtcp_is_left_out_if_asked():
    play = Scenario(leaves_rtcp_out=True)
    play.call()
    play.command("C call udp:192.0.2.9:7000 f t", "0")
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLER, FACES_CALLER, rtp(1), COPY, TO_CALLEE)


def test_a_second_copy_changes_nothing(play):
    play.command("Cp call udp:192.0.2.9:7000 f t", "20004")
    play.command("C call udp:192.0.2.8:8000 f t", "0")
    play.command("Cp call udp:192.0.2.8:8000 f t", "20004")
    play.command("R call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(1), COPY, TO_CALLEE)
    assert play.recorder.made == []


def test_a_side_that_is_recorded_gets_a_port_and_no_copies(play):
    play.command("R call f t", "0")
    play.command("C call udp:192.0.2.9:7000 f t", "0")
    for _ in range(3):
        play.command("Cp call udp:192.0.2.9:7000 f t", "20004")
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.command("N call f t", "0")
    assert 20004 not in play.media.open_ports


def test_the_other_family():
    play = Scenario(listen=(ListenAddress("10.0.0.1"), ListenAddress("2001:db8::1", is_ipv6=True)))
    play.call()
    play.command("Cp call udp:[2001:db8::9]:7000 f t", "20000 2001:db8::1 6")
    play.packet(CALLER, FACES_CALLER, rtp(1), (20000, Endpoint("2001:db8::9", 7000)), TO_CALLEE)
    assert 1 << 16 | 20000 in play.media.open_ports


def test_a_family_that_the_relay_does_not_have():
    play = Scenario(listen_host="10.0.0.1")
    play.call()
    play.command("C call udp:2001:db8::9:7000 f t", "E65")


@pytest.mark.parametrize(
    "target",
    [
        *("udp:192.0.2.9", "udp:192.0.2.9:", "udp:192.0.2.9:0", "udp:192.0.2.9:65536", "udp:192.0.2.9:x", "udp:"),
        *("udp:recorder:7000", "udp:192.0.2.9:65535", "udp:[::1:7000", "udp::7000"),
    ],
)
def test_what_is_no_target(play, target):
    play.command(f"C call {target} f t", "E65")
    play.command("N call f t", "E50")


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "10.9.9.9"])
def test_where_nothing_may_be_sent(host, caplog):
    play = Scenario(media_deny=(read_media_network("10.9.0.0/16"),))
    play.call()
    with caplog.at_level("INFO"):
        play.command(f"C call udp:{host}:7000 f t", "E65")
    assert f"no copies to {host}:7000: " in caplog.text


def test_rtcp_has_a_port_of_its_own_that_may_be_denied():
    play = Scenario(media_deny=(MediaNetwork(read_media_network("192.0.2.9").network, 7001, 7001),))
    play.call()
    play.command("C call udp:192.0.2.9:7000 f t", "E65")


def test_a_place_that_becomes_denied_gets_nothing_more(play):
    play.command("C call udp:192.0.2.9:7000 f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(1), COPY, TO_CALLEE)
    network = read_media_network("192.0.2.9").network
    play.service.host_has([], [network], play.now)
    play.packet(CALLER, FACES_CALLER, rtp(2), TO_CALLEE)


def test_no_copies_into_the_session_itself():
    play = Scenario(listen_host="10.0.0.1")
    play.call()
    play.command(f"C call udp:10.0.0.1:{FACES_CALLER} f t", "E65")


def test_no_ports_are_left():
    play = Scenario(pairs=2)
    play.call()
    play.command("C call udp:192.0.2.9:7000 f t", "E65")


def test_streams_that_userspace_copies_come_there(play):
    start_talking(play)
    play.command("C call udp:192.0.2.9:7000 f t", "0")
    assert play.offload.installed[FACES_CALLER] == WITNESSED
    play.command("N call f t", "0")
    assert play.offload.entry(FACES_CALLER) is not None


def test_what_arrives_where_copies_leave_from_is_thrown_away(play):
    play.command("Cp call udp:192.0.2.9:7000 f t", "20004")
    before = play.discarded
    play.packet(RECORDER, 20004, rtp(1))
    assert play.discarded == before + 1


# Where the kernel tees


@pytest.fixture
def teeing():
    made = Scenario(copier=FakeCopier(), listen_host="10.0.0.1")
    made.call()
    start_talking(made)
    return made


@pytest.fixture
def copier(teeing):
    return teeing.service._feeds._copier


def test_a_copied_stream_stays_in_the_kernel(teeing, copier):
    teeing.command("Cp call udp:192.0.2.9:7000 f t", "20004 10.0.0.1")
    assert teeing.offload.entry(FACES_CALLER).tee > 0
    assert teeing.offload.entry(FACES_CALLEE).tee == 0
    (made,) = copier.made
    assert made.title == "call: copies of what the caller sends to 192.0.2.9:7000"
    assert [one.way for one in made.streams] == [COPY, (20005, RECORDER_RTCP)]
    teeing.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert [data for data, *_ in made.streams[0].taken] == [rtp(201)]
    teeing.command("N call f t", "0")
    assert teeing.offload.entry(FACES_CALLER).tee == 0
    assert made.stopped_at == teeing.now
    assert 20004 not in teeing.media.open_ports


def test_copies_stop_as_soon_as_their_place_is_denied(teeing, copier):
    """Also of a session whose own parties are elsewhere."""
    teeing.command("C call udp:192.0.2.9:7000 f t", "0")
    for networks, to in (([read_media_network("192.0.2.9").network], None), ([], RECORDER)):
        teeing.service.host_has([], networks, teeing.now)
        assert copier.made[0].streams[0].to == to


def test_copies_that_end_by_themselves_free_their_ports(teeing, copier):
    teeing.command("C call udp:192.0.2.9:7000 f t", "0")
    copier.made[0].on_end(teeing.now)
    assert teeing.offload.entry(FACES_CALLER).tee == 0
    assert 20004 not in teeing.media.open_ports
    teeing.command("N call f t", "E50")


def test_copies_that_cannot_be_made_leave_no_ports(teeing, copier):
    copier.refusal = "cannot start the process"
    teeing.command("C call udp:192.0.2.9:7000 f t", "E65")
    assert 20004 not in teeing.media.open_ports
    assert teeing.offload.entry(FACES_CALLER).tee == 0


def test_packets_that_wait_when_the_command_comes_are_not_copied(teeing, copier):
    """Those that wait when it ends are."""

    def wait(number):
        teeing.media.waiting.append(lambda: teeing.packet(CALLER, FACES_CALLER, rtp(number), TO_CALLEE))

    wait(201)
    teeing.answer(b"C call udp:192.0.2.9:7000 f t")
    wait(202)
    teeing.answer(b"N call f t")
    assert [data for data, *_ in copier.made[0].streams[0].taken] == [rtp(202)]


def test_copies_are_counted(teeing):
    teeing.command("C call udp:192.0.2.9:7000 f t", "0")
    assert "recording copies_open: 1" in teeing.ask("It")
