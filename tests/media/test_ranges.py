"""Lists of port ranges."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.media.ranges import format_ranges, merge, parse_ranges, subtract


def ports_of(ranges):
    return {port for low, high in ranges for port in range(low, high + 1)}


ranges = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n", []),
        ("", []),
        ("1000\n", [(1000, 1000)]),
        ("1000,2000-2010\n", [(1000, 1000), (2000, 2010)]),
        ("1-65535", [(1, 65535)]),
    ],
)
def test_reads_the_kernels_form(text, expected):
    assert parse_ranges(text) == expected


@given(ranges)
def test_what_is_written_is_read(some):
    assert parse_ranges(format_ranges(some)) == some


@given(ranges)
def test_merged_ranges_are_the_same_ports_apart_from_each_other(some):
    merged = merge(some)
    assert ports_of(merged) == ports_of(some)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(merged))
    assert merge(merged) == merged


@given(ranges, ranges)
def test_subtracting_leaves_the_other_ports(some, taken):
    left = subtract(some, taken)
    assert ports_of(left) == ports_of(some) - ports_of(taken)
    assert merge(left) == left


@given(ranges, ranges)
def test_undoing_what_was_added_restores_the_list(before, ours):
    added = subtract(ours, before)
    assert subtract(merge(before + added), added) == merge(before)
