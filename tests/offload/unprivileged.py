"""Running a command without root's powers."""

import functools
import shutil
import subprocess
import sys

import pytest

NOBODY = 65534


@functools.cache
def _missing() -> str:
    if shutil.which("setpriv") is None:
        return "needs software: setpriv"
    command = [*_prefix((), NOBODY), sys.executable, "-P", "-c", "import rtpproxy"]
    probe = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"needs software: what every user may read ({probe.stderr.strip()})" if probe.returncode else ""


def _prefix(capabilities: tuple[str, ...], uid: int) -> list[str]:
    # To read the checkout, wherever it is; root's home is closed to others.
    listed = "".join(f",+{name}" for name in ("dac_read_search", *capabilities))
    sets = [f"--{kind}=-all{listed}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *sets]


def with_capabilities(*names: str, uid: int = NOBODY) -> list[str]:
    """What to put before a command so that it runs with these capabilities only; skips where that cannot be had."""
    if _missing():
        pytest.skip(_missing())
    return _prefix(names, uid)
