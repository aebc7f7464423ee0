"""Calls that rules against attackers must not refuse: each of these works with default options, in every tier.

What a call may reach is limited (docs/security.md); these are the addresses that look suspicious and are not.
A hairpin, which is a call through two sessions of one relay: `test_loops.test_a_chain_of_two_sessions_is_no_circle`.
"""

import contextlib
import re
import socket
from dataclasses import dataclass

import pytest

from tests.netns import Topology
from tests.netns_call.call import BOUND, KERNEL, STEERED, Call, allow_refusals, paused, rtcp
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

HELLO = b"hello"


@dataclass(frozen=True)
class Family:
    """What differs between IPv4 and IPv6: names of the tools, and addresses."""

    name: str
    listen: str
    """Option with an address of the relay."""
    nft: str
    public: str
    """Address of a NAT that phones are behind."""
    mapped: str
    """Address that a 1:1 NAT maps to the relay."""
    home: str
    """Network of phones behind a NAT."""
    phones: tuple[str, str]
    """Two phones in it."""
    loopback: str
    everywhere: tuple[str, ...] = ()
    """Options for a relay on all addresses; IPv4 needs none."""
    modifier: str = ""
    bits: int = 32

    def of(self, interface):
        """The address of an interface, or of a phone."""
        return interface.ip6 if self is IPV6 else interface.ip

    def url(self, host):
        return f"[{host}]" if self is IPV6 else host


IPV4 = Family(
    *("ipv4", "-l", "ip", "203.0.113.1", "203.0.113.9", "10.9.0.0/24", ("10.9.0.2", "10.9.0.3")), loopback="127.0.0.1"
)
IPV6 = Family(
    *("ipv6", "-6", "ip6", "2001:db8::1", "2001:db8::9", "fd00:9::/64", ("fd00:9::2", "fd00:9::3")),
    *("::1", ("-6", "*"), "6", 128),
)


@pytest.fixture
def topology():
    with Topology(ipv6=True) as topology:
        allow_refusals(topology.relay)
        yield topology


@pytest.fixture(params=[IPV4, IPV6], ids=lambda family: family.name)
def family(request):
    return request.param


def nft(host, family, *rules):
    """Translate addresses on a host."""
    table = "\n".join((f"table {family.nft} translated {{", *rules, "}"))
    host.run(["nft", "-f", "-"], input=table)


def at(topology, family):
    """Where the phones are, as options of `Call`."""
    return {
        "caller_at": (family.of(topology.caller), 4000),
        "callee_at": (family.of(topology.callee), 5000),
        "relay_host": family.of(topology.caller.gateway),
    }


def talk(call, way):
    """Media and reports cross both ways, in the kernel where they may, and no address was refused.

    Until a phone behind NAT has sent something, nothing can be sent to it, and its NAT lets nothing in.
    """
    for is_rtcp in (False, True):
        wait_for(lambda is_rtcp=is_rtcp: opens(call, is_rtcp), DEADLINE_S, f"both ways, RTCP: {is_rtcp}")
    for number in range(2, 8):
        cross(call, rtp(number))
    if way.is_kernel:
        call.wait_offloaded()
        with paused(call.relay):
            cross(call, rtp(9))
    assert "nothing is sent to" not in call.relay.log


def opens(call, is_rtcp):
    """Send both ways; true once something has come both ways."""
    parties = (call.caller, call.callee)
    ports = [party.rtcp if is_rtcp else party.rtp for party in parties]
    for party, port in zip(parties, ports, strict=True):
        port.send(HELLO, party.to_rtcp if is_rtcp else party.to)
    return all([port.take() for port in ports])


def cross(call, data):
    """Send the same both ways; it arrives, from the address that its receiver sends to, and nothing but hellos."""
    for sender, receiver in ((call.caller, call.callee), (call.callee, call.caller)):
        sender.send(data)
        hear(receiver, data)


def hear(receiver, data):
    """Wait for a packet from where the receiver sends to; nothing else comes but hellos."""
    arrived = []

    def is_heard():
        arrived.extend(receiver.rtp.take())
        return (data, receiver.to) in arrived

    wait_for(is_heard, DEADLINE_S, "a packet")
    assert {one for one, _ in arrived} <= {data, HELLO}


# NAT


def test_phones_behind_the_same_nat_as_the_relay(start, topology, way, family):
    """They signal the NAT's public address, which is the one that the relay advertises, and send from private ones."""
    relay = start(*way.options, family.listen, f"{family.of(topology.caller.gateway)}={family.public}")
    says = {"caller_says": (family.public, 40000), "callee_says": (family.public, 40002)}
    with Call(relay, topology.caller, topology.callee, **at(topology, family), **says) as call:
        talk(call, way)


def test_phones_behind_one_nat(start, topology, way, family):
    """Both come from one address, from ports that the NAT chose. They signal their own addresses, as phones do."""
    relay = start(*way.options, *family.everywhere)
    home = topology.caller
    for address in (*family.phones, family.public):
        home.run(["ip", "addr", "add", f"{address}/{family.bits}", "dev", "lo"])
    topology.relay.run(["ip", "route", "add", f"{family.public}/{family.bits}", "via", family.of(home)])
    nft(
        home,
        family,
        "chain out { type nat hook postrouting priority 100;",
        f"{family.nft} saddr {family.home} udp sport 0-65535 snat to {family.url(family.public)}:40000-49999",
        "}",
    )
    phones = {"caller_at": (family.phones[0], 4000), "callee_at": (family.phones[1], 4000)}
    with Call(relay, home, home, relay_host=family.of(home.gateway), **phones) as call:
        talk(call, way)


def test_relay_behind_a_one_to_one_nat(start, topology, way, family):
    """Replies show the public address, which phones send to; a NAT before the relay leads there from it."""
    ours = family.of(topology.caller.gateway)
    relay = start(*way.options, family.listen, f"{ours}={family.mapped}")
    for phone in (topology.caller, topology.callee):
        # As the box in front of the relay does it.
        nft(
            phone,
            family,
            "chain out { type nat hook output priority -100;",
            f"{family.nft} daddr {family.mapped} dnat to {ours}",
            "}",
        )
    shown = relay.ask(f"U{family.modifier} shown {family.of(topology.caller)} 4000 f")
    assert shown.split()[1:] == [family.mapped, *family.modifier]
    with Call(relay, topology.caller, topology.callee, **at(topology, family) | {"relay_host": family.mapped}) as call:
        talk(call, way)


# This host


def test_pbx_on_the_host_of_the_relay(start, topology, way, family):
    """It signals the host's own address and a port of its own."""
    relay = start(*way.options, *family.everywhere)
    host = family.of(topology.caller.gateway)
    for port in (1024, 5062, 10000):
        options = at(topology, family) | {"callee_at": (host, port)}
        with Call(relay, topology.caller, topology.relay, f"pbx{port}", **options) as call:
            for number in range(1, 20):
                call.cross(rtp(number))
            call.cross(rtcp(1), is_rtcp=True)


@pytest.mark.parametrize("way", [KERNEL, STEERED, BOUND], ids=lambda way: way.name)
def test_phones_on_loopback(start, topology, way, family):
    """A test rig: everything on one host, on the one address that it surely has. The kernel forwards nothing there."""
    host = family.loopback
    relay = start(*way.options, family.listen, host)
    options = {"caller_at": (host, 4000), "callee_at": (host, 5000)}
    with Call(relay, topology.relay, topology.relay, relay_host=host, **options) as call:
        for number in range(1, 20):
            call.cross(rtp(number))
        call.cross(rtcp(1), is_rtcp=True)


# Link-local IPv6


def test_link_local_phones(tmp_path, way):
    """On two networks, where both phones have the same link-local address; the relay's differ."""
    with contextlib.ExitStack() as stack:
        topology = stack.enter_context(Topology(ipv6=True))
        relay = stack.enter_context(RunningRelay(tmp_path, *way.options, "-6", "*", host=topology.relay))
        ports = {
            "callee": relay.port("U6 c fe80::2 4000 f"),
            "caller": relay.port("L6 c fe80::2 4000 f t"),
        }
        parties = {}
        for phone in (topology.caller, topology.callee):
            phone.run(["ip", "addr", "add", "fe80::2/64", "dev", phone.ifname, "nodad"])
            opened = stack.enter_context(phone.socket(socket.AF_INET6))
            opened.bind(("fe80::2", 4000, 0, phone.ifindex))
            opened.settimeout(DEADLINE_S)
            at = link_local(topology.relay, phone.gateway.ifname), ports[phone.name], 0, phone.ifindex
            parties[phone.name] = opened, at
        # The first packet shows by which interface the caller is reached; to where, the relay does not know yet.
        # On its own way it may be slower than the callee's, which the relay could send nowhere: it comes first.
        parties["caller"][0].sendto(rtp(100), parties["caller"][1])
        wait_for(lambda: relay.counters("c f t")["ndropped"] == 1, DEADLINE_S, "the first packet")
        for number in range(1, 20):
            for sender, receiver in (("callee", "caller"), ("caller", "callee")):
                parties[sender][0].sendto(rtp(number), parties[sender][1])
                data, source = parties[receiver][0].recvfrom(2000)
                assert (data, source[:2]) == (rtp(number), parties[receiver][1][:2])


def link_local(host, ifname):
    """The link-local address of an interface."""
    shown = host.run(["ip", "-6", "-o", "addr", "show", "dev", ifname, "scope", "link"]).stdout
    return re.search(r"inet6 (fe80:[0-9a-f:]+)/", shown)[1]
