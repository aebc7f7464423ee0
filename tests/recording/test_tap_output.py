"""A tap: which packets are looked at, what is told, and what is counted."""

import pytest

from rtpproxy.recording.messages import Noticed, OpenTap, Sent
from rtpproxy.recording.tap_output import TapOutput
from tests.recording.dtmf_packets import event_packet
from tests.recording.packets import packet


class Handler:
    """Tells of every packet that it gets, and of each second and the end."""

    def __init__(self):
        self.is_closed = False

    def packet(self, packet, wall_ns):
        return [packet.payload, b"%d" % wall_ns]

    def rest(self, now_ns):
        return [b"at %d" % now_ns]

    def finish(self):
        return [b"end"]

    def close(self):
        self.is_closed = True


class Stage:
    def __init__(self, payload_type=None, **about):
        self.told = []
        self.handler = Handler()
        self.tap = TapOutput(OpenTap(3, "kind", payload_type=payload_type, **about), self.handler, self.told.append)

    def take(self, *payloads):
        for payload in payloads:
            self.tap.take(packet(0)._replace(payload=payload), 12)

    @property
    def found(self):
        assert all(isinstance(one, Noticed) and one.output == 3 for one in self.told)
        return [one.found for one in self.told]


def test_all_packets_are_looked_at():
    stage = Stage()
    stage.take(b"", b"anything")
    assert stage.found == [b"", b"12", b"anything", b"12"]


@pytest.mark.parametrize("wanted", [0, 101])
def test_packets_of_one_payload_type(wanted):
    """Others are counted as well: they come where somebody else wants them."""
    stage = Stage(wanted)
    sent = [event_packet(1, payload_type=kind) for kind in (0, 101, 0x80 | 101, 8)]
    stage.take(*sent, b"short", b"\x80\xc9" + bytes(10))
    assert stage.found[::2] == [one for one in sent if one[1] & 0x7F == wanted]
    assert stage.tap.packets == 6


def test_time_goes_on_and_ends():
    stage = Stage()
    stage.tap.flush(5)
    stage.tap.finish(7)
    stage.tap.close()
    assert stage.found == [b"at 5", b"end"]
    assert stage.handler.is_closed


def test_what_a_dead_process_lost_is_counted():
    stage = Stage(given=4, packets=5, teed=9, tees=(1,))
    stage.tap.begin(unread=2)
    assert (stage.tap.lost, stage.tap.teed) == (6, 7)
    stage.take(b"")
    stage.tap.miss(3)
    assert stage.tap.lost == 9
    assert stage.tap.progress() == Sent(3, 6, 0)
    assert stage.tap.progress() is None
