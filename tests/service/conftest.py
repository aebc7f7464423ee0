"""Sessions for tests to start from."""

import pytest

from tests.scenario import Scenario, start_talking


@pytest.fixture
def play():
    return Scenario()


@pytest.fixture
def talk():
    """A call in which both parties have sent a packet from their signalled endpoints."""
    play = Scenario()
    play.call()
    start_talking(play)
    return play
