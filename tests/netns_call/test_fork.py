"""A forked call: several callees ring and send early media, each with its own To tag and address, and one answers.

What the caller hears of each and where the caller's packets go is compared with the rules of the C RTPproxy
(protocol.md 5.3): all callees are heard while the window of the last command is open, and whoever was heard last
hears the caller. In strict mode only the callee that the last command named is heard. Packets come every 20 ms, because
the limits of the kernel tier are by second.
"""

import contextlib
import select
import time
from collections import Counter

import pytest

from tests.netns_call.call import DEADLINE_S, WAYS, PhonePort
from tests.running import rtp
from tests.waiting import wait_for

INTERVAL_S = 0.02
RING_S, LINGER_S, TALK_S = 1.0, 3.0, 1.0
FIRST_SSRC = 0x1000
MOST_LINES = 40
"""Of a call in the log: a few when streams enter or leave the kernel, and none for a packet."""

pytestmark = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name, indirect=True)


class Voice:
    """Sends packets with numbers and an SSRC of its own, and notes whose packets arrive."""

    def __init__(self, port, to, ssrc):
        self.port, self.to, self.ssrc = port, to, ssrc
        self.sent = 0
        self.heard = Counter()

    def send(self):
        self.port.send(rtp(self.sent, ssrc=self.ssrc), self.to)
        self.sent += 1

    def take(self):
        for data, _ in self.port.take():
            self.heard[int.from_bytes(data[8:12]), int.from_bytes(data[2:4])] += 1

    def missing(self, *hearers, since=0):
        """Numbers of its packets that none of the others heard."""
        return [
            number for number in range(since, self.sent) if not any(one.heard[self.ssrc, number] for one in hearers)
        ]

    def is_doubled(self, *hearers):
        return any(sum(one.heard[self.ssrc, number] for one in hearers) > 1 for number in range(self.sent))


class Fork:
    """A caller and several callees, the first of which has been named and is heard."""

    def __init__(self, call, ports):
        self.call = call
        self.caller = Voice(call.caller.rtp, call.caller.to, FIRST_SSRC)
        places = [(call.callee.rtp, call.callee.to), *ports]
        self.callees = [Voice(*place, FIRST_SSRC + 1 + number) for number, place in enumerate(places)]
        self.voices = [self.caller, *self.callees]

    def ring(self, number, host, port):
        """A provisional or the final answer of a callee: the same command, which has its To tag."""
        self.call.relay.port(f"L {self.call.name} {host} {port} f t{number}")

    def talk(self, seconds, *talking):
        """These send for so long, 50 packets a second each."""
        due = time.monotonic()
        for _ in range(round(seconds / INTERVAL_S)):
            for voice in talking:
                voice.send()
            due = max(due + INTERVAL_S, time.monotonic())
            while (left := due - time.monotonic()) > 0:
                self.take(left)
        self.take(0)

    def take(self, timeout_s):
        by_port = {voice.port: voice for voice in self.voices}
        for port in select.select(list(by_port), [], [], timeout_s)[0]:
            by_port[port].take()

    def is_heard(self, voice, *hearers, since=0, but=1):
        """Wait until no packets of it are missing, but for one, that is the first; from a number on."""

        def missing():
            self.take(0)
            return voice.missing(*hearers, since=since)

        try:
            wait_for(lambda: len(missing()) <= but, DEADLINE_S, "packets")
        except AssertionError:
            raise AssertionError(f"{voice.ssrc:x}: of {voice.sent} packets these are missing: {missing()}") from None
        assert not voice.is_doubled(*hearers)

    def lines(self, text):
        """The lines of the call in the log in which a text occurs."""
        return [line for line in self.call.relay.log.splitlines() if f" {self.call.name}: " in line and text in line]


@pytest.fixture(params=["compatible", "strict"])
def latching(request):
    return request.param


@pytest.fixture
def more(topology):
    """Hosts of further callees."""
    return [topology.add_host(name) for name in ("second", "third")]


@pytest.fixture
def relay(start, way, latching, more):
    """Started when all interfaces are there: a program that is attached later may cost packets."""
    return start(*way.options, "--latching", latching)


@pytest.mark.parametrize("is_behind_nat", [False, True], ids=["as named", "NAT"])
@pytest.mark.parametrize("linger_s", [LINGER_S, 0.0], ids=["lingering", "silent"])
def test_two_callees_ring_and_the_second_answers(call, way, latching, more, linger_s, is_behind_nat):
    """Behind NAT, the second sends from another port than it named, where a packet or two go before it is heard."""
    host = more[0]
    with PhonePort(host, host.ip, 5000) as named, PhonePort(host, host.ip, 5900) as nat:
        fork = Fork(call, [(nat if is_behind_nat else named, (host.gateway.ip, call.callee.to[1]))])
        caller, (first, second) = fork.caller, fork.callees
        unheard = Voice(named if is_behind_nat else nat, second.to, 0)
        fork.voices.append(unheard)
        fork.talk(RING_S, caller, first)
        fork.is_heard(first, caller)
        fork.ring(2, host.ip, 5000)
        named_at = first.sent
        fork.talk(RING_S, caller, first, second)
        fork.ring(2, host.ip, 5000)
        fork.talk(linger_s, caller, first, second)
        if latching == "compatible":
            fork.is_heard(first, caller)
        fork.is_heard(second, caller)
        ended_at = caller.sent
        fork.talk(TALK_S, caller, second)
        fork.is_heard(second, caller)
        if latching == "strict":
            assert first.missing(caller, since=named_at) == list(range(named_at, first.sent))
        fork.is_heard(caller, first, second, unheard)
        fork.is_heard(caller, second, since=ended_at + 1, but=0)
        assert len(fork.lines("changes between")) == (latching == "compatible")
        assert len(fork.lines("")) < MOST_LINES, fork.lines("")
        if way.is_kernel:
            call.wait_offloaded(*call.rtp_ports)


@pytest.mark.parametrize("latching", ["compatible"], indirect=True)
def test_three_callees_behind_nat_send_at_once(call, way, more):
    """None of them sends from the port that it named."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(PhonePort(host, host.ip, 5900)) for host in more]
        fork = Fork(
            call, [(port, (host.gateway.ip, call.callee.to[1])) for port, host in zip(ports, more, strict=True)]
        )
        first, second, third = fork.callees
        fork.talk(RING_S, first)
        fork.is_heard(first, fork.caller)
        fork.ring(2, more[0].ip, 5000)
        fork.talk(RING_S, first, second)
        fork.ring(3, more[1].ip, 5000)
        fork.talk(RING_S, *fork.callees)
        for callee in fork.callees:
            fork.is_heard(callee, fork.caller)
        fork.ring(3, more[1].ip, 5000)
        fork.talk(RING_S, third)
        fork.is_heard(third, fork.caller)
        fork.caller.send()
        fork.is_heard(fork.caller, third, but=0)
        if way.is_kernel:
            call.wait_offloaded(call.callee.to[1])
