"""Calls of every pair of families: the kernel takes them over, and frames are the same to the byte in every tier."""

import itertools
import socket
import time

import pytest
from scapy.all import ICMP, IP, Ether, ICMPv6EchoRequest, IPv6, Raw

from rtpproxy.offload.programs import OTHERS_PER_SECOND
from tests.netns_call.call import (
    DEADLINE_S,
    ETH_P_IP,
    ETH_P_IPV6,
    Call,
    Tap,
    kernel_only,
    paused,
    relayed_frame,
    rtcp,
    sent_frame,
    verdicts,
)
from tests.netns_call.dual_stack.families import EVERYWHERE, addresses, pairs
from tests.running import rtp
from tests.waiting import wait_for

MTU = 1500


@pairs
def test_calls(call, relay, way, pair):
    call.establish(way)
    for number, size in enumerate((0, 1, 2, 159, 160, 161, 1300, 1401), 2):
        call.cross(rtp(number, payload=bytes(size)))
        call.cross(rtcp(number) + bytes(size // 4 * 4), is_rtcp=True)
    if way.is_kernel:
        with paused(relay):
            for number in range(20, 60):
                call.cross(rtp(number))
                call.cross(rtcp(number), is_rtcp=True)
    quote = call.quote()
    assert quote["npkts_ina"] == quote["npkts_ino"] == (49 if way.is_kernel else 9)
    assert call.caller.rtp.tos == call.callee.rtp.tos == {0xB8}
    assert relay.stop() == 0
    if way.is_kernel:
        assert relay.forwarded() >= 160


def frames_of(pair, way_out):
    return ETH_P_IPV6 if pair[way_out] else ETH_P_IP


@pairs
@pytest.mark.parametrize("sender", ["caller", "callee"])
def test_whole_frames(call, topology, way, pair, sender):
    """Whatever the sender wrote into its header, what leaves is what a socket of the relay would send."""
    call.establish(way)
    from_caller = sender == "caller"
    phone, other_phone = (topology.caller, topology.callee) if from_caller else (topology.callee, topology.caller)
    party, other = (call.caller, call.callee) if from_caller else (call.callee, call.caller)
    is_ipv6 = ":" in party.to[0]
    odd = {"hlim": 7, "tc": 0xFF, "fl": 0xABCDE} if is_ipv6 else {"ttl": 7, "tos": 0xFF, "id": 0x4321, "flags": 0}
    with (
        Tap(phone, ETH_P_IPV6 if is_ipv6 else ETH_P_IP) as here,
        Tap(other_phone, frames_of(pair, from_caller)) as there,
    ):
        for number, size in enumerate((0, 1, 7, 160, 1201)):
            payload = rtp(100 + number, payload=bytes(range(256)) * 5)[: 12 + size]
            here.send(sent_frame(phone, party.rtp.address, party.to, payload, **odd))
            frame = there.expect(lambda frame, payload=payload: frame.endswith(payload))
            # The identification is the socket's or the sender's own; nobody needs it where DF is set (RFC 6864).
            identification = 0 if ":" in other.to[0] else int.from_bytes(frame[18:20])
            assert frame == relayed_frame(other_phone, other.to, other.rtp.address, payload, identification)


@pytest.mark.parametrize("pair", [(False, True)], ids=["4-6"])
@pytest.mark.parametrize("size", [0, 1, 160, 1399])
def test_absent_checksum_becomes_one_in_ipv6(call, topology, way, pair, size):
    call.establish(way)
    payload = rtp(9, payload=bytes(index % 251 for index in range(size)))
    with Tap(topology.caller) as here, Tap(topology.callee, ETH_P_IPV6) as there:
        here.send(sent_frame(topology.caller, call.caller.rtp.address, call.caller.to, payload, chksum=0))
        frame = there.expect(lambda frame: frame.endswith(payload))
    assert frame == relayed_frame(topology.callee, call.callee.to, call.callee.rtp.address, payload, 0)


@pytest.mark.parametrize("pair", [(False, True)], ids=["4-6"])
def test_what_grows_over_the_mtu_is_fragmented_by_a_socket(call, relay, way, pair):
    """It fits with an IPv4 header, and not with an IPv6 header."""
    call.establish(way)
    for payload in (bytes(MTU - 28 - 12), bytes(MTU - 48 - 12 + 1), bytes(MTU - 48 - 12)):
        data = rtp(2, payload=payload)
        call.caller.send(data)
        assert call.callee.rtp.expect() == [(data, call.callee.to)]
    assert relay.stop() == 0
    if way.is_kernel:
        assert verdicts(relay)["up_too_long"] == 2


class MarkedCall(Call):
    """The answer asks for a DSCP towards the callee; its ECN bits are not sent."""

    def lookup(self, host, port):
        families = self._families(host, self._caller_at)
        reply = self.relay.ask(f"L{families} {self.name} {host} {port} f t && S tos=43")
        return int(reply.split()[0])


@pairs
def test_dscp_of_one_party(relay, topology, way, pair):
    with MarkedCall(relay, topology.caller, topology.callee, **addresses(topology, pair)) as call:
        call.establish(way)
        for number in range(2, 6):
            call.cross(rtp(number))
        assert sorted((*call.caller.rtp.tos, *call.callee.rtp.tos)) == [40, 0xB8]


@kernel_only
@pairs
def test_a_flood_is_dropped_in_the_kernel(call, topology, relay, way, pair):
    stranger = topology.add_host("stranger")
    wait_for(lambda: "to-stranger: kernel, " in relay.log, DEADLINE_S, "the stranger's interface to be attached")
    call.establish(way)
    source = (stranger.ip6 if pair[0] else stranger.ip, 6000)
    started = time.monotonic()
    with paused(relay), Tap(stranger, ETH_P_IPV6 if pair[0] else ETH_P_IP) as tap:
        for number in range(300):
            tap.send(sent_frame(stranger, source, call.caller.to, rtp(number, ssrc=0xBAD)))
        call.cross(rtp(2))
    seconds = time.monotonic() - started
    assert relay.stop() == 0
    counts = verdicts(relay)
    assert counts["dropped_other_source"] >= 300 - (2 + seconds) * OTHERS_PER_SECOND, counts


def test_what_a_phone_sends_decides_its_family(relay, topology, way):
    """It signals IPv6 to a port of ours that is IPv4's, and sends IPv4 (protocol.md 7.4)."""
    caller, callee = topology.caller, topology.callee
    with Call(relay, caller, callee, callee_says=("192.0.2.77", 5000)) as call:
        assert relay.ask(f"U6r{callee.ip} {call.name} {caller.ip6} 4000 f").split()[0] == str(call.callee.to[1])
        call.caller.send(rtp(1))
        call.callee.send(rtp(1))
        wait_for(lambda: call.quote()["npkts_ino"] == call.quote()["npkts_ina"] == 1, DEADLINE_S, "both to be heard")
        call.caller.rtp.take(), call.callee.rtp.take()
        for number in range(2, 6):
            call.cross(rtp(number))
        if way.is_kernel:
            call.wait_offloaded(*call.rtp_ports)
            with paused(relay):
                call.cross(rtp(9))


# Addresses and bridging

BRIDGES = {
    "4/4": (("-l", "10.0.1.1/10.0.2.1"), (False, False)),
    "6/6": (("-6", "fd00:0:1::1/fd00:0:2::1"), (True, True)),
    "4/6": (("-l", "10.0.1.1", "-6", "/fd00:0:2::1"), (False, True)),
}


@pytest.mark.parametrize("name", BRIDGES)
@pytest.mark.parametrize("advertised", [(), ("-A", "192.0.2.10/192.0.2.20")], ids=["", "advertised"])
def test_bridging(start, topology, way, name, advertised):
    """The caller is inside, the callee outside, by `ie`; an answer takes `ei`."""
    options, pair = BRIDGES[name]
    relay = start(*way.options, *options, *advertised, "--bridge_symmetric")
    caller, callee = topology.caller, topology.callee
    caller_host, callee_host = caller.ip6 if pair[0] else caller.ip, callee.ip6 if pair[1] else callee.ip
    hosts = (
        ("192.0.2.10", "192.0.2.20")
        if advertised
        else (
            caller.gateway.ip6 if pair[0] else caller.gateway.ip,
            callee.gateway.ip6 if pair[1] else callee.gateway.ip,
        )
    )

    class Bridged(Call):
        def update(self, host, port):
            return self._port(f"Uie{'6' if pair[0] else ''} {self.name} {host} {port} f", hosts[1])

        def lookup(self, host, port):
            return self._port(f"Lei{'6' if pair[1] else ''} {self.name} {host} {port} f t", hosts[0])

        def _port(self, command, shown):
            reply = self.relay.ask(command).split()
            assert reply[1] == shown, reply
            return int(reply[0])

    with Bridged(relay, caller, callee, caller_at=(caller_host, 4000), callee_at=(callee_host, 5000)) as call:
        call.establish(way)
        for number in range(2, 8):
            call.cross(rtp(number))
            call.cross(rtcp(number), is_rtcp=True)
        if way.is_kernel:
            with paused(relay):
                call.cross(rtp(9))


def test_labels_choose_addresses_of_both_families(start, topology, way):
    """Each has ports of its own: the same number serves four calls."""
    relay = start(
        *(*way.options, "-m", "20000", "-M", "20001", "-F"),
        *("-l", "a@10.0.1.1", "-l", "b@10.0.2.1=192.0.2.99", "-6", "c@fd00:0:1::1", "-6", "d@fd00:0:2::1"),
    )
    shown = {"a": "10.0.1.1", "b": "192.0.2.99", "c": "fd00:0:1::1 6", "d": "fd00:0:2::1 6"}
    replies = {label: relay.ask(f"Ul{{{label}}} {label} 192.0.2.7 4000 f") for label in shown}
    assert {label: reply.partition(" ")[2] for label, reply in replies.items()} == shown
    assert {reply.split()[0] for reply in replies.values()} == {"20000"}


# Packets that are not the relay's


def assert_echo(phone, host):
    """A large ICMP echo is answered, to the byte."""
    data = bytes(index % 251 for index in range(1400))
    ethernet = Ether(src=phone.mac, dst=phone.gateway.mac)
    if ":" in host:
        kind, request = ETH_P_IPV6, IPv6(src=phone.ip6, dst=host) / ICMPv6EchoRequest(id=7, data=data)
    else:
        kind, request = ETH_P_IP, IP(src=phone.ip, dst=host) / ICMP(id=7) / Raw(data)
    with Tap(phone, kind) as tap:
        tap.send(bytes(ethernet / request))
        tap.expect(
            lambda frame: frame.endswith(data) and frame[6:12] == bytes.fromhex(phone.gateway.mac.replace(":", ""))
        )


@kernel_only
def test_traffic_of_others_is_left_alone(start, topology, way):
    """TCP, ICMP and UDP of both families to the relay's host, to the byte; and what the host routes."""
    relay = start(*way.options, *EVERYWHERE)
    phone = topology.caller
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        for family, host in ((socket.AF_INET, phone.gateway.ip), (socket.AF_INET6, phone.gateway.ip6)):
            sent = bytes(itertools.islice(itertools.cycle(range(251)), 100_000))
            listener = topology.relay.socket(family, socket.SOCK_STREAM)
            listener.bind((host, 5060))
            listener.listen()
            client = phone.socket(family, socket.SOCK_STREAM)
            client.settimeout(DEADLINE_S)
            client.connect((host, 5060))
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            server, _ = listener.accept()
            with client, server, listener:
                received = bytearray()
                while part := server.recv(65536):
                    received += part
            assert bytes(received) == sent
            assert_echo(phone, host)
            with topology.relay.socket(family) as sip, phone.socket(family) as agent:
                sip.bind((host, 5060))
                sip.settimeout(DEADLINE_S)
                for size in (0, 1, 1200, 9000):
                    agent.sendto(sent[:size], (host, 5060))
                    assert sip.recv(65536) == sent[:size]
        call.cross(rtp(3))
