"""The terminal, for a shell after the tests (`vm-test/run --keep`)."""

import os
import pty
import subprocess
import sys

from tests.waiting import DEADLINE_S

PROBE = """
import os
import sys

import pytest
from lab.shell import uncaptured


@pytest.fixture
def machine(request):
    yield
    with uncaptured(request.config.pluginmanager.getplugin("capturemanager")):
        assert os.isatty(sys.stdin.fileno())
        print("seen at once", flush=True)


def test_of_a_machine(machine):
    print("kept back")
"""


def test_pytest_gives_the_terminal_back(tmp_path):
    """It keeps standard input from its tests, also while it lets their output through."""
    (tmp_path / "test_probe.py").write_text(PROBE)
    ours, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert done.returncode == 0, done.stdout
    assert "seen at once" in done.stdout
    assert "kept back" not in done.stdout
