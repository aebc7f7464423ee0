"""The measurement of the idle check, with a few calls."""

from dataclasses import replace

import pytest

from tests.bench.plan import QUICK
from tests.bench.resources import measure_idle_check


@pytest.mark.root
@pytest.mark.kernel
def test_idle_check_goes_over_all_streams():
    measured = measure_idle_check(replace(QUICK, held_calls=3))
    assert measured["streams"] == 12
    assert 0 <= measured["median_ms"] <= measured["worst_ms"]
