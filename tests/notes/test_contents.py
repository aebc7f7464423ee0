"""What notes say, whoever wrote into them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.notes import contents
from rtpproxy.notes.contents import Claim, Contents, Place, parse

PLACE = Place("0b7d2a52-6a5e-4d2b-9f0e-3d6f6f1f3a10", "cookie0100000000000000")
HEAD = contents.head_line(1234, PLACE)
claims = st.builds(
    Claim,
    st.sampled_from(["*", "::", "192.0.2.1", "fd00::1"]),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.booleans(),
)


def note(*lines):
    return "".join(f"{line}\n" for line in (HEAD, *lines))


def test_head():
    assert parse(note()) == Contents(1234, PLACE)


@given(st.lists(claims, max_size=5), st.frozensets(st.integers(1, 2**31 - 1), min_size=1, max_size=5))
def test_what_is_written_is_read(some, programs):
    sockets = contents.socket_line((5, 6, 7)), contents.socket_line((8, 9, 2**63))
    text = note(
        *map(contents.claim_line, some), contents.programs_line(programs), contents.reserved_line("1-2,5-7"), *sockets
    )
    assert parse(text) == Contents(
        1234, PLACE, {one.host: one for one in some}, "1-2,5-7", programs, {(5, 6, 7), (8, 9, 2**63)}
    )


def test_later_lines_take_precedence():
    claim = Claim("*", 1, 2, True)
    text = note(
        *(contents.claim_line(claim), contents.claim_line(Claim("::", 1, 2, False)), contents.unclaim_line("::")),
        *(contents.reserved_line("1-2"), contents.reserved_line("")),
        *(contents.programs_line(frozenset({7})), contents.programs_line(frozenset({8, 9}))),
    )
    assert parse(text) == Contents(1234, PLACE, {"*": claim}, "", frozenset({8, 9}))


@pytest.mark.parametrize(
    "text",
    ["", "\n", "garbage", "garbage\n", HEAD, f"x{HEAD}\n", f"\n{HEAD}\n", "relay x boot=1 namespace=2\n", "\0" * 99],
)
def test_what_does_not_begin_as_a_note_is_none(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    "line",
    [
        *("", "garbage", "\0", "claim", "claim * 1-2", "claim * 1-2 steered now", "claim x 1-2 bound"),
        *(
            "claim * 350000-359999 steered",
            "unclaim",
            "reserved a-b",
            "reserved 1-2;3",
            "reserved -",
            "reserved 1-2,",
            f"reserved {'1-11' * 5000}x",
            "program",
        ),
        *("programs x", "programs -1", f"programs {'9' * 11}", f"programs{' 1' * 65}", "a later version's 1 2 3"),
    ],
)
def test_lines_that_make_no_sense_are_passed_over(line):
    kept = contents.programs_line(frozenset({7}))
    assert parse(note(line, kept, line)) == Contents(1234, PLACE, programs=frozenset({7}))


def test_line_that_was_not_finished_does_not_count():
    assert parse(note() + "programs 41 4") == Contents(1234, PLACE)


@given(st.text(alphabet=st.sampled_from("relayclmuspogv 0123456789-.,:=*\n\0\ufffd")))
def test_nothing_that_a_note_may_hold_raises_an_error(garbage):
    parse(garbage)
    found = parse(note() + garbage)
    assert found is not None
    assert found.place == PLACE
