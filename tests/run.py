"""Run every test: on all processors at once, then those that must run alone, and count both.

    python -m tests.run [ARGUMENT...]

Arguments go to pytest, both times. The last line that is printed is `N passed, N failed, N skipped`. The exit status
is 0 if nothing failed and something ran.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.workers import CACHE_VARIABLE

WORKERS = (os.cpu_count() or 1) + 1
"""One more than processors: tests wait a quarter of their time, for packets and timers."""
SIDE_BY_SIDE = ("-n", str(WORKERS), "--dist", "load")
ALONE = ("--alone",)


def run_part(options: tuple[str, ...], arguments: list[str], counts: Counter[str]) -> int:
    """Run pytest in a process of its own and add up what it counted; its exit status."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "counts")
        command = [sys.executable, "-m", "pytest", *options, "--counts", str(path), *arguments]
        status = subprocess.run(command, check=False).returncode
        if path.exists():
            counts.update(json.loads(path.read_text()))
    return status


def main(arguments: list[str]) -> int:
    """Run both parts, also when the first has failures; the exit status of the first that failed."""
    counts: Counter[str] = Counter()
    statuses = []
    with tempfile.TemporaryDirectory() as directory:
        os.environ[CACHE_VARIABLE] = directory
        for options in (SIDE_BY_SIDE, ALONE):
            statuses.append(run_part(options, arguments, counts))
            if statuses[-1] == pytest.ExitCode.INTERRUPTED:
                break
    print(f"{counts['passed']} passed, {counts['failed'] + counts['error']} failed, {counts['skipped']} skipped")
    ran = [status for status in statuses if status != pytest.ExitCode.NO_TESTS_COLLECTED]
    return next((status for status in ran if status), 0) if ran else int(pytest.ExitCode.NO_TESTS_COLLECTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
