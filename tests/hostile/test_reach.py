"""A call reaches phones, nothing else: attempts to make the relay send to itself, to its host, or to everybody.

What a caller signals, and what packets teach, is tried in every way that there is; each attempt is refused, and the
call goes on as if no address had been given.
"""

import contextlib
import itertools
import re
import socket
from ipaddress import ip_address

import pytest

from rtpproxy.addr import Endpoint
from tests.hostile.stage import CONTROL_PORT, STOLEN
from tests.netns_call.call import DEADLINE_S, PhonePort, Tap, rtcp
from tests.running import rtp
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

OUR_HOSTS = ("127.0.0.1", "127.9.9.9", "10.0.1.1", "10.0.2.1")
OUR_HOSTS_6 = ("::1", "fd00:0:1::1", "fd00:0:2::1")
CLOSED_PORTS = (53, 1023, 5060, 5061)
OPEN_ON_LOOPBACK = 10000
GROUPS = ("224.0.0.1", "239.1.2.3", "255.255.255.255", "10.0.1.255", "10.0.2.255")
GROUPS_6 = ("ff02::1", "ff05::1:3")
BY_RULE = {
    4: {
        ("127.0.0.1", OPEN_ON_LOOPBACK): "a loopback address",
        ("127.0.0.1", CONTROL_PORT): "a control socket of this relay",
        ("10.0.1.1", CONTROL_PORT): "a control socket of this relay",
        ("10.0.2.1", 53): "a port below 1024 of this host",
        ("10.0.2.1", 5060): "a SIP port of this host",
        ("0.1.2.3", 4000): "an unspecified address",
        ("239.1.2.3", 4000): "a multicast address",
        ("10.0.1.255", 4000): "a broadcast address",
        ("255.255.255.255", 4000): "a broadcast address",
        ("0.0.0.0", 4000): "",
    },
    6: {
        ("::1", OPEN_ON_LOOPBACK): "a loopback address",
        ("::1", CONTROL_PORT): "a control socket of this relay",
        ("fd00:0:2::1", CONTROL_PORT): "a control socket of this relay",
        ("fd00:0:1::1", 53): "a port below 1024 of this host",
        ("fd00:0:1::1", 5060): "a SIP port of this host",
        ("ff02::1", 4000): "a multicast address",
        ("::ffff:10.0.1.1", 4000): "an IPv4-mapped address",
        ("::", 4000): "",
    },
}
"""Endpoints by the rule that refuses them, by family. The last is a hold, which is no attempt: no rule is named."""

_numbers = itertools.count(1)


def endpoints(family):
    """Where a call must not send to. The RTCP port that belongs to the last but one is a control socket's."""
    hosts, groups = (OUR_HOSTS, GROUPS) if family == 4 else (OUR_HOSTS_6, GROUPS_6)
    loopback = [host for host in hosts if host == "::1" or host.startswith("127.")]
    return [
        *((host, port) for host in hosts for port in (CONTROL_PORT, CONTROL_PORT - 1, *CLOSED_PORTS)),
        *((host, OPEN_ON_LOOPBACK) for host in loopback),
        *((group, 4000) for group in groups),
    ]


class Trap:
    """Everything on the relay's host that a call must not reach, and links on which nothing is for everybody."""

    def __init__(self, stage, family):
        self._stage = stage
        self._stack = contextlib.ExitStack()
        kind, host, link = (socket.AF_INET, "0.0.0.0", 0x0800) if family == 4 else (socket.AF_INET6, "::", 0x86DD)
        self._sockets = []
        for port in (*CLOSED_PORTS, OPEN_ON_LOOPBACK, OPEN_ON_LOOPBACK + 1):
            opened = self._stack.enter_context(stage.topology.relay.socket(kind))
            opened.bind((host, port))
            opened.setblocking(False)
            self._sockets.append(opened)
        phones = (stage.topology.caller, stage.topology.callee)
        self._taps = [self._stack.enter_context(Tap(phone, link)) for phone in phones]
        # A call that nothing happens to, unless the control socket is reached and told to end all calls.
        self._stack.enter_context(stage.call(caller_at=("198.51.100.2", 4400), callee_at=("203.0.113.2", 5500)))
        self._sessions = stage.relay.totals()["active sessions"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def is_sprung(self, payload, sessions):
        """Describe what came where it must not; empty if nothing did. There must be so many sessions beside ours."""
        found = [f"port {one.getsockname()[1]}" for one in self._sockets if _take(one)]
        frames = [frame for frame in self._frames() if frame[0] & 1 and payload in frame]
        found += [f"a frame to everybody: {frame.hex()}" for frame in frames]
        now = self._stage.relay.totals()["active sessions"]
        if now != self._sessions + sessions:
            found.append(f"a command: {now - self._sessions} sessions beside the trap's")
        return found

    def _frames(self):
        return [frame for tap in self._taps for frame in _take(tap._socket)]


def _take(opened):
    taken = []
    with contextlib.suppress(BlockingIOError):
        while True:
            taken.append(opened.recv(65535))
    return taken


def at(stage, family):
    """Where the phones of a call of that family are."""
    caller, callee = stage.topology.caller, stage.topology.callee
    return {"caller_at": (caller.ip6, 4000), "callee_at": (callee.ip6, 5000)} if family == 6 else {}


def speak(stage, *parties):
    """Phones send what would end all calls if the relay took it for a command; return it."""
    payload = b"%d X" % next(_numbers)
    before = stage.relay.totals()["packets received"]
    for party in parties:
        party.send(payload)
        party.send_rtcp(payload)
    wait_for(
        lambda: stage.relay.totals()["packets received"] >= before + 2 * len(parties),
        *(DEADLINE_S, "the phones' packets to be received"),
    )
    stage.settle()
    return payload


# What commands name


def signalled_first(call, host, port):
    """Name it as the caller's; return the other party."""
    call.update(host, port)
    return call.callee


def signalled_last(call, host, port):
    """Name it as the callee's."""
    call.lookup(host, port)
    return call.caller


def in_a_subcommand(call, host, port):
    """Name it as both parties'."""
    family = "6" if ":" in host else ""
    call.relay.ask(f"U{family} {call.name} {host} {port} f t && L{family} {host} {port}")
    return call.caller


@pytest.mark.parametrize("signal", [signalled_first, signalled_last, in_a_subcommand])
@pytest.mark.parametrize("family", [4, 6])
def test_what_a_command_names(stage, family, signal):
    """What the other phone sends goes nowhere, neither its first packets nor those after it was learned."""
    with Trap(stage, family) as trap:
        for host, port in endpoints(family):
            with stage.call(**at(stage, family)) as call:
                other = signal(call, host, port)
                for speakers in ([other], [other], [call.caller, call.callee]):
                    payload = speak(stage, *speakers)
                    assert trap.is_sprung(payload, sessions=1) == [], (host, port)


def test_a_new_session_whose_phone_is_named_at_once(stage):
    """The first command for a session names what is refused; afterwards a phone that sends is heard."""
    with Trap(stage, 4) as trap, stage.call(caller_says=("127.0.0.1", CONTROL_PORT)) as call:
        payload = speak(stage, call.callee)
        assert trap.is_sprung(payload, sessions=1) == []
        speak(stage, call.caller, call.callee)
        drain(call)
        call.cross(rtp(1))
        call.cross(rtcp(1), is_rtcp=True)


def drain(call):
    """Forget what has come to the phones so far."""
    for party in (call.caller, call.callee):
        party.rtp.take(), party.rtcp.take()


# What commands name in a call under way


def refusals(stage, call):
    """What was refused to commands for a call, with the rules, as the log tells it."""
    return re.findall(rf" {call.name}: nothing is sent to (\S+), which a command named: (.*)$", stage.relay.log, re.M)


def reinvite(stage, call, command, tags, host, port):
    """Give a command with an endpoint that is refused; one line tells why. Return the port it is answered with."""
    rule = BY_RULE[6 if ":" in host else 4][host, port]
    told = len(refusals(stage, call))
    answered = stage.relay.port(f"{command}{'6' if ':' in host else ''} {call.name} {host} {port} {tags}")
    endpoint = str(Endpoint(str(ip_address(host)), port))
    assert refusals(stage, call)[told:] == ([(endpoint, rule)] if rule else [])
    return answered


def is_heard(stage, call):
    """What the phones send comes to them, and to them alone; return it."""
    payload = speak(stage, call.caller, call.callee)
    for party in (call.caller, call.callee):
        assert party.rtp.expect() == [(payload, party.to)]
        assert party.rtcp.expect() == [(payload, party.to_rtcp)]
    return payload


@pytest.mark.parametrize("family", [4, 6])
def test_what_a_command_names_in_a_call_under_way(stage, family):
    """It is answered as for a hold, with the same ports. Media goes on to the phones, in the kernel where it did."""
    with Trap(stage, family) as trap, stage.established(**at(stage, family)) as call:
        for number, (host, port) in enumerate(BY_RULE[family], start=10):
            for modifiers in ("", "a"):
                assert reinvite(stage, call, f"U{modifiers}", "f", host, port) == call.callee.to[1]
                assert reinvite(stage, call, f"U{modifiers}", "f t", host, port) == call.callee.to[1]
                assert reinvite(stage, call, f"L{modifiers}", "f t", host, port) == call.caller.to[1]
            payload = is_heard(stage, call)
            assert trap.is_sprung(payload, sessions=1) == [], (host, port)
            stage.goes_on(call, number=number)


@pytest.mark.parametrize("family", [4, 6])
def test_new_ports_for_a_call_under_way(stage, family):
    """With the modifier `n`, the same command also opens other ports; what phones send there comes to the phones."""
    with Trap(stage, family) as trap, stage.established(**at(stage, family)) as call:
        for number, (host, port) in enumerate(BY_RULE[family], start=10):
            for command, tags, party in (("Un", "f", call.callee), ("Ln", "f t", call.caller)):
                before = party.to[1]
                party.to = party.to[0], reinvite(stage, call, command, tags, host, port)
                assert party.to[1] != before
            payload = is_heard(stage, call)
            assert trap.is_sprung(payload, sessions=1) == [], (host, port)
            stage.goes_on(call, number=number)


@pytest.mark.parametrize("family", [4, 6])
def test_a_later_command_names_a_phone(stage, family):
    """Media goes to where it says at once, whatever was refused before, and the kernel takes it over again."""
    with stage.established(**at(stage, family)) as call, contextlib.ExitStack() as stack:
        steps = (
            (call.caller, call.callee, stage.topology.caller, "U", "f"),
            (call.callee, call.caller, stage.topology.callee, "L", "f t"),
        )
        for number, (mover, other, phone, letter, tags) in enumerate(steps):
            for host, port in BY_RULE[family]:
                reinvite(stage, call, letter, tags, host, port)
            host, port = mover.rtp.address
            left = stack.enter_context(mover.rtp), stack.enter_context(mover.rtcp)
            mover.rtp, mover.rtcp = (PhonePort(phone, host, port + 100 + odd) for odd in (0, 1))
            told = len(refusals(stage, call))
            (call.update if letter == "U" else call.lookup)(host, port + 100)
            assert refusals(stage, call)[told:] == []
            other.send(rtp(10 + number))
            assert mover.rtp.expect() == [(rtp(10 + number), mover.to)]
            other.send_rtcp(rtcp(10 + number))
            assert mover.rtcp.expect() == [(rtcp(10 + number), mover.to_rtcp)]
            stage.goes_on(call, number=20 + 10 * number)
            assert [one.take() for one in left] == [[], []]


@pytest.mark.parametrize("family", [4, 6])
def test_a_phone_that_is_named_after_a_refusal(stage, family):
    """Until then what is for it is dropped, and counted; then it hears the other phone before it has sent anything."""
    host, port = next(iter(BY_RULE[family]))
    with Trap(stage, family) as trap, stage.call(**at(stage, family), callee_says=(host, port)) as call:
        payload = speak(stage, call.caller)
        assert trap.is_sprung(payload, sessions=1) == []
        assert call.callee.rtp.take() == call.callee.rtcp.take() == []
        call.lookup(*call.callee.rtp.address)
        call.caller.send(rtp(1))
        assert call.callee.rtp.expect() == [(rtp(1), call.callee.to)]
        call.caller.send_rtcp(rtcp(1))
        assert call.callee.rtcp.expect() == [(rtcp(1), call.callee.to_rtcp)]
        call.establish(stage.way)
        stage.goes_on(call, number=10)


# What packets teach


def forged(family):
    """Sources that the host's stack lets in, and that must not become a destination."""
    if family == 4:
        return [("10.0.1.255", 4000), ("10.0.2.255", 4000)]
    ours = [(host, port) for host in OUR_HOSTS_6[1:] for port in (CONTROL_PORT, *CLOSED_PORTS)]
    return [*ours, ("::", 4000), ("::ffff:10.0.1.1", 4000), ("::ffff:127.0.0.1", CONTROL_PORT)]


def denied(stage):
    """Packets dropped up to now because nothing may be sent to where they came from, or to whom they are for."""
    found = re.search(r"^frames dropped_denied: (\d+)$", stage.relay.ask("It"), re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("family", [4, 6])
def test_what_packets_teach(stage, family):
    """Nobody has spoken yet, so that any source would be learned."""
    with Trap(stage, family) as trap:
        for source in forged(family):
            with stage.call(**at(stage, family)) as call:
                before = denied(stage)
                for party in (call.caller, call.callee):
                    for to in (party.to, party.to_rtcp):
                        stage.attacker.inject(stage.attacker.frame(to, STOLEN, source=source))
                wait_for(
                    lambda before=before: denied(stage) == before + 4, DEADLINE_S, f"{source} to be refused four times"
                )
                payload = speak(stage, call.caller, call.callee)
                assert trap.is_sprung(payload, sessions=1) == [], source
                drain(call)
                call.cross(rtp(1))


def test_what_rtp_lets_guess_for_rtcp(stage):
    """A local user's phone is next to the control socket: where its RTCP would be, if it were like other phones."""
    host = stage.topology.caller.gateway.ip
    local = stage.topology.relay
    with (
        Trap(stage, 4) as trap,
        stage.call(caller_says=(host, 30000)) as call,
        PhonePort(local, host, CONTROL_PORT - 1) as phone,
    ):
        phone.send(rtp(1), (host, call.caller.to[1]))

        def is_learned():
            # Where ports have sockets of their own, the relay may read this packet before the phone's.
            call.callee.send(rtp(1))
            return phone.take()

        wait_for(is_learned, DEADLINE_S, "the phone to be learned")
        payload = b"%d X" % next(_numbers)
        for _ in range(2):
            call.callee.send_rtcp(payload)
            stage.settle()
            assert trap.is_sprung(payload, sessions=1) == []
