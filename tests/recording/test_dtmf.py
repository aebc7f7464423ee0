"""The tap for DTMF: what it tells, and that a flood of events is bounded."""

from rtpproxy.recording.dtmf import MOST_AT_ONCE, MOST_PER_SECOND, DtmfHandler
from rtpproxy.rtp.telephone_events import SILENCE_NS, decode
from tests.recording.dtmf_packets import event_packet, pressed
from tests.recording.packets import packet

SECOND = 1_000_000_000
BEGIN_NS = 100 * SECOND


def arrive(handler, payloads, at_ns=BEGIN_NS):
    """What is told of packets that arrive together."""
    return [
        decode(found)
        for payload in payloads
        for found in handler.packet(packet(0, arrived_ns=at_ns)._replace(payload=payload), 0)
    ]


def test_events_are_told():
    (event,) = arrive(DtmfHandler(b""), pressed(8000, code=11))
    assert (event.digit, event.volume, event.duration, event.timestamp) == (b"#", 10, 800, 8000)


def test_an_event_without_an_end_is_told_when_the_tap_ends():
    handler = DtmfHandler(b"")
    assert arrive(handler, [event_packet(8000), event_packet(8000)]) == []
    assert list(handler.rest(BEGIN_NS + 1)) == []
    assert [decode(found).digit for found in handler.finish()] == [b"5"]
    assert list(handler.rest(BEGIN_NS + 9 * SECOND)) == []
    handler.close()


def test_an_event_without_an_end_is_told_after_a_second():
    handler = DtmfHandler(b"")
    arrive(handler, [event_packet(8000), event_packet(8000)])
    assert [decode(found).digit for found in handler.rest(BEGIN_NS + SILENCE_NS)] == [b"5"]


def test_a_flood_of_events_is_told_in_part_and_counted():
    handler = DtmfHandler(b"")
    flood = [one for number in range(1, 1001) for one in pressed(8000 * number)]
    assert len(arrive(handler, flood)) == MOST_AT_ONCE
    assert [decode(found) for found in handler.rest(BEGIN_NS)] == [1000 - MOST_AT_ONCE]
    assert list(handler.rest(BEGIN_NS)) == []
    later = [one for number in range(2000, 3000) for one in pressed(8000 * number)]
    assert len(arrive(handler, later, BEGIN_NS + SECOND)) == MOST_PER_SECOND


def test_the_fastest_fingers_are_told_for_ever():
    handler = DtmfHandler(b"")
    for number in range(1, 500):
        assert len(arrive(handler, pressed(640 * number), BEGIN_NS + number * 80_000_000)) == 1
