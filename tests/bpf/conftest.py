"""Rows of the port table for one test."""

import contextlib

import pytest

from rtpproxy.offload.tables import Tables
from tests.bpf.data_plane import DataPlane
from tests.conftest import FIRST_PORT, LAST_PORT, load_programs


@pytest.fixture(scope="session")
def unlimited():
    """The programs without limits on equal packets in quick succession, which look as if they were in a loop."""
    limits = dict.fromkeys(("REPEATS_PER_SECOND", "UNNUMBERED_PER_SECOND", "RTCP_PER_SECOND"), "0xffffffff")
    with contextlib.closing(load_programs(**limits)) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def unlimited_tables(unlimited):
    """Their maps."""
    with contextlib.closing(Tables(unlimited, FIRST_PORT, LAST_PORT)) as tables:
        yield tables


@pytest.fixture
def plane(loaded, tables):
    """The loaded XDP program, and ports of this test's own."""
    with DataPlane(loaded, tables) as plane:
        yield plane
