"""When nothing is redirected any more to an interface whose driver refuses frames."""

from rtpproxy.offload.refusing import PAUSE_CHECKS, Refusing

INDEX, OTHER = 11, 12


def checked(refusing, *counts, queues=4):
    return [refusing.check(INDEX, count, lambda: queues) for count in counts]


def test_driver_that_goes_on_refusing():
    refusing = Refusing()
    assert checked(refusing, 0, 10, 20, 20) == [False, False, True, False]
    assert (INDEX in refusing, OTHER in refusing) == (True, False)


def test_driver_that_restarts_refuses_for_a_moment():
    refusing = Refusing()
    assert checked(refusing, 0, 10, 10, 20, 20) == [False] * 5
    assert INDEX not in refusing


def test_tried_again_after_a_while():
    refusing = Refusing()
    checked(refusing, 10, 20, *[20] * (PAUSE_CHECKS - 1))
    assert INDEX in refusing
    checked(refusing, 20)
    assert INDEX not in refusing
    assert checked(refusing, 30, 40) == [False, True]
    checked(refusing, *[40] * (2 * PAUSE_CHECKS - 1))
    assert INDEX in refusing
    checked(refusing, 40)
    assert INDEX not in refusing


def test_tried_again_when_the_queues_changed():
    refusing = Refusing()
    checked(refusing, 10, 20)
    assert checked(refusing, 20, queues=8) == [False]
    assert INDEX not in refusing


def test_queues_are_asked_for_only_where_they_matter():
    """The kernel may keep whoever asks waiting."""
    refusing, asked = Refusing(), []
    for count in (0, 10, 10, 20):
        refusing.check(INDEX, count, lambda: asked.append(4))
    assert asked == []
    refusing.check(INDEX, 30, lambda: asked.append(4))
    assert asked == [4]


def test_tried_again_at_once():
    refusing = Refusing()
    refusing.forget(INDEX)
    checked(refusing, 10, 20)
    refusing.forget(INDEX)
    assert INDEX not in refusing
    assert checked(refusing, 20) == [False]
