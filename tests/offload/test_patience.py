"""How often a program is attached again that somebody takes off."""

from rtpproxy.offload.patience import MEMORY_S, PAUSE_S, TRIES, Patience


def test_at_once_but_not_for_ever():
    patience = Patience()
    pauses = [patience.pause_s("here", 10.0 + time) for time in range(TRIES + 2)]
    assert pauses == [0.0] * TRIES + [PAUSE_S] * 2


def test_places_are_apart():
    patience = Patience()
    for _ in range(TRIES):
        patience.pause_s("here", 1.0)
    assert (patience.pause_s("there", 1.0), patience.pause_s("here", 1.0)) == (0.0, PAUSE_S)


def test_losses_of_long_ago_are_forgiven():
    patience = Patience()
    for _ in range(TRIES):
        patience.pause_s("here", 1.0)
    assert patience.pause_s("here", 1.0 + MEMORY_S) == 0.0


def test_place_that_is_gone():
    patience = Patience()
    for _ in range(TRIES):
        patience.pause_s("here", 1.0)
    patience.forget("here")
    patience.forget("there")
    assert patience.pause_s("here", 1.0) == 0.0
