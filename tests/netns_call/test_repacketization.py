"""Repacketization of what one party sends, with the kernel tier and without: whole packets, and where they are relayed.

Packets that are to be joined arrive while the relay stands still, so that it finds them all at once.
"""

import pytest
from scapy.all import IP

from tests.netns_call.call import KERNEL, STEERED, Call, Tap, paused, relayed_frame, rtcp
from tests.recording.packets import read_adhoc
from tests.running import rtp
from tests.waiting import DEADLINE_S, wait_for

SOUND = b"\xd5" * 8000
recorded_ways = pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name, indirect=True)


@pytest.fixture
def call(start, way, topology):
    """A call on a relay that drops no packet for having waited."""
    relay = start(*way.options, "--max-wait", "0")
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        yield call


def renumbered(packet, sequence):
    return packet[:2] + sequence.to_bytes(2) + packet[4:]


def halves(number, sequence):
    """The packet of that number in two of 10 ms, the first of which has another number."""
    whole = rtp(number)
    second = whole[:4] + (number * 160 + 80).to_bytes(4) + whole[8:12] + whole[92:]
    return [renumbered(whole[:92], sequence), renumbered(second, sequence + 1)]


def caller_says(call, modifiers):
    """A further `U` of the caller."""
    host, port = call.caller.rtp.address
    return call.relay.port(f"U{modifiers} {call.name} {host} {port} f t")


def resized(relay):
    """Packets that were repacketized: in, out, discarded."""
    return [int(count) for count in relay.ask("G npkts_resizer_in npkts_resizer_out npkts_resizer_discard").split()]


def forwarded(relay):
    """Frames that the kernel forwarded so far."""
    return int(dict(line.split(": ") for line in relay.ask("It").splitlines()).get("frames forwarded", 0))


def take(port, count):
    """Wait for so many packets."""
    taken = []

    def is_complete():
        taken.extend(port.take())
        return len(taken) >= count

    wait_for(is_complete, DEADLINE_S, f"{count} packets, of which came {taken}")
    return taken


@pytest.mark.vm
def test_one_direction_is_repacketized_and_the_other_stays_in_the_kernel(call, way):
    relay = call.relay
    caller_says(call, "z999")
    if way.is_kernel:
        wait_for(lambda: "repacketizes its packets" in relay.log, DEADLINE_S, "the stream to leave the kernel")
        call.wait_offloaded(*call.ports[1:])
    before = forwarded(relay)
    with paused(relay):
        for number in range(2, 52):
            call.caller.send(rtp(number))
            call.callee.send(rtp(number))
        if way.is_kernel:
            assert take(call.caller.rtp, 50) == [(rtp(number), call.caller.to) for number in range(2, 52)]
            assert call.callee.rtp.take() == []
    assert take(call.callee.rtp, 1) == [(rtp(2, payload=SOUND), call.callee.to)]
    if not way.is_kernel:
        assert take(call.caller.rtp, 50) == [(rtp(number), call.caller.to) for number in range(2, 52)]
    assert resized(relay) == [50, 1, 0]
    quote = call.quote()
    assert {name: quote[name] for name in ("npkts_ina", "npkts_ino", "nrelayed", "ndropped")} == {
        **{"npkts_ina": 51, "npkts_ino": 51, "nrelayed": 53, "ndropped": 0},
    }
    assert forwarded(relay) - before == (50 if way.is_kernel else 0)
    call.cross(rtcp(2), is_rtcp=True)


def test_packets_are_divided_and_the_stream_returns_to_the_kernel(call, way):
    caller_says(call, "Z10")
    for place, number in enumerate(range(2, 6)):
        call.caller.send(rtp(number))
        expected = [(data, call.callee.to) for data in halves(number, 2 + 2 * place)]
        assert take(call.callee.rtp, 2) == expected
    assert resized(call.relay) == [4, 8, 0]
    caller_says(call, "")
    call.cross(rtp(6))
    if way.is_kernel:
        call.wait_offloaded()
        before = forwarded(call.relay)
        call.cross(rtp(7))
        assert forwarded(call.relay) - before == 2
    assert resized(call.relay) == [4, 8, 0]


def test_the_end_of_a_talk_spurt_needs_no_further_packet(call):
    caller_says(call, "z40")
    for number in (2, 200):
        call.caller.send(rtp(number))
        sequence = 2 if number == 2 else 3
        assert take(call.callee.rtp, 1) == [(renumbered(rtp(number), sequence), call.callee.to)]
    assert resized(call.relay) == [2, 2, 0]


def test_both_directions(call):
    caller_says(call, "z10")
    host, port = call.callee.rtp.address
    call.relay.port(f"Lz10 {call.name} {host} {port} f t")
    for sender, receiver in ((call.caller, call.callee), (call.callee, call.caller)):
        sender.send(rtp(2))
        assert take(receiver.rtp, 2) == [(data, receiver.to) for data in halves(2, 2)]
    call.cross(b"\x80\x65" + rtp(3, payload=b"\5\0\0\xa0")[2:])  # an event, at once


def test_whole_frames(call, topology):
    """They leave as every frame that userspace relays."""
    caller_says(call, "z10")
    with Tap(topology.callee) as tap:
        call.caller.send(rtp(2))
        for data in halves(2, 2):
            frame = tap.expect(lambda frame, data=data: frame.endswith(data))
            addresses = call.callee.to, call.callee.rtp.address
            assert frame == relayed_frame(topology.callee, *addresses, data, IP(frame[14:]).id)


@recorded_ways
def test_recordings_have_what_was_made(start, topology, way, tmp_path):
    place = tmp_path / "recordings"
    place.mkdir()
    relay = start(*way.options, "-r", str(place))
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert relay.ask(f"R {call.tags}") == "0"
        call.cross(rtp(2))
        caller_says(call, "z10")
        call.caller.send(rtp(3))
        take(call.callee.rtp, 2)
        caller_says(call, "")
        call.cross(rtp(4))
        assert relay.ask(f"N {call.tags}") == "0"
        wait_for(lambda: "packets in" in relay.log, DEADLINE_S, "the file to be complete")
    read = [one.payload for one in read_adhoc((place / "c1=f.o.rtp").read_bytes())]
    assert read == [rtp(2), *halves(3, 3), rtp(4)]
