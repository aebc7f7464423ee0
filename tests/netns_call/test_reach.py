"""A call reaches phones and nothing else: what a command names, and what a packet teaches, in every way to relay."""

import contextlib
import itertools
import re

import pytest

from tests.netns import Topology
from tests.netns_call.call import BOUND, DEADLINE_S, KERNEL, TC, WAYS, Call, PhonePort, allow_refusals, ip, paused, rtcp
from tests.netns_call.dual_stack.families import EVERYWHERE
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

CONTROL_PORT = 22222
KILL_ALL = b"cookie X"
OWN, OWN_ELSEWHERE, OWN6 = "10.0.1.1", "10.0.2.1", "fd00:0:1::1"
ROUTED_HERE = "198.51.100.9"
"""In a prefix that a route of the local table leads to this host."""
NAT = "203.0.113.5"
"""Advertised: a NAT leads from there to the relay."""
OTHER_PORTS = ("-m", "20000", "-M", "24999")
"""For a second relay in the same namespace."""
_names, _numbers = itertools.count(1), itertools.count(1)


@pytest.fixture(scope="module")
def topology():
    with Topology(ipv6=True) as topology:
        allow_refusals(topology.relay)
        ip(topology.relay, "route add local 198.51.100.0/24 dev lo")
        yield topology


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way.name)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def relay(way, topology, tmp_path_factory):
    """A relay on all addresses, with a control socket on all of them, and options as they are by default."""
    control = ("-F", "-s", f"udp:*:{CONTROL_PORT}", "-s", f"udp6:*:{CONTROL_PORT}")
    options = (*way.options, "-l", f"*={NAT}", *EVERYWHERE[2:], *control)
    with RunningRelay(tmp_path_factory.mktemp("relay"), *options, host=topology.relay) as relay:
        yield relay


@pytest.fixture
def make_call(relay, topology):
    """Makes calls, and deletes all of them at the end; one session among them may not have been deleted before."""
    calls = []

    def make(caller=topology.caller, callee=topology.callee, **options):
        calls.append(Call(relay, caller, callee, f"c{next(_names)}", **options))
        return calls[-1]

    yield make
    for call in calls:
        call.__exit__()
    assert relay.ask("X") == "0"


def wait_received(relay, before, count=1):
    wait_for(lambda: relay.totals()["packets received"] == before + count, DEADLINE_S, f"{count} packets")
    # What they caused was done before a command that comes after them.
    relay.ask("V")
    relay.ask("V")


def denied(relay):
    found = re.search(r"^frames dropped_denied: (\d+)$", relay.ask("It"), re.MULTILINE)
    return int(found[1]) if found else 0


TARGETS = [
    *("127.0.0.1", "127.9.9.9", OWN, OWN_ELSEWHERE, ROUTED_HERE, NAT, "10.0.1.255", "255.255.255.255", "0.0.0.1"),
    *("::1", OWN6, "::ffff:127.0.0.1", "ff02::1"),
]


@pytest.mark.parametrize("is_rtcp", [False, True], ids=["RTP", "RTCP"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_command_leads_a_call_to_the_control_socket(relay, make_call, target, is_rtcp):
    """A signalled RTP port makes the next one RTCP's."""
    call = make_call(callee_says=(target, CONTROL_PORT - is_rtcp))
    before, denied_before = relay.totals(), denied(relay)
    if is_rtcp:
        call.caller.send_rtcp(KILL_ALL)
    else:
        call.caller.send(KILL_ALL)
    wait_received(relay, before["packets received"])
    after = relay.totals()
    assert after["active sessions"] == 1
    assert after["packets transmitted"] == before["packets transmitted"]
    assert denied(relay) == denied_before + 1
    assert call.caller.rtp.take() == call.caller.rtcp.take() == []
    assert len(re.findall(rf" {call.name}: nothing is sent to .*, which a command named: ", relay.log)) == 1
    call.callee.send(rtp(1))
    call.caller.rtp.expect()
    call.caller.send(rtp(2))
    call.callee.rtp.expect()


def test_a_subcommand_does_not_lead_there_either(relay, make_call):
    call = make_call()
    assert relay.ask(f"U {call.name} 10.0.1.2 4000 f t && L {OWN} {CONTROL_PORT}").endswith(NAT)
    assert re.search(rf" {call.name}: nothing is sent to {OWN}:{CONTROL_PORT}, which a command named: ", relay.log)
    call.caller.send(rtp(1))
    assert call.callee.rtp.expect() == [(rtp(1), call.callee.to)]


@pytest.mark.parametrize("source", [(OWN, 5060), (OWN, 53), ("127.0.0.1", 7000)])
def test_no_service_of_this_host_is_learned(relay, topology, way, make_call, source):
    """A service that was made to answer a packet, or to send one, gets no media for it."""
    if way is BOUND and source[0] == "127.0.0.1":
        pytest.skip("a bound socket on all addresses does not tell that this packet came to another than loopback")
    call = make_call()
    with PhonePort(topology.relay, *source) as service:
        before, denied_before = relay.totals()["packets received"], denied(relay)
        service.send(rtp(1), (OWN, call.callee.to[1]))
        wait_received(relay, before)
        assert denied(relay) == denied_before + 1
        call.caller.send(rtp(1))
        assert call.callee.rtp.expect() == [(rtp(1), call.callee.to)]
        assert service.take() == []


def test_rtcp_is_not_guessed_at_the_control_socket(relay, topology, make_call):
    """A PBX on this host that sends its RTP from the port before it."""
    call = make_call(callee_says=(topology.caller.ip, 7000))
    with PhonePort(topology.relay, OWN, CONTROL_PORT - 1) as pbx:
        pbx.send(rtp(1), (OWN, call.callee.to[1]))
        call.caller.rtp.expect()
        call.caller.send(rtp(2))
        assert [data for data, _ in pbx.expect()] == [rtp(2)]
        before = relay.totals()["packets received"]
        call.caller.send_rtcp(KILL_ALL)
        wait_received(relay, before)
        assert relay.totals()["active sessions"] == 1


@pytest.mark.parametrize("command", ["addr add {}/32 dev lo", "route add local {}/32 dev lo"])
def test_an_address_that_becomes_ours_is_forgotten(relay, topology, way, make_call, command):
    """Until then a phone was there, and the kernel forwarded to it."""
    # Another address each time: the relay need not have noticed yet that the last one is not ours any more.
    host = f"192.0.2.{next(_numbers)}"
    command = command.format(host)
    ip(topology.callee, f"addr add {host}/32 dev callee")
    ip(topology.relay, f"route add {host}/32 via {topology.callee.ip}")
    with contextlib.ExitStack() as undo:
        undo.callback(ip, topology.callee, f"addr del {host}/32 dev callee")
        undo.callback(ip, topology.relay, f"route del {host}/32 via {topology.callee.ip}")
        call = make_call(callee_at=(host, CONTROL_PORT))
        call.cross(rtp(1))
        if way.is_kernel:
            call.wait_offloaded(*call.rtp_ports)
        ip(topology.relay, command)
        undo.callback(ip, topology.relay, command.replace(" add ", " del "))
        said = rf" {call.name}: nothing is sent to {host}:{CONTROL_PORT} any more: "
        wait_for(lambda: re.search(said, relay.log), DEADLINE_S, "the relay to notice")
        before = relay.totals()["packets received"]
        call.caller.send(KILL_ALL)
        wait_received(relay, before)
        assert relay.totals()["active sessions"] == 1
        assert call.callee.rtp.take() == []


# What must work by default


def test_a_pbx_on_this_host(topology, make_call):
    call = make_call(callee=topology.relay, callee_at=(OWN, 10000), relay_host=OWN)
    call.cross(rtp(1))
    call.cross(rtcp(1), is_rtcp=True)


@pytest.mark.parametrize("host", [OWN, OWN_ELSEWHERE])
def test_a_call_that_passes_the_relay_twice(relay, make_call, host):
    """Two sessions that name each other's ports on an address of ours, as a SIP proxy makes them of a hairpin."""
    first, second = make_call(), make_call(caller_at=("10.0.1.2", 4100), callee_at=("10.0.2.2", 5100))
    first.lookup(host, second.caller.to[1])
    second.update(host, first.callee.to[1])
    assert f"{first.name}: nothing is sent" not in relay.log
    assert f"{second.name}: nothing is sent" not in relay.log
    for number in (1, 2):
        first.caller.send(rtp(number))
        assert second.callee.rtp.expect() == [(rtp(number), second.callee.to)]
        second.callee.send(rtp(number))
        assert first.caller.rtp.expect() == [(rtp(number), first.caller.to)]


def test_phones_behind_the_nat_of_the_relay(topology, way, make_call):
    """They are seen at the address that the relay advertises itself."""
    for phone in (topology.caller, topology.callee):
        ip(phone, f"addr add {NAT}/32 dev {phone.name}")
    ip(topology.relay, f"route add {NAT}/32 via {topology.caller.ip}")
    try:
        call = make_call(caller_at=(NAT, 4000))
        call.establish(way)
    finally:
        ip(topology.relay, f"route del {NAT}/32 via {topology.caller.ip}")
        for phone in (topology.caller, topology.callee):
            ip(phone, f"addr del {NAT}/32 dev {phone.name}")


def test_phones_on_loopback_of_a_relay_that_listens_there(topology, way, tmp_path):
    if way is TC:
        pytest.skip("a relay that must have TC does not start on loopback")
    with RunningRelay(tmp_path, *way.options, *OTHER_PORTS, "-l", "127.0.0.1", host=topology.relay) as relay:
        options = {"caller_at": ("127.0.0.1", 4000), "callee_at": ("127.0.0.2", 5000), "relay_host": "127.0.0.1"}
        with Call(relay, topology.relay, topology.relay, **options) as call:
            call.cross(rtp(1))
            call.cross(rtcp(1), is_rtcp=True)


def test_phones_on_loopback_are_learned_by_a_relay_on_all_addresses(relay, topology, make_call):
    call = make_call(
        caller=topology.relay,
        callee=topology.relay,
        caller_at=("127.0.0.1", 4000),
        callee_at=("127.0.0.2", 5000),
        relay_host="127.0.0.1",
    )
    before = relay.totals()["packets received"]
    call.caller.send(rtp(1))
    wait_received(relay, before)
    call.callee.send(rtp(1))
    call.caller.rtp.expect()
    call.cross(rtp(2))


# The operator's list


def test_media_deny_and_allow(topology, way, tmp_path):
    denied_host = topology.add_host(f"management{next(_names)}"[-8:])
    lists = ("--media-deny", "10.0.0.0/8", "--media-allow", "10.0.1.0/24", "--media-allow", "10.0.2.0/24:5000-5001")
    with RunningRelay(tmp_path, *way.options, *OTHER_PORTS, *lists, host=topology.relay) as relay:
        with Call(relay, topology.caller, denied_host, "c1") as call:
            call.caller.send(rtp(1))
            call.callee.send(rtp(1))
            wait_received(relay, 0, 2)
            assert relay.totals()["packets transmitted"] == 0
            assert denied(relay) == 2
            assert call.callee.rtp.take() == call.caller.rtp.take() == []
            assert "c1: nothing is sent to" in relay.log
        with Call(relay, topology.caller, topology.callee, "c2") as call:
            call.establish(way)
            if way is KERNEL:
                with paused(relay):
                    call.cross(rtp(2))
