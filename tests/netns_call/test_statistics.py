"""`Q` tells the same of a stream, whoever relays it."""

import itertools
import time

import pytest

from tests.netns_call.call import KERNEL
from tests.running import rtp

NAMES = ("rtpa_nsent", "rtpa_nrcvd", "rtpa_ndups", "rtpa_nlost", "rtpa_perrs")
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
    """Beside the same figures of the times of sending."""
    call.establish(way)
    arrivals, received = [], 0
    for number in range(2, 30):
        due = time.monotonic() + (0.04 if number % 4 == 0 else 0.01)
        while time.monotonic() < due:
            received += len(call.callee.rtp.take())
        arrivals.append(time.monotonic())
        call.caller.send(rtp(number))
    call.callee.rtp.expect(len(arrivals) - received)
    last, most, average, gap = statistics(call, "rtpa_jlast", "rtpa_jmax", "rtpa_javg", "longest_ipi")
    jitter, seen = 0.0, []
    for before, at in itertools.pairwise(arrivals):
        jitter += (abs((at - before) * 8000 - 160) - jitter) / 16
        seen.append(jitter)
    assert last == pytest.approx(seen[-1], rel=0.5)
    assert average == pytest.approx(sum(seen) / len(seen), rel=0.5)
    assert most >= last
    assert gap >= max(at - before for before, at in itertools.pairwise(arrivals)) - 0.01
