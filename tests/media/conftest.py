"""Notes of relays, in a directory of the test."""

import pytest

from tests.notes.relays import keeping


@pytest.fixture
def keep(tmp_path):
    """Makes the notes of further relays."""
    with keeping(tmp_path / "notes") as make:
        yield make
