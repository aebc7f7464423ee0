"""Packets that no phone sends: from addresses that nobody has, wrapped in options, in fragments, or going round.

Each is sent to a call before anybody has spoken in it, when any source would be learned, or in the middle of it.
"""

import pytest
from scapy.all import ICMP, IP, UDP, Ether, ICMPv6PacketTooBig, IPv6, Raw
from scapy.layers.inet import IPOption_LSRR, IPOption_NOP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN, fragment6

from tests.hostile.stage import ATTACKER, CALLER, CALLER_MOVED, STOLEN, UNUSED, check_stream, drain
from tests.netns_call.call import DEADLINE_S, PhonePort, rtcp
from tests.running import rtp
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

OUR_HOSTS = ("10.0.1.1", "10.0.2.1", "127.0.0.1")
NOBODY = ("0.0.0.0", "255.255.255.255", "224.0.0.1", "10.0.1.255", "127.9.9.9")
OUR_HOSTS_6 = ("::1",)
"""Linux takes in IPv6 packets that others send in the name of our other addresses."""
NOBODY_6 = ("::", "ff02::1", "::ffff:10.0.1.1")


def heard(call):
    """Packets that the call accepted from anybody."""
    quote = call.quote()
    return quote["npkts_ina"] + quote["npkts_ino"]


def attack_both(stage, call, make):
    """Send what `make` makes for the port that each party sends to, RTP and RTCP."""
    for party in (call.caller, call.callee):
        stage.attacker.inject(*make(party.to), *make(party.to_rtcp))


def is_unheard(stage, call, before):
    """The relay has taken in what was sent before, and none of it counts."""
    stage.settle()
    stage.attacker.rtp.send(b"last", ("10.0.3.1", 9))  # behind the attack, on the same way
    stage.settle()
    return heard(call) == before


# Forged sources


def sources(to, call):
    """Addresses that are ours or nobody's, with ports that are interesting: the call's own, and well-known ones."""
    ours, nobody = (OUR_HOSTS_6, NOBODY_6) if ":" in to[0] else (OUR_HOSTS, NOBODY)
    ports = (*call.ports, 22222, 5060, 53, 0)
    return [(host, port) for host in ours for port in ports] + [(host, 4000) for host in nobody]


@pytest.mark.parametrize("family", [4, 6])
def test_our_own_addresses_are_not_learned(stage, family):
    """Who could be taken for a phone there is the relay itself: its control socket, or another port of the call."""
    caller, callee = stage.topology.caller, stage.topology.callee
    at = {"caller_at": (caller.ip6, 4000), "callee_at": (callee.ip6, 5000)} if family == 6 else {}
    with stage.call(**at) as call:
        attack_both(stage, call, lambda to: [stage.attacker.frame(to, source=source) for source in sources(to, call)])
        assert is_unheard(stage, call, 0)
        call.establish(stage.way)
        before = heard(call)
        attack_both(stage, call, lambda to: [stage.attacker.frame(to, source=source) for source in sources(to, call)])
        assert is_unheard(stage, call, before)
        stage.goes_on(call, number=10)


def test_a_call_with_itself_ends(stage):
    """A command names the session's own ports as its phones."""
    with stage.call() as call:
        host = call.caller.to[0]
        call.update(host, call.caller.to[1])
        call.lookup(host, call.callee.to[1])
        for party in (call.caller, call.callee):
            party.send(rtp(1))
            party.send_rtcp(rtcp(1))
        for _ in range(2):
            before = stage.relay.totals()["packets received"]
            for _ in range(20):
                stage.settle()
        assert stage.relay.totals()["packets received"] == before, "packets go round"
        assert stage.attacker.has_nothing()


# Other headers


def with_options(stage, to):
    if ":" in to[0]:
        headers = (
            IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]),
            IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]),
            IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
        )
        return [stage.attacker.frame(to, between=header) for header in headers]
    options = ([IPOption_NOP()] * 4, [IPOption_Router_Alert()], [IPOption_LSRR(routers=[CALLER])])
    return [stage.attacker.frame(to, options=one) for one in options]


def in_fragments(stage, to):
    if ":" in to[0]:
        frame = Ether(stage.attacker.frame(to, STOLEN, between=IPv6ExtHdrFragment(id=7)))
        pieces = [Ether(src=frame.src, dst=frame.dst) / piece for piece in fragment6(frame[IPv6], 150)]
    else:
        pieces = fragment(Ether(stage.attacker.frame(to, STOLEN, id=7)), fragsize=64)
    assert len(pieces) > 1
    return list(map(bytes, pieces))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("make", [with_options, in_fragments])
def test_a_stranger_is_not_heard_in_other_headers_either(stage, make, family):
    with stage.established_ipv6() if family == 6 else stage.established() as call:
        before = heard(call)
        for _ in range(3):
            attack_both(stage, call, lambda to: make(stage, to))
        assert is_unheard(stage, call, before)
        stage.goes_on(call, number=10)


# Control messages of IP


def test_icmp_errors_end_no_stream(stage):
    """Somebody says, in the name of a phone, that it is not there, or that its link takes small packets only."""
    with stage.established() as call:
        host, port = call.caller.to
        quoted = IP(src=host, dst=CALLER, id=7) / UDP(sport=port, dport=4000) / Raw(STOLEN[:8])
        ethernet = Ether(src=stage.attacker.host.mac, dst=stage.attacker.host.gateway.mac)
        for error in (*(ICMP(type=3, code=code) for code in (0, 1, 2, 3, 13)), ICMP(type=3, code=4, nexthopmtu=68)):
            for source in (CALLER, ATTACKER):
                stage.attacker.inject(bytes(ethernet / IP(src=source, dst=host) / error / quoted))
        stage.settle()
        call.cross(rtp(9, payload=bytes(1300)))
        stage.goes_on(call, number=10)


def test_icmpv6_errors_end_no_stream(stage):
    with stage.established_ipv6() as call:
        host, port = call.caller.to
        phone = stage.topology.caller.ip6
        quoted = IPv6(src=host, dst=phone) / UDP(sport=port, dport=4000) / Raw(STOLEN[:8])
        ethernet = Ether(src=stage.attacker.host.mac, dst=stage.attacker.host.gateway.mac)
        for source in (phone, stage.attacker.host.ip6):
            error = IPv6(src=source, dst=host) / ICMPv6PacketTooBig(mtu=1280) / quoted
            stage.attacker.inject(bytes(ethernet / error))
        stage.settle()
        call.cross(rtp(9, payload=bytes(1350)))
        stage.goes_on(call, number=10)


# Commands in media


def test_commands_in_media_are_media(stage):
    """A media port takes no commands, whoever sends them; they reach the other phone, and nobody else."""
    with stage.established() as call:
        for command in (b"X", b"1 X", f"1 D {call.tags}".encode()):
            call.cross(command)
            call.cross(command, is_rtcp=True)
            stage.attacker.fail(call.caller, command)
        stage.goes_on(call, number=10)


# Floods


def flood(stage, call, kind):
    """Frames of a flood against a call's ports, from the attacker's own address."""
    attacker, to = stage.attacker, call.caller.to
    match kind:
        case "plain":
            return [attacker.frame(to)]
        case "rtcp":
            return [attacker.frame(call.caller.to_rtcp, rtcp(0xBAD))]
        case "options" | "extension headers":
            return with_options(stage, to)[:2]
        case "fragments":
            return in_fragments(stage, to)
        case "first fragments only":
            return in_fragments(stage, to)[:1]
        case "last fragments only":
            return in_fragments(stage, to)[1:]
        case _:  # every port of the relay, one after the other
            return [attacker.frame((to[0], 35000 + number)) for number in range(500)]


KINDS = {
    4: ("plain", "rtcp", "options", "fragments", "first fragments only", "last fragments only", "ports"),
    6: ("plain", "extension headers", "fragments"),
}


@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family, kinds in KINDS.items() for kind in kinds])
def test_a_call_gets_through_a_flood(stage, family, kind):
    """What the kernel forwards loses nothing. Userspace may lose some of a call's packets, but not the call."""
    with stage.established_ipv6() if family == 6 else stage.established() as call:
        with stage.attacker.flooding(*flood(stage, call, kind)):
            for sender, receiver in ((call.caller, call.callee), (call.callee, call.caller)):
                check_stream(stage.way, sender, receiver)
        number = UNUSED if stage.way.is_kernel else drain(call)
        stage.goes_on(call, number=number)


@pytest.mark.parametrize("kind", ["plain", "options", "fragments"])
def test_a_phone_that_moves_is_heard_during_a_flood(stage, kind):
    """It goes on with its SSRC and its numbers from another address, and gets the other phone's media there."""
    with stage.established() as call, PhonePort(stage.topology.caller, CALLER_MOVED, 4000) as moved:
        from_moved, to_moved = rtp(2, payload=b"from the new address"), rtp(2, payload=b"to the new address")

        def is_heard():
            moved.send(from_moved, call.caller.to)
            return from_moved in payloads(call.callee.rtp)

        def is_reached():
            call.callee.send(to_moved)
            return to_moved in payloads(moved)

        with stage.attacker.flooding(*flood(stage, call, kind)):
            wait_for(is_heard, DEADLINE_S, "the phone to be heard at its new address")
            wait_for(is_reached, DEADLINE_S, "the phone to be reached at its new address")
        call.caller.rtp.take()  # what was under way when the phone moved
        to_moved = rtp(2, payload=b"to the new address alone")
        wait_for(is_reached, DEADLINE_S, "the phone to be reached where it is")
        assert call.caller.rtp.take() == []
        assert stage.attacker.has_nothing()


def payloads(port):
    """Take what has arrived, without the sources."""
    return [data for data, _ in port.take()]
