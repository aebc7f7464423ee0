"""The XDP program of a running daemon can be walked over its rows, and forwards every packet of the walk."""

from dataclasses import replace

import pytest

from tests.bench.plan import QUICK
from tests.bench.walk import measure_walks
from tests.running import PROGRAM

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.alone("takes a core for generator and program, and pins the relay to another"),
]


def test_walks_over_each_number_of_rows():
    """A packet that the program doesn't forward raises."""
    results = measure_walks(replace(QUICK, rows=(1, 3), walks=2), {"now": PROGRAM})
    assert [(result["relay"], result["rows"]) for result in results] == [("now", 1), ("now", 3)]
    assert all(result["walking_ns"] > 0 for result in results)
