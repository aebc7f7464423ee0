"""Packets that would circulate: between two relays that take each other for phones, or two sessions of one relay."""

import socket
import struct
import time

import pytest

from tests.netns_call.call import DEADLINE_S, Call, PhonePort, Tap, rtcp, sent_frame
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

REPEATS, RTCP, UNNUMBERED = 200, 500, 5000
"""Packets a second and port that are believed (rtpproxy/session/loops.py)."""
SEND_AGAIN_S = 3.0
MOST_UNDER_WAY = 256
NOT_RTP = b"\0\1\2\3 neither RTP nor RTCP"


class Circle:
    """Two sessions, of two relays or of one, whose legs have the other's ports as their endpoints."""

    def __init__(self, here: RunningRelay, there: RunningRelay, here_host: str, there_host: str) -> None:
        self.here, self.there = here, there
        # The ports must be known before either can be told of the other's.
        ours = [here.port("U here 192.0.2.1 9 f"), here.port("L here 192.0.2.2 9 f t")]
        theirs = [there.port("U there 192.0.2.3 9 f"), there.port("L there 192.0.2.4 9 f t")]
        here.port(f"U here {there_host} {theirs[0]} f t")
        here.port(f"L here {there_host} {theirs[1]} f t")
        there.port(f"U there {here_host} {ours[0]} f t")
        there.port(f"L there {here_host} {ours[1]} f t")
        self.ours, self.theirs = ours, theirs

    def counts(self) -> tuple[int, int]:
        return tuple(relay.totals()["packets received"] for relay in (self.here, self.there))

    def stands_still(self) -> bool:
        """Tell whether nothing circulates any more: the counts stay the same while both relays answer 20 commands."""
        before = self.counts()
        for _ in range(20):
            self.here.ask("V"), self.there.ask("V")
        return self.counts() == before


@pytest.fixture
def circle(start, topology, way, tmp_path_factory):
    here = start(*way.options)
    there = RunningRelay(tmp_path_factory.mktemp("there"), *way.options, host=topology.caller)
    there.start()
    yield Circle(here, there, topology.caller.gateway.ip, topology.caller.ip)
    there.__exit__()


@pytest.mark.parametrize(
    ("data", "most", "is_rtcp"),
    [(rtp(1), REPEATS, False), (rtcp(1), RTCP, True), (NOT_RTP, UNNUMBERED, False)],
    ids=["rtp", "rtcp", "not rtp"],
)
def test_between_two_relays(circle, topology, way, data, most, is_rtcp):
    """One packet, as if from the other relay, comes to an end."""
    source = topology.caller.ip, circle.theirs[0] + is_rtcp
    frame = sent_frame(topology.caller, source, (topology.caller.gateway.ip, circle.ours[1] + is_rtcp), data)
    with Tap(topology.caller) as tap:
        comes_to_an_end(circle, most, lambda: tap.send(frame))


def test_two_packets_that_make_each_other_look_new(circle, topology, way):
    source, to = (topology.caller.ip, circle.theirs[0]), (topology.caller.gateway.ip, circle.ours[1])
    frames = [sent_frame(topology.caller, source, to, rtp(1, ssrc=ssrc)) for ssrc in (1, 2)]
    with Tap(topology.caller) as tap:

        def send():
            for frame in frames:
                tap.send(frame)

        comes_to_an_end(circle, UNNUMBERED, send)


def comes_to_an_end(circle, most, send):
    """Packets circulate until one of the ports has seen too many of them within a second.

    A starved relay is too slow for that with one packet under way, so every few seconds their number is doubled.
    """
    started, sent, due = time.monotonic(), 0, 0.0

    def has_ended():
        nonlocal sent, due
        if sent < MOST_UNDER_WAY and time.monotonic() >= due:
            due = time.monotonic() + SEND_AGAIN_S
            for _ in range(sent or 1):
                send()
                sent += 1
        return max(circle.counts()) >= most and circle.stands_still()

    wait_for(has_ended, DEADLINE_S, f"{most} rounds, and the end")
    seconds = time.monotonic() - started
    assert max(circle.counts()) <= 2 * most * (2 + seconds) + 10, circle.counts()


def test_between_two_sessions_of_one_relay(start, topology, way):
    relay = start(*way.options)
    host = topology.caller.gateway.ip
    circle = Circle(relay, relay, host, host)
    data = rtp(1)
    with topology.relay.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_UDP) as sender:
        sender.bind((host, 0))
        header = struct.pack("!HHHH", circle.theirs[0], circle.ours[1], 8 + len(data), 0)
        comes_to_an_end(circle, REPEATS, lambda: sender.sendto(header + data, (host, 0)))


def test_a_chain_of_two_sessions_is_no_circle(start, topology, way):
    """A B2BUA with both of its legs at one relay, or a hairpin: a call that its SIP proxy sends back to itself."""
    relay = start(*way.options)
    host = topology.caller.gateway.ip
    between = relay.port(f"U one {topology.caller.ip} 4000 f")
    for_callee = relay.port(f"U two {host} {between} f")
    entrance = relay.port(f"L two {topology.callee.ip} 5000 f t")
    for_caller = relay.port(f"L one {host} {entrance} f t")
    with (
        PhonePort(topology.caller, topology.caller.ip, 4000) as caller,
        PhonePort(topology.callee, topology.callee.ip, 5000) as callee,
    ):
        for number in range(1, 40):
            caller.send(rtp(number), (host, for_caller))
            assert callee.expect() == [(rtp(number), (topology.callee.gateway.ip, for_callee))]
            callee.send(rtp(number), (topology.callee.gateway.ip, for_callee))
            assert caller.expect() == [(rtp(number), (host, for_caller))]


def test_what_comes_twice_is_relayed_twice(start, topology, way):
    """As from a relay that sends short packets twice, at the pace of a call."""
    relay = start(*way.options)
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        for number in range(2, 102):
            for _ in range(2):
                call.caller.send(rtp(number))
        assert len(call.callee.rtp.expect(200)) == 200
        assert call.quote()["ndropped"] == 0
