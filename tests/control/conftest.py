"""The event loops that control sockets must work on, and a fake that answers commands."""

import pytest

from tests.control.serving import LOOP_FACTORIES, Echo, LoopFactory


@pytest.fixture(params=LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    return request.param


@pytest.fixture
def echo() -> Echo:
    return Echo()
