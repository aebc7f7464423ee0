"""Run every test: on all processors at once, those that must run alone, and a gateway in a virtual machine.

    python -m tests.run [ARGUMENT...]

Arguments go to pytest, both times; with any, there is no virtual machine. The last line that is printed is `N passed, N
failed, N skipped`, all of them together. The exit status is 0 if nothing failed and something ran.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.workers import CACHE_VARIABLE

WORKERS = (os.cpu_count() or 1) + 1
"""One more than processors: tests wait a quarter of their time, for packets and timers."""
SIDE_BY_SIDE = ("-n", str(WORKERS), "--dist", "load")
ALONE = ("--alone",)
VIRTUAL_MACHINE = ("vm-test/run", "--kernel", "debian12", "--short")
NOT_RUN = 2
"""Its exit status where software is missing, or the processor is of another kind."""


OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}
"""What an element in a test case of JUnit's XML says of it."""


def run_part(options: tuple[str, ...], arguments: list[str], counts: Counter[str]) -> int:
    """Run pytest in a process of its own and add up what it counted; its exit status."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "counts")
        command = [sys.executable, "-m", "pytest", *options, "--counts", str(path), *arguments]
        status = subprocess.run(command, check=False).returncode
        if path.exists():
            counts.update(json.loads(path.read_text()))
    return status


def run_virtual_machine(counts: Counter[str]) -> int:
    """Send a few calls to a gateway with a stock kernel, in QEMU, and add up what was counted; the exit status.

    Not in pytest: it has namespaces of its own, and the image is built from packages that may have to be fetched.
    """
    with tempfile.TemporaryDirectory() as directory:
        status = subprocess.run([sys.executable, *VIRTUAL_MACHINE, "--report", directory], check=False).returncode
        report = Path(directory, "report.xml")
        if status == NOT_RUN:
            print("SKIPPED [1] vm-test: needs software: as said above")
            counts["skipped"] += 1
            return int(pytest.ExitCode.NO_TESTS_COLLECTED)
        for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
            counts[next((outcome for tag, outcome in OUTCOMES.items() if case.find(tag) is not None), "passed")] += 1
    return status


def main(arguments: list[str]) -> int:
    """Run all parts, also when one has failures; the exit status of the first that failed."""
    counts: Counter[str] = Counter()
    statuses = []
    with tempfile.TemporaryDirectory() as directory:
        os.environ[CACHE_VARIABLE] = directory
        for options in (SIDE_BY_SIDE, ALONE):
            statuses.append(run_part(options, arguments, counts))
            if statuses[-1] == pytest.ExitCode.INTERRUPTED:
                break
        else:
            if not arguments:
                statuses.append(run_virtual_machine(counts))
    print(f"{counts['passed']} passed, {counts['failed'] + counts['error']} failed, {counts['skipped']} skipped")
    ran = [status for status in statuses if status != pytest.ExitCode.NO_TESTS_COLLECTED]
    return next((status for status in ran if status), 0) if ran else int(pytest.ExitCode.NO_TESTS_COLLECTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
