"""The stages that attacks are played on: every latching mode, and every way to own ports and to forward."""

import pytest

pytest.register_assert_rewrite(*(f"tests.hostile.{name}" for name in ("model", "played", "soaking", "stage")))

from tests.hostile.stage import STAGES, stage_name, staged  # noqa: E402 - its assertions show their values, too


@pytest.fixture(scope="session", params=STAGES, ids=stage_name)
def stage(request, tmp_path_factory):
    """One at a time: tests are sorted by it, so that a relay starts only once for each."""
    latching, way = request.param
    with staged(tmp_path_factory.mktemp("stage"), way, latching) as stage:
        yield stage
