"""A directory of notes for each test, and relays that keep theirs there."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.notes.relays import keeping

NOBODY = 65534


@pytest.fixture
def public():
    """A directory of ours that anybody may look into; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="rtpproxy-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def path(public):
    """Where the notes of the test are."""
    return public / "notes"


@pytest.fixture
def keep(path):
    """Makes the notes of further relays."""
    with keeping(path) as make:
        yield make


@contextlib.contextmanager
def as_nobody():
    """Do what an ordinary user can do."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
