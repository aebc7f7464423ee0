"""How often a program is attached again that somebody takes off, or that could not be attached."""

from rtpproxy.offload.patience import FIRST_PAUSE_S, MEMORY_S, PAUSE_S, TRIES, Patience, Retries


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


# What failed in passing


def tries(retries, places, *, start, end):
    """The seconds at which a try is due; each one fails."""
    return [now for now in range(start, end) if retries.due(places, float(now))]


def test_failed_tries_come_more_and_more_rarely():
    first = round(FIRST_PAUSE_S)
    expected, pause_s = [], first
    while sum(expected[-1:]) + pause_s < 3600:
        expected.append(sum(expected[-1:]) + pause_s)
        pause_s = min(2 * pause_s, round(PAUSE_S))
    assert tries(Retries(), ["here"], start=0, end=3600) == expected
    assert expected[:3] == [first, 3 * first, 7 * first]
    assert expected[-1] - expected[-2] == PAUSE_S


def test_each_place_has_its_own_time():
    retries = Retries()
    assert retries.due(["here"], 0.0) == []
    assert retries.due(["here", "there"], FIRST_PAUSE_S) == ["here"]
    assert retries.due(["here", "there"], 2 * FIRST_PAUSE_S) == ["there"]


def test_place_where_a_try_succeeded_begins_anew():
    retries = Retries()
    for now in range(600):
        retries.due(["here"], float(now))
    assert retries.due([], 600.0) == []
    assert retries.due(["here"], 700.0) == []
    assert retries.due(["here"], 700.0 + FIRST_PAUSE_S) == ["here"]
