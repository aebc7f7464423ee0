"""When packets that come up contradict the entry of their port."""

import pytest

from rtpproxy.offload.contradictions import LONG_S, PACKETS, Changes, Contradictions

KEY, OTHER = 35000, 35002


class Scene:
    def __init__(self):
        self.forwarded = {KEY: 100, OTHER: 0}
        self.contradictions = Contradictions(self.forwarded.__getitem__)

    def come_up(self, count, start=0.0, key=KEY, interval_s=0.02):
        for number in range(count):
            self.contradictions.came_up(key, start + number * interval_s)

    def check(self, now):
        return self.contradictions.check(now)


@pytest.fixture
def scene():
    return Scene()


def test_packets_keep_coming_up_while_the_count_stands_still(scene):
    scene.come_up(50)
    assert scene.check(1.0) == Changes(began=(KEY,), packets=50)
    assert (KEY in scene.contradictions, list(scene.contradictions)) == (True, [KEY])
    scene.come_up(30, 1.0)
    assert scene.check(2.0) == Changes(packets=30)


def test_two_seconds_are_enough(scene):
    """Whenever it begins between two checks, at 50 packets a second."""
    for start in (0.01, 0.4, 0.6, 0.99):
        scene = Scene()
        for now in (1.0, 2.0):
            scene.come_up(round((now - max(start, now - 1)) / 0.02), max(start, now - 1))
            if scene.check(now).began:
                break
        assert KEY in scene.contradictions
        assert now - start <= 2.0


def test_count_that_moves(scene):
    scene.come_up(50)
    scene.forwarded[KEY] += 1
    assert scene.check(1.0) == Changes()
    assert KEY not in scene.contradictions


def test_packets_that_were_on_their_way(scene):
    """A burst right before a check, as when an entry was just installed."""
    scene.come_up(20, 1.0 - LONG_S / 2, interval_s=0.001)
    assert scene.check(1.0) == Changes()
    scene.forwarded[KEY] += 1
    assert scene.check(2.0) == Changes()


def test_few_packets_in_long_time(scene):
    """RTCP every five seconds."""
    for number in range(PACKETS - 1):
        scene.come_up(1, 5.0 * number)
        assert scene.check(5.0 * number + 1) == Changes()
    scene.come_up(1, 5.0 * PACKETS)
    assert scene.check(5.0 * PACKETS + 1).began == (KEY,)


def test_over_when_the_count_moves_again(scene):
    scene.come_up(50)
    scene.check(1.0)
    scene.check(2.0)
    assert KEY in scene.contradictions  # a stream that fell silent shows nothing
    scene.forwarded[KEY] += 1
    scene.come_up(3, 2.5)
    assert scene.check(3.0) == Changes(ended=(KEY,))
    assert (KEY in scene.contradictions, len(scene.contradictions)) == (False, 0)


def test_streams_are_apart(scene):
    scene.come_up(50)
    scene.come_up(50, key=OTHER)
    scene.forwarded[OTHER] = 1
    assert scene.check(1.0) == Changes(began=(KEY,), packets=50)


def test_entry_that_changed_begins_anew(scene):
    scene.come_up(50)
    assert not scene.contradictions.forget(KEY)
    assert scene.check(1.0) == Changes()
    scene.come_up(50, 1.0)
    scene.check(2.0)
    assert scene.contradictions.forget(KEY)
    assert scene.check(3.0) == Changes()
