"""`Q` reports the same of a stream in every tier."""

import itertools
import time

import pytest

from tests.netns_call.call import DEADLINE_S, KERNEL, Call, PhonePort
from tests.running import muxed_rtcp, rtp
from tests.waiting import wait_for

NAMES = ("rtpa_nsent", "rtpa_nrcvd", "rtpa_ndups", "rtpa_nlost", "rtpa_perrs")
UNITS = 1.0
"""Tolerance of jitter, timestamp units."""
MILLISECOND = 0.001
LONG = b"\xd5" * 3000
"""Leaves as fragments, and fragments are userspace's."""


def statistics(call, *names):
    values = call.relay.ask(f"Q {call.name} f t {' '.join(names)}").split()
    return [float(value) if "." in value else int(value) for value in values]


def send(call, *packets):
    """From the caller, each relayed before the next; the first two packets are those of `establish`."""
    for packet in packets:
        call.caller.send(packet)
        assert call.callee.rtp.expect() == [(packet, call.callee.to)]


def test_losses_late_packets_and_duplicates(call, way):
    call.establish(way)
    send(call, rtp(2), rtp(5), rtp(5), rtp(4), b"not RTP", rtp(70), rtp(6), rtp(6), rtp(600), rtp(1700), rtp(1702))
    # 1 to 600, and 1700 to 1702
    assert statistics(call, *NAMES) == [603, 9, 2, 594, 1]
    send(call, rtp(1701), rtp(9, ssrc=5), rtp(11, ssrc=5), rtp(8, ssrc=5, marker=True))
    assert statistics(call, *NAMES) == [607, 13, 2, 594, 1]
    if way.is_kernel:
        assert call.relay.stop() == 0
        assert call.relay.forwarded() >= 13


def test_rtcp_on_the_rtp_port_is_no_rtp(call, topology, way):
    """Of rtcp-mux: it hides no loss, changes no SSRC, and lets no other source go on (protocol.md 5.8)."""
    call.establish(way)
    send(call, rtp(2), muxed_rtcp(3), muxed_rtcp(9000, ssrc=7), rtp(4), muxed_rtcp(4, kind=213), rtp(5))
    assert statistics(call, *NAMES) == [5, 4, 0, 1, 3]
    with PhonePort(topology.caller, topology.caller.ip, 4009) as other:
        other.send(muxed_rtcp(6), call.caller.to)
        send(call, rtp(7))
        call.callee.send(rtp(2))
        assert call.caller.rtp.expect() == [(rtp(2), call.caller.to)]
    assert statistics(call, *NAMES) == [7, 5, 0, 2, 3]


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_packets_that_the_kernel_and_userspace_share(call, way):
    """Long packets go up as fragments in between, and nothing is counted twice, lost or taken for a gap."""
    call.establish(way)
    packets = [rtp(number, payload=LONG) if number % 5 == 0 else rtp(number) for number in range(2, 42)]
    del packets[17]
    packets.insert(23, packets[22])
    send(call, *packets)
    assert statistics(call, *NAMES) == [41, 40, 1, 1, 0]
    assert call.quote()["npkts_ina"] == 41
    assert call.relay.stop() == 0
    assert 20 < call.relay.forwarded() < 41


def test_jitter_and_the_longest_gap(call, way):
    """Within the bounds that follow from when each packet was sent, and when it had come out: it arrived in between."""
    spans = [establish_timed(call, way)]
    for number in range(2, 30):
        due = time.monotonic() + (0.04 if number % 4 == 0 else 0.01)
        wait_for(lambda due=due: time.monotonic() >= due, DEADLINE_S, "the next packet to be due")
        sent_at = time.monotonic()
        send(call, rtp(number))
        spans.append((sent_at, time.monotonic()))
    last, most, average, gap = statistics(call, "rtpa_jlast", "rtpa_jmax", "rtpa_javg", "longest_ipi")
    least, greatest = jitter_bounds(spans)
    assert least[-1] - UNITS <= last <= greatest[-1] + UNITS
    assert sum(least) / len(least) - UNITS <= average <= sum(greatest) / len(greatest) + UNITS
    assert max(least) - UNITS <= most <= max(greatest) + UNITS
    shortest, longest = zip(*gaps(spans), strict=True)
    assert max(shortest) - MILLISECOND <= gap <= max(longest) + MILLISECOND


def establish_timed(call, way):
    """Start a call; the times between which its first packet arrived at the relay."""
    before = time.monotonic()
    call.caller.send(rtp(1))
    assert call.callee.rtp.expect() == [(rtp(1), call.callee.to)]
    after = time.monotonic()
    call.callee.send(rtp(1))
    assert call.caller.rtp.expect() == [(rtp(1), call.caller.to)]
    if way.is_kernel:
        call.wait_offloaded(*call.rtp_ports)
    return before, after


def gaps(spans):
    """The least and the most time between packets that arrived within these spans, seconds."""
    return [(max(0.0, later[0] - earlier[1]), later[1] - earlier[0]) for earlier, later in itertools.pairwise(spans)]


def jitter_bounds(spans):
    """The least and the greatest jitter after each packet but the first (RFC 3550 6.4.1), timestamp units."""
    least, greatest, low, high = [], [], 0.0, 0.0
    for shortest, longest in gaps(spans):
        ends = abs(shortest * 8000 - 160), abs(longest * 8000 - 160)
        low += ((0.0 if shortest * 8000 <= 160 <= longest * 8000 else min(ends)) - low) / 16
        high += (max(ends) - high) / 16
        least.append(low)
        greatest.append(high)
    return least, greatest


TOTALS = (
    *("nsess_created", "nsess_destroyed", "nsess_timeout", "nsess_complete", "nsess_nortp", "nsess_owrtp"),
    *("nsess_nortcp", "nsess_owrtcp", "npkts_rcvd", "npkts_relayed", "npkts_discard"),
    *("rtpa_nsent", "rtpa_nrcvd", "rtpa_ndups", "rtpa_nlost", "rtpa_perrs"),
)


def totals(relay):
    """All that packets and sessions move, by name."""
    return dict(zip(TOTALS, map(int, relay.ask(f"G {' '.join(TOTALS)}").split()), strict=True))


def test_totals_of_the_process(start, topology, way):
    """Each is moved by a number of its own: sessions that talk both ways, one way, and not at all."""
    relay = start(*way.options)
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        send(call, rtp(2), rtp(4), rtp(4), b"not RTP", rtp(5))
        strangers = 20
        with PhonePort(topology.callee, topology.callee.ip, 7777) as stranger:
            for number in range(strangers):
                stranger.send(rtp(number, ssrc=0x666), call.callee.to)
            wait_for(lambda: totals(relay)["npkts_discard"] == strangers, DEADLINE_S, "what is dropped to be counted")
        assert relay.ask(f"D {call.tags}") == "0"
    with Call(relay, topology.caller, topology.callee, "c2") as call:
        call.caller.send(rtp(1))
        call.callee.rtp.expect()
        assert relay.ask(f"D {call.tags}") == "0"
    with Call(relay, topology.caller, topology.callee, "c3") as call:
        assert relay.ask(f"D {call.tags}") == "0"
    assert int(relay.ask(f"U c4 {topology.caller.ip} 4000 f && S ttl=1"))
    wait_for(lambda: totals(relay)["nsess_timeout"] == 1, DEADLINE_S, "a session that nobody answers to end")
    packets = 4 + 5 + 1
    assert totals(relay) == {
        **dict(nsess_created=4, nsess_destroyed=4, nsess_timeout=1, nsess_complete=3, nsess_nortp=1, nsess_owrtp=1),
        **dict(nsess_nortcp=2, nsess_owrtcp=0, npkts_rcvd=packets + strangers, npkts_relayed=packets),
        **dict(npkts_discard=strangers, rtpa_nsent=7, rtpa_nrcvd=6, rtpa_ndups=1, rtpa_nlost=1, rtpa_perrs=1),
    }
    assert float(relay.ask("G total_duration")) > 0
    assert relay.totals()["packets received"] == packets + strangers
    assert relay.totals()["packets transmitted"] == packets


def test_packets_a_second(call, way):
    """The rate of the last second, in every tier."""
    call.establish(way)
    rates = []

    def is_counted():
        call.caller.send(rtp(len(rates)))
        rates.append(float(call.relay.ask("G pps_in")))
        return max(rates) > 0 and rates[-1] == rates[-2] != 0

    wait_for(is_counted, DEADLINE_S, "a rate")
    wait_for(lambda: call.relay.ask("G pps_in") == "0.000000", DEADLINE_S, "the rate to fall to nothing")
