"""Matching of sessions by call-id and tags (protocol.md 4.2)."""

import pytest

from rtpproxy.session.table import SessionTable
from tests.fakes import make_session


def table(*tags, call_id=b"call"):
    made = SessionTable()
    sessions = [make_session(call_id, tag) for tag in tags]
    for session in sessions:
        made.add(session)
    return made, sessions


@pytest.mark.parametrize(
    ("session_tag", "from_tag", "to_tag", "expected"),
    [
        (b"f", b"f", None, False),
        (b"f", b"f", b"t", False),
        (b"f", b"f", b"f", False),
        (b"f", b"t", b"f", True),
        (b"f", b"t", b"", None),
        (b"f", b"t", None, None),
        (b"f", b"F", None, None),
        (b"f;1", b"f", b"t", None),
        (b"f;1", b"f;1", b"t;1", False),
        (b"f;1", b"t;1", b"f;1", True),
        (b"f;1", b"t;1", b"f", True),
        (b"f;1", b"t;2", b"f", None),
        (b"f;1", b"t", b"f", None),
        (b"f;x;1", b"t;1", b"f;x", True),
        (b"f;x;1", b"t;x;1", b"f", True),
        (b"f;x;1", b"t;1", b"f", True),
        (b"f;x;1", b"t;x", b"f", None),
        (b"f;x;1", b"t;1", b"x", None),
        (b"f;x;1", b"t;1", b"", None),
        (b"f;x;1", b"1", b"f", None),
        (b"f", b"f;1", b"t", None),
        (b"f;", b"t;", b"f", True),
    ],
)
def test_exact_match(session_tag, from_tag, to_tag, expected):
    sessions, (session,) = table(session_tag)
    assert sessions.find(b"call", from_tag, to_tag) == (None if expected is None else (session, expected))


def test_the_first_session_that_matches_either_way_wins():
    sessions, (first, second) = table(b"a", b"b")
    assert sessions.find(b"call", b"b", b"a") == (first, True)
    assert sessions.find(b"call", b"b", None) == (second, False)


def test_call_ids_are_compared_exactly():
    sessions, _ = table(b"f")
    assert sessions.find(b"call;1", b"f", None) is None
    assert sessions.find_all(b"cal", b"f", None) == []


@pytest.mark.parametrize(
    ("from_tag", "to_tag", "expected"),
    [
        (b"f", b"t", [(0, False), (1, False)]),
        (b"f;2", None, [(1, False)]),
        (b"zz", b"f", [(0, True), (1, True)]),
        (b"f;2", b"f", [(0, True), (1, False)]),
        (b"g", b"f;1", [(0, True), (2, False)]),
        (b"f;", None, []),
        (b"", None, []),
        (b"ff", b"zz", [(3, False)]),
    ],
)
def test_prefix_match(from_tag, to_tag, expected):
    sessions, made = table(b"f;1", b"f;2", b"g", b"ff")
    assert sessions.find_all(b"call", from_tag, to_tag) == [(made[index], way) for index, way in expected]


def test_removal_leaves_the_others():
    sessions, (a, b, c) = table(b"a", b"b", b"c")
    sessions.remove(b)
    assert (len(sessions), list(sessions)) == (2, [a, c])
    assert sessions.find(b"call", b"b", None) is None
    sessions.remove(a)
    assert sessions.find(b"call", b"c", None) == (c, False)
    sessions.remove(c)
    assert (len(sessions), sessions.find(b"call", b"c", None)) == (0, None)


def test_removal_of_a_stranger_is_refused():
    sessions, (known,) = table(b"a")
    with pytest.raises(KeyError):
        sessions.remove(make_session(b"call", b"a"))
    sessions.remove(known)
    with pytest.raises(KeyError):
        sessions.remove(known)


def test_iteration_is_in_order_of_creation_and_survives_removal():
    sessions = SessionTable()
    made = [make_session(call_id, b"f") for call_id in (b"1", b"2", b"1", b"3", b"2")]
    for session in made:
        sessions.add(session)
    assert list(sessions) == made
    for session in sessions:
        sessions.remove(session)
    assert (len(sessions), list(sessions)) == (0, [])
