"""Rows of the port table for one test."""

import pytest

from tests.bpf.data_plane import DataPlane


@pytest.fixture
def plane(loaded, tables):
    """The loaded XDP program, and ports of this test's own."""
    with DataPlane(loaded, tables) as plane:
        yield plane
