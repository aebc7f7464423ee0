"""A call reaches phones and nothing else: what a command names, and what a packet teaches, in every way to relay."""

import contextlib
import itertools
import re

import pytest

from tests.netns import Topology
from tests.netns_call.call import BOUND, DEADLINE_S, TC, WAYS, Call, PhonePort, allow_refusals, ip, paused, rtcp
from tests.netns_call.dual_stack.families import EVERYWHERE
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

CONTROL_PORT = 22222
KILL_ALL = b"cookie X"
OWN, OWN_ELSEWHERE = "10.0.1.1", "10.0.2.1"
OWN6, OWN6_ELSEWHERE = "fd00:0:1::1", "fd00:0:2::1"
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


@pytest.mark.parametrize("host", [OWN, OWN_ELSEWHERE, OWN6, OWN6_ELSEWHERE])
def test_a_call_that_passes_the_relay_twice(relay, topology, make_call, host):
    """Two sessions that name each other's ports on an address of ours, as a SIP proxy makes them of a hairpin."""
    phones = [phone.ip6 if ":" in host else phone.ip for phone in (topology.caller, topology.callee)]
    first, second = (
        make_call(caller_at=(phones[0], 4000 + more), callee_at=(phones[1], 5000 + more)) for more in (0, 100)
    )
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


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [(("-l", "127.0.0.1"), ("127.0.0.1", "127.0.0.2")), (("-6", "::1"), ("::1", "::1"))],
    ids=["ipv4", "ipv6"],
)
def test_phones_on_loopback_of_a_relay_that_listens_there(topology, way, tmp_path, listen, hosts):
    if way is TC:
        pytest.skip("a relay that must have TC does not start on loopback")
    with RunningRelay(tmp_path, *way.options, *OTHER_PORTS, *listen, host=topology.relay) as relay:
        options = {"caller_at": (hosts[0], 4000), "callee_at": (hosts[1], 5000), "relay_host": hosts[0]}
        with Call(relay, topology.relay, topology.relay, **options) as call:
            call.cross(rtp(1))
            call.cross(rtcp(1), is_rtcp=True)


@pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.2"), ("::1", "::1")], ids=["ipv4", "ipv6"])
def test_phones_on_loopback_are_learned_by_a_relay_on_all_addresses(relay, topology, make_call, hosts):
    call = make_call(
        caller=topology.relay,
        callee=topology.relay,
        caller_at=(hosts[0], 4000),
        callee_at=(hosts[1], 5000),
        relay_host=hosts[0],
    )
    before = relay.totals()["packets received"]
    call.caller.send(rtp(1))
    wait_received(relay, before)
    call.callee.send(rtp(1))
    call.caller.rtp.expect()
    call.cross(rtp(2))


# Loopback that a command chooses for the relay's ports (modifier `l`)


class RigCall(Call):
    """A call of a test rig on the relay's host, whose commands choose our address with a modifier."""

    def __init__(self, relay, topology, name, host, modifier):
        self._modifier = modifier
        at = {"caller_at": (host, 4000), "callee_at": (host, 5000)}
        super().__init__(relay, topology.relay, topology.relay, name, **at, relay_host=host)

    def _families(self, host, peer_at):
        return super()._families(host, peer_at) + self._modifier


LOOPBACKS = pytest.mark.parametrize(
    ("host", "modifier"),
    [("127.0.0.1", "l127.0.0.1"), ("127.0.0.1", "l{rig}"), ("::1", "l[::1]"), ("::1", "l{rig6}")],
)


def refusals(relay, call):
    """What the log tells of addresses that a call does not send to."""
    return re.findall(rf" {call}: nothing is sent to (\S+):\d+(.*)$", relay.log, re.MULTILINE)


@LOOPBACKS
def test_loopback_is_for_sessions_whose_own_address_is_loopback(topology, way, tmp_path, host, modifier):
    """One among other addresses that the relay listens on. Sessions beside it have no part in that."""
    listen = (*EVERYWHERE, "-l", "rig@127.0.0.1", "-6", "rig6@::1")
    shown, family, ours = (f"[{host}]", "6", f"[{OWN6}]") if ":" in host else (host, "", OWN)
    with (
        RunningRelay(tmp_path, *way.options, *OTHER_PORTS, *listen, host=topology.relay) as relay,
        RigCall(relay, topology, "rig", host, modifier) as rig,
    ):
        rig.cross(rtp(1))
        rig.cross(rtcp(1), is_rtcp=True)
        assert refusals(relay, "rig") == []
        with Call(relay, topology.caller, topology.callee, "beside", callee_says=(host, 5000)) as call:
            assert refusals(relay, "beside") == [(shown, ", which a command named: a loopback address")]
            call.callee.send(rtp(1))
            call.caller.rtp.expect()
            call.establish(way)
            call.lookup(host, 5000)
            assert len(refusals(relay, "beside")) == 2
            call.cross(rtp(2))
        # Its ports for the callee move to an address that is not loopback.
        relay.port(f"Un{family}l{ours} rig {host} 4000 f")
        assert refusals(relay, "rig") == [(shown, " any more: a loopback address")] * 2
        before, denied_before = relay.totals()["packets received"], denied(relay)
        rig.caller.send(rtp(3))
        wait_received(relay, before)
        assert denied(relay) == denied_before + 1
        assert rig.callee.rtp.take() == []


@pytest.mark.parametrize(("host", "modifier"), [("127.0.0.1", "l127.0.0.1"), ("::1", "l[::1]")])
def test_commands_alone_do_not_make_loopback_a_destination(relay, topology, host, modifier):
    """A relay that was not told to listen there: SIP proxies take such an address from messages (modifier `r`).

    Whoever sends from there is on this host, and is learned.
    """
    shown = f"[{host}]" if ":" in host else host
    with RigCall(relay, topology, f"c{next(_names)}", host, modifier) as rig:
        assert refusals(relay, rig.name) == [(shown, ", which a command named: a loopback address")] * 2
        before, denied_before = relay.totals()["packets received"], denied(relay)
        rig.callee.send(rtp(1))
        rig.callee.send_rtcp(rtcp(1))
        wait_received(relay, before, 2)
        assert denied(relay) == denied_before + 2
        assert rig.caller.rtp.take() == rig.caller.rtcp.take() == []
        rig.caller.send(rtp(2))
        assert rig.callee.rtp.expect() == [(rtp(2), rig.callee.to)]
        rig.cross(rtp(3))
        assert relay.ask(f"D {rig.tags}") == "0"


# The operator's lists


LISTS = {
    4: (
        *("--media-deny", "10.0.0.0/8", "--media-allow", "10.0.1.0/24", "--media-allow", "10.0.2.0/24:5000-5003"),
        *("--media-deny", "10.0.2.0/24:5002-5003"),
    ),
    6: (
        *("--media-deny", "fd00::/16", "--media-allow", "fd00:0:1::/64"),
        *("--media-allow", "[fd00:0:2::/64]:5000-5003", "--media-deny", "[fd00:0:2::]/64:5002-5003"),
    ),
}
"""The caller's network is allowed, and two ports of the callee's: where two are alike, the one that denies decides."""


@pytest.mark.parametrize("family", [4, 6])
def test_media_deny_and_allow(topology, way, tmp_path, family):
    """The longest prefix decides: on what commands name and what packets teach, also in a call under way."""
    management = topology.add_host(f"management{next(_names)}"[-8:])

    def at(phone, port):
        return phone.ip6 if family == 6 else phone.ip, port

    caller, callee = topology.caller, topology.callee
    listed = (*LISTS[family], *EVERYWHERE)
    with RunningRelay(tmp_path, *way.options, *OTHER_PORTS, *listed, host=topology.relay) as relay:
        for name, phone, port, rule in (
            ("wide", management, 5000, {4: "10.0.0.0/8", 6: "fd00::/16"}[family]),
            ("tied", callee, 5002, {4: "10.0.2.0/24:5002-5003", 6: "[fd00:0:2::/64]:5002-5003"}[family]),
            ("other", callee, 5004, {4: "10.0.0.0/8", 6: "fd00::/16"}[family]),
        ):
            before, denied_before = relay.totals(), denied(relay)
            with Call(relay, caller, phone, name, caller_at=at(caller, 4000), callee_at=at(phone, port)) as call:
                call.caller.send(rtp(1))
                call.callee.send(rtp(1))
                wait_received(relay, before["packets received"], 2)
                assert relay.totals()["packets transmitted"] == before["packets transmitted"]
                assert denied(relay) == denied_before + 2
                assert call.callee.rtp.take() == call.caller.rtp.take() == []
                assert [why for _, why in refusals(relay, name)] == [f", which a command named: --media-deny {rule}"]
        with Call(relay, caller, callee, caller_at=at(caller, 4000), callee_at=at(callee, 5000)) as call:
            call.establish(way)
            assert refusals(relay, call.name) == []
            call.lookup(*at(management, 5000))
            call.lookup(*at(callee, 5002))
            assert len(refusals(relay, call.name)) == 2
            call.cross(rtp(2))
            if way.is_kernel:
                call.wait_offloaded()
                with paused(relay):
                    call.cross(rtp(3))
