"""Calls over IPv6 and between the families look the same to phones in every tier."""

import re
import socket

from tests.running import rtp
from tests.waiting import DEADLINE_S, wait_for


class Party:
    """A phone's RTP port, and the relay's address and port that it sends to."""

    def __init__(self, phone, host, to_host, to_port):
        is_ipv6 = ":" in host
        # A link-local address means nothing without the interface.
        self._zone = (0, phone.ifindex) if host.startswith("fe80:") else ()
        self._socket = phone.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
        self._socket.bind((host, 4000, *self._zone))
        self._socket.setblocking(False)
        self._to = to_host, to_port

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, data):
        self._socket.sendto(data, (*self._to, *self._zone))

    def expect(self, data):
        """This and nothing else arrives, from where this party sends to."""

        def receive():
            try:
                return self._socket.recvfrom(70_000)
            except BlockingIOError:
                return None

        arrived, source = wait_for(receive, DEADLINE_S, "a packet")
        assert (arrived, source[:2]) == (data, self._to)
        assert receive() is None


def port(relay, command):
    reply = relay.ask(command)
    assert re.match(r"\d+\b", reply), f"{command} -> {reply}"
    return int(reply.split()[0])


def talk(caller, callee):
    """Packets of several sizes both ways, each way learned by its first."""
    for number, payload in enumerate([b"\xd5" * 160, b"", b"\xd5" * 161, bytes(1300), bytes(7000)]):
        data = rtp(number, payload=payload)
        for sender, receiver in ((caller, callee), (callee, caller)):
            sender.send(data)
            receiver.expect(data)


def test_call_over_ipv6(relay, topology):
    caller, callee = topology.caller, topology.callee
    for_callee = port(relay, f"U6 c {caller.ip6} 4000 f")
    for_caller = port(relay, f"L6 c {callee.ip6} 4000 f t")
    with (
        Party(caller, caller.ip6, caller.gateway.ip6, for_caller) as one,
        Party(callee, callee.ip6, callee.gateway.ip6, for_callee) as other,
    ):
        talk(one, other)


def test_call_between_the_families(relay, topology):
    """Each side is told by `r`, as for two families it must be (protocol.md 7.4)."""
    caller, callee = topology.caller, topology.callee
    for_callee = port(relay, f"Ur[{callee.ip6}] c {caller.ip} 4000 f")
    for_caller = port(relay, f"L6r{caller.ip} c {callee.ip6} 4000 f t")
    with (
        Party(caller, caller.ip, caller.gateway.ip, for_caller) as one,
        Party(callee, callee.ip6, callee.gateway.ip6, for_callee) as other,
    ):
        talk(one, other)


def link_local(host, interface):
    shown = host.run(["ip", "-6", "-o", "addr", "show", "dev", interface.ifname, "scope", "link"]).stdout
    return re.search(r"inet6 (fe80:[0-9a-f:]+)/", shown)[1]


def test_phones_on_link_local_addresses(relay, topology):
    """They are answered through the interface that they are heard on, and both may have the same address."""
    parties = []
    for_callee = port(relay, "U6 c fe80::2 4000 f")
    for_caller = port(relay, "L6 c fe80::2 4000 f t")
    for phone, to_port in ((topology.caller, for_caller), (topology.callee, for_callee)):
        phone.run(["ip", "addr", "add", "fe80::2/64", "dev", phone.ifname, "nodad"])
        parties.append(Party(phone, "fe80::2", link_local(topology.relay, phone.gateway), to_port))
    with parties[0] as one, parties[1] as other:
        one.send(rtp(100))  # the callee's zone is not known yet
        other.send(rtp(1))
        one.expect(rtp(1))
        talk(other, one)
